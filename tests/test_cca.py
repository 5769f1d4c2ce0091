"""Canonical correlation: equal to scikit-learn's, gradients by finite differences, poor batches, the frozen projection."""
import time

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA as SklearnCCA
from torch.nn import functional as F

from omr.core import InputError
from omr.matching.cca import CCALayer, SafeSVD, covariances, directions, fit_cca


def two_views(n, dims, seed=0, shared=3):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, shared)) * (3, 2, 1)
    return [hidden @ rng.normal(size=(shared, d)) + rng.normal(size=(n, d)) + rng.normal(size=d) for d in dims]


def cosines(x, y, dims=None):
    a, b = CCALayer(x.shape[1]).double()(x, y)
    return F.normalize(a[:, :dims]) @ F.normalize(b[:, :dims]).mT


@pytest.mark.parametrize("dims", [(4, 4), (3, 6), (7, 3), (2, 2), (1, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_scikit_learn(dims, seed):
    x, y = two_views(400, dims, seed)
    k = min(dims)
    found, other = fit_cca(x, y, k, regularisation=0), SklearnCCA(k, scale=False, max_iter=50_000, tol=1e-14).fit(x, y)
    theirs = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(*(o.T for o in other.transform(x, y)))])
    assert np.allclose(found.correlations.numpy(), theirs, atol=1e-4)
    for ours, name in ((found.u, "x_rotations_"), (found.v, "y_rotations_")):
        assert F.cosine_similarity(ours, torch.as_tensor(getattr(other, name)), dim=0).abs()[0].item() == pytest.approx(1, abs=1e-4)


def test_variates_are_uncorrelated_and_paired():
    x, y = two_views(1000, (6, 5))
    found = fit_cca(x, y, regularisation=0)
    a, b = found(x, y)
    both = np.corrcoef(np.hstack([a.numpy(), b.numpy()]).T)
    assert np.allclose(both[:5, :5], np.eye(5), atol=1e-9) and np.allclose(both[5:, 5:], np.eye(5), atol=1e-9)
    assert np.allclose(both[:5, 5:], np.diag(found.correlations.numpy()), atol=1e-9)


@pytest.mark.parametrize("samples, dim", [(12, 4), (5, 5), (30, 3)])
def test_gradients_in_double_precision(samples, dim):
    g = torch.Generator().manual_seed(samples)
    batch = [torch.randn(samples, dim, dtype=torch.double, generator=g).requires_grad_() for _ in range(2)]
    assert torch.autograd.gradcheck(cosines, batch)


def test_the_gradient_equals_that_of_torch_where_both_exist():
    a = torch.randn(5, 5, dtype=torch.double, generator=torch.Generator().manual_seed(3)).requires_grad_()
    w = torch.randn(5, 5, dtype=torch.double, generator=torch.Generator().manual_seed(4))
    def value(e, s, f): return ((e @ torch.diag(s.square()) @ f.mT) * w).sum()
    (ours,) = torch.autograd.grad(value(*SafeSVD.apply(a, 1e-14)), a)
    e, s, ft = torch.linalg.svd(a)
    (theirs,) = torch.autograd.grad(value(e, s, ft.mT), a)
    assert torch.allclose(ours, theirs, atol=1e-8)


def poor(name, dim=32):
    x, y = (torch.randn(100, dim, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    if name == "few": return x[:10], y[:10]
    if name == "two": return x[:2], y[:2]
    if name == "constant": return torch.cat([x[:, :31], torch.full((100, 1), 3.0)], 1), y
    if name == "doubled": return torch.cat([x[:, :16], x[:, :16]], 1), y
    if name == "alike": return x[:1].expand(100, -1), y[:1].expand(100, -1)
    if name == "zero": return torch.zeros(100, dim), torch.zeros(100, dim)
    if name == "same": return x, x.clone()
    if name == "tied": return torch.eye(dim).repeat(4, 1), torch.eye(dim).repeat(4, 1)
    if name == "huge": return 1e6 * x, 1e-6 * y
    return torch.cat([1e4 * x[:, :16], 1e-4 * x[:, 16:]], 1), y


@pytest.mark.parametrize("name", ["few", "two", "constant", "doubled", "alike", "zero", "same", "tied", "huge", "scales"])
def test_poor_batches_stay_finite(name):
    x, y = (o.clone().requires_grad_() for o in poor(name))
    layer = CCALayer()
    a, b = layer(x, y)
    (F.normalize(a) @ F.normalize(b).mT * torch.randn(len(x), len(x), generator=torch.Generator().manual_seed(5))).sum().backward()
    assert all(o.isfinite().all() for o in (a, b, x.grad, y.grad, layer.u, layer.v))


def test_frozen_in_use():
    x, y = (torch.as_tensor(o, dtype=torch.float32) for o in two_views(300, (8, 8)))
    layer = CCALayer(8)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    layer(x, y)
    assert any(not torch.equal(before[k], v) for k, v in layer.state_dict().items())
    layer.eval()
    frozen = {k: v.clone() for k, v in layer.state_dict().items()}
    together = layer(x, y)
    assert all(torch.equal(frozen[k], v) for k, v in layer.state_dict().items())
    assert torch.allclose(layer.x(x[:1]), together[0][:1], atol=1e-6) and torch.allclose(layer.y(y[5:7]), together[1][5:7], atol=1e-6)


def test_refining_is_the_analysis_of_all():
    x, y = two_views(5000, (8, 8))
    layer, whole = CCALayer(8), fit_cca(x, y)
    correlations = layer.refine(torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32))
    assert np.allclose(correlations.numpy(), whole.correlations.numpy(), atol=1e-4)
    assert torch.allclose(layer.u.abs(), whole.u.abs().float(), rtol=1e-2, atol=1e-3)


def test_one_svd_pairs_tied_directions():
    turn = [torch.linalg.qr(torch.randn(6, 6, dtype=torch.double, generator=torch.Generator().manual_seed(i)))[0] for i in (0, 1)]
    s = torch.tensor([.9, .9, .5, .5, .5, .1], dtype=torch.double)
    cross = turn[0] * s @ turn[1].mT
    u, v, found = directions(torch.eye(6, dtype=torch.double), torch.eye(6, dtype=torch.double), cross, 0)
    assert torch.allclose(u.mT @ cross @ v, torch.diag(s), atol=1e-9) and torch.allclose(found, s)


def test_refining_25_000_pairs_does_not_take_long():
    x, y = (torch.randn(25_000, 32, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    started = time.process_time()
    CCALayer().refine(x, y)
    assert time.process_time() - started < 60  # it takes a part of a second; this only finds what grows with the square of the pairs


@pytest.mark.parametrize("x, y, words", [((3, 2), (4, 2), "shapes"), ((1, 2), (1, 2), "two pairs"), ((5, 2, 1), (5, 2), "shapes")])
def test_no_pairs(x, y, words):
    with pytest.raises(InputError, match=words): covariances(torch.zeros(x), torch.zeros(y))


def test_refusals():
    x, y = two_views(50, (3, 3))
    with pytest.raises(InputError, match="not finite"): fit_cca(x * np.inf, y)
    with pytest.raises(InputError, match="k = 4"): fit_cca(x, y, 4)
    with pytest.raises(InputError, match="regularisation"): fit_cca(x, y, 2, -1)
    with pytest.raises(InputError, match="dim = 0"): CCALayer(0)
