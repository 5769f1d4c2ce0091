"""Hearing, spectra: what chapter 16 does not show about itself."""
import math
import warnings

import numpy as np
import pytest
import torch
from omr.core import InputError
from omr.listening.spectra import CQT, CQTStream, HarmonicCQT, cqt, plan, frequencies, quality

RATE = 16000


def sound(seconds=3., seed=0, rate=RATE):
    "Tones that begin and end suddenly, over a little noise."
    r, t = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    out = 0.001 * r.standard_normal(len(t))
    for f in 27.5 * 2 ** r.uniform(0, 7, 12):
        begin, end = np.sort(r.uniform(0, seconds, 2))
        out += 0.1 * np.sin(2 * np.pi * f * t) * (t >= begin) * (t < end)
    return out.astype(np.float32)


SETTINGS = {"piano": {}, "semitones": dict(bins=88, bins_per_octave=12), "odd hop": dict(hop=441, bins=36, bins_per_octave=12, fmin=220.),
            "below 500 Hz": dict(bins=200, hop=1024),
            "thirds of a semitone": dict(bins=90, bins_per_octave=36, fmin=65.4),
            "whole kernels": dict(sparsity=0.)}


@pytest.mark.parametrize("name", SETTINGS)
def test_equals_librosa(name):
    import librosa

    s = dict(hop=320, fmin=27.5, bins=352, bins_per_octave=48, sparsity=0.01) | SETTINGS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named = dict(hop_length=s["hop"], fmin=s["fmin"], n_bins=s["bins"], bins_per_octave=s["bins_per_octave"], sparsity=s["sparsity"])
        theirs = np.abs(librosa.cqt(sound(), sr=RATE, **named)).T
    ours = CQT(RATE, **s)(torch.from_numpy(sound())).numpy()
    assert ours.shape == theirs.shape
    heard = theirs > theirs.max() / 1000
    assert (np.abs(ours - theirs)[heard] / theirs[heard]).max() < 0.01


@pytest.mark.parametrize("n", [1, 2, 319, 320, 321, 480, 5000])
def test_short_sounds(n):
    out = cqt(torch.ones(n), bins=88, bins_per_octave=12)
    assert out.shape == (1 + n // 320, 88) and torch.isfinite(out).all()


def test_batches_of_any_shape():
    x = torch.from_numpy(np.stack([sound(seed=i) for i in range(4)])).view(2, 2, -1)
    transform = CQT(bins=88, bins_per_octave=12)
    out = transform(x)
    assert out.shape[:2] == (2, 2)
    torch.testing.assert_close(out[1, 0], transform(x[1, 0]), atol=1e-4, rtol=1e-4)
    stack = HarmonicCQT((0.5, 1, 2, 3), bins=72)(x)
    assert stack.shape == (2, 2, 4, out.shape[2], 72)


@pytest.mark.parametrize("pieces", [(1,), (160, 0, 3000), (7, 319, 12001)])
def test_stream_equals_whole(pieces):
    x, transform = torch.from_numpy(sound(1. if pieces == (1,) else 4.)), CQT(bins=88, bins_per_octave=12)
    if pieces == (1,): x = x[:900]
    stream, out, i, k = CQTStream(transform), [], 0, 0
    while i < len(x):
        out.append(stream.push(x[i:i + pieces[k % len(pieces)]]))
        i, k = i + pieces[k % len(pieces)], k + 1
    out = torch.cat([*out, stream.finish()])
    whole = transform(x)
    assert out.shape == whole.shape
    assert (out - whole).abs().max() < 1e-4 * whole.max()


def test_stream_gives_frames_in_time():
    transform = CQT(bins=88, bins_per_octave=12)
    stream = CQTStream(transform, delay=0.1)
    assert stream.latency == 0.1
    given = sum(len(stream.push(torch.zeros(320))) for _ in range(100))
    assert given == (32000 - 1600) // 320 + 1
    assert len(stream.waiting) <= 2 * transform.reach + 320
    assert len(CQTStream(transform).finish()) == 0


def test_zero_above_nyquist():
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(RATE).astype(np.float32))
    transform = CQT(bins=400)
    out = transform(x)
    top = frequencies(bins=400) * (1 + 0.75009 / quality(48)) > RATE / 2
    assert top.any() and not out[:, top].any() and (out[:, ~top].amax(0) > 0).all()
    assert not HarmonicCQT((400,))(x).any()


def test_bins_up_to_nyquist_are_whole():
    "Where the rate is halved too early, an octave has a dark stripe below its top."
    t = torch.arange(2 * RATE) / RATE
    transform = CQT(bins=96, bins_per_octave=12, fmin=31.)
    for k in (70, 80, 83, 84, 94, 95):
        f = 31 * 2 ** (k / 12)
        out = transform(torch.sin(2 * math.pi * f * t))[50, k]
        assert out == pytest.approx(math.sqrt(quality(12) * RATE / f) / 2, rel=0.02)


def test_plan_covers_all_bins():
    for bins in (1, 11, 12, 13, 88):
        assert sum(len(o) for _, o in plan(frequencies(bins=bins, bins_per_octave=12), RATE, 320, 12, quality(12))) == bins


def test_half_precision_does_not_touch_it():
    x, transform = torch.from_numpy(sound(1.)), CQT(bins=88, bins_per_octave=12)
    with torch.autocast("cpu", torch.bfloat16): assert torch.equal(transform(x), transform(x).float())
    torch.testing.assert_close(transform(x.double()), transform(x))


@pytest.mark.parametrize("x", [torch.zeros(0), torch.tensor([math.inf]), torch.tensor([math.nan, 0]), torch.zeros(9, dtype=torch.int32), torch.tensor(1.)])
def test_bad_sound(x):
    with pytest.raises(InputError) as e: cqt(x)
    assert "\n" not in str(e.value)


WRONG = dict(hop=0, fmin=math.nan, bins=-1, bins_per_octave=0, sparsity=-0.1, block=0, rate=math.inf)


@pytest.mark.parametrize("settings", [dict(hop=1.5), *({k: v} for k, v in WRONG.items())])
def test_bad_settings(settings):
    with pytest.raises(InputError): CQT(**settings)
