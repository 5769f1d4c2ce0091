"Properties of the game that matchers are measured by."
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omr.core import InputError
from omr.matching.encoders import TwoTowers
from omr.matching.retrieval import evaluate_matcher, figures_of, places_of, unweighted, with_intervals


def unit(seed, n, dim=8):
    v = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6))
def test_places_are_those_of_sorting_and_twins_never_hurt(seed, n, groups):
    asked, pool = unit(seed, n), unit(seed + 1, n)
    order = np.argsort(-(asked @ pool.T), axis=1)
    assert (places_of(asked, pool) == 1 + np.argmax(order == np.arange(n)[:, None], 1)).all()
    group = np.random.default_rng(seed).integers(groups, size=n)
    credited = places_of(asked, pool, group)
    assert (credited <= places_of(asked, pool)).all() and (credited >= 1).all()
    assert (credited <= n - np.bincount(group)[group] + 1).all()  # twins are not in each other's way


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=200))
def test_figures_are_within_their_intervals(places):
    places = np.array(places)
    found = with_intervals(places, np.arange(len(places)) % 7, repeats=50)
    assert found["r1"] <= found["r5"] <= found["r10"] <= found["r25"]
    assert found["r1"] <= found["mrr"] <= 1
    if len(places) > 1:
        for k in figures_of(places): assert found[f"{k}_low"] <= found[f"{k}_high"]


def test_one_piece_has_no_interval():
    assert set(with_intervals(np.array([1, 2]), np.zeros(2))) == set(figures_of(np.array([1])))
    with pytest.raises(InputError, match="no question"): figures_of(np.zeros(0))


def test_a_large_pool_is_compared_in_parts():
    asked, pool = unit(0, 1201), unit(1, 1201)
    places = places_of(asked, pool)
    for i in (0, 499, 500, 1200):
        near = (pool.astype(float) @ asked[i])
        assert places[i] == 1 + (near > near[i] + 1e-6).sum()


def test_attention_is_taken_out_of_a_copy_only():
    torch.manual_seed(0)
    model = TwoTowers(width=2, latent=4, attention=True).eval()
    x = torch.rand(2, 1, 92, 42)
    before = model.audio(x)
    plain = unweighted(model)
    assert model.attention is not None and torch.equal(model.audio(x), before)
    assert not torch.equal(plain.audio(x), before)


def test_what_is_no_set_has_a_line(tmp_path):
    torch.manual_seed(0)
    model = TwoTowers(width=2, latent=4)
    with pytest.raises(InputError, match="no set of pairs"): evaluate_matcher(model, [str(tmp_path)])
    with pytest.raises(InputError, match="nothing to measure on"): evaluate_matcher(model)
    with pytest.raises(InputError, match="no description|config"): evaluate_matcher(str(tmp_path), [str(tmp_path)])
