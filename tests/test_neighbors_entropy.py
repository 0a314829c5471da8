import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma, gammaln

from collapse_nb.data import Images, load_images
from collapse_nb.entropy import count_copies, kl_entropy, zero_floor
from collapse_nb.neighbors import nearest


def brute(query, reference, k, exclude_self):
    "One pair at a time, Python integers or float64."
    distances, indices = [], []
    for i, q in enumerate(np.asarray(query).tolist()):
        row = [(sum((a - b) ** 2 for a, b in zip(q, r)), j) for j, r in enumerate(np.asarray(reference).tolist()) if not (exclude_self and i == j)]
        row.sort()
        distances.append([math.sqrt(d) for d, _ in row[:k]]); indices.append([j for _, j in row[:k]])
    return np.array(distances), np.array(indices)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 25), st.integers(1, 6), st.integers(1, 4), st.booleans(), st.sampled_from(["uint8", "small", "int64"]))
def test_integers_agree_with_brute_force_to_the_bit(seed, n, d, k, exclude_self, kind):
    rng = np.random.default_rng(seed)
    high, dtype = dict(uint8=(256, np.uint8), small=(3, np.uint8), int64=(2000, np.int64))[kind]  # "small" is full of ties and copies
    x = rng.integers(0, high, (n, d), dtype=dtype)
    y = x if exclude_self else rng.integers(0, high, (n + 3, d), dtype=dtype)
    k = min(k, len(y) - exclude_self)
    expected, got = brute(x, y, k, exclude_self), nearest(x, y, k, exclude_self=exclude_self, block=40)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def test_close_pairs_far_from_the_origin():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 32)) * 1000 / math.sqrt(32)
    x = np.concatenate([c + rng.normal(size=(20, 32)) * 1e-3 / math.sqrt(32) for c in centres]).astype(np.float32)
    got, expected = nearest(x, x, exclude_self=True)[0], brute(x.astype(float), x.astype(float), 1, True)[0]
    assert np.abs(got / np.where(expected, expected, 1) - (expected > 0)).max() < 1e-6


def test_numpy_torch_and_images_are_the_same_points():
    images = load_images("digits", n=30)
    a = nearest(images, images, 2, exclude_self=True)
    for other in (images.pixels, torch.from_numpy(images.pixels), images.flat()):
        b = nearest(other, other, 2, exclude_self=True)
        assert (a[0] == b[0]).all() and (a[1] == b[1]).all()


@pytest.mark.parametrize("call, words", [
    (lambda x: nearest(x, x, 0), "k = 0.*1 to 10"),
    (lambda x: nearest(x, x, 10, exclude_self=True), "k = 10.*1 to 9"),
    (lambda x: nearest(x, x[:, :1]), "2 dimensions.*1"),
    (lambda x: nearest(x, x[:4], exclude_self=True), "one set twice"),
    (lambda x: nearest(x * np.nan, x), "query.*NaN"),
    (lambda x: nearest(x, x / 0), "reference.*NaN or infinite"),
    (lambda x: nearest(x[:0], x), "not empty"),
    (lambda x: nearest(x.astype(str), x), "dtype"),
    (lambda x: kl_entropy(x, 10), "k = 10"),
    (lambda x: kl_entropy(x, floor=0), "floor = 0"),
])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(np.random.default_rng(0).normal(size=(10, 2)))


def test_entropy_is_the_formula():
    x = np.random.default_rng(0).normal(size=(50, 3))
    for k in (1, 3):
        eps = brute(x, x, k, True)[0][:, -1]
        expected = digamma(50) - digamma(k) + 1.5 * math.log(math.pi) - gammaln(2.5) + 3 * np.log(eps).mean()
        assert kl_entropy(x, k) == pytest.approx(expected, abs=1e-12)


def test_entropy_of_known_distributions():
    rng = np.random.default_rng(0)
    assert kl_entropy(rng.normal(size=(10_000, 2))) == pytest.approx(math.log(2 * math.pi * math.e), abs=0.05)
    assert kl_entropy(rng.random((5_000, 1)) * 7) == pytest.approx(math.log(7), abs=0.05)


def test_copies_take_the_floor():
    assert zero_floor(np.zeros((2, 2), np.int32)) == 0.5 and zero_floor(np.zeros((2, 2))) == 1e-10
    images = Images(np.zeros((2, 1, 2, 2), np.uint8), grid=255 / 16)
    assert zero_floor(images) == 255 / 32
    x = np.array([[0], [0], [5]])
    constant = digamma(3) - digamma(1) + math.log(2)
    assert kl_entropy(x) == pytest.approx(constant + (2 * math.log(0.5) + math.log(5)) / 3)
    assert count_copies(x) == 2
