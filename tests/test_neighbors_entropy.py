import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma, gammaln

from collapse_nb.blocks import PointSet, lower_bounds, product_slack
from collapse_nb.data import Images, load_images
from collapse_nb.entropy import count_copies, kl_entropy, kl_entropy_per_point, zero_floor
from collapse_nb.neighbors import nearest, squared_distances


def brute(query, reference, k, exclude_self):
    "One pair at a time, Python integers or float64."
    distances, indices = [], []
    for i, q in enumerate(np.asarray(query).tolist()):
        row = [(sum((a - b) ** 2 for a, b in zip(q, r)), j) for j, r in enumerate(np.asarray(reference).tolist()) if not (exclude_self and i == j)]
        row.sort()
        distances.append([math.sqrt(d) for d, _ in row[:k]]); indices.append([j for _, j in row[:k]])
    return np.array(distances), np.array(indices)


@settings(max_examples=400, deadline=None)
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


def in_float64(query, reference, k, exclude_self):
    "Distances from differences in float64, and indices with ties to the lowest."
    d = np.array([np.square(reference.astype(float) - q).sum(1) for q in query.astype(float)])
    if exclude_self: np.fill_diagonal(d, np.inf)
    index = np.argsort(d, 1, kind="stable")[:, :k]
    return np.sqrt(np.take_along_axis(d, index, 1)), index


def cloud(rng, n, d, kind):
    "Floats that make a fast product lie: far clusters, copies, lines, scales of any size."
    if kind == "clusters": x = rng.normal(size=(4, d))[rng.integers(4, size=n)] * 1e3 + rng.normal(size=(n, d)) * 1e-3
    elif kind == "copies": x = rng.normal(size=(max(1, n // 3), d))[rng.integers(max(1, n // 3), size=n)] + 100
    elif kind == "line": x = np.outer(rng.normal(size=n), rng.normal(size=d)) * 50 + 7
    elif kind == "scales": x = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-12, 12, size=(n, 1))
    else: x = rng.normal(size=(n, d))
    return x


kinds = st.sampled_from(["gaussian", "clusters", "copies", "line", "scales"])


@settings(max_examples=600, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 12), st.integers(1, 4), st.booleans(), kinds,
       st.sampled_from([np.float32, np.float64, np.float16]), st.integers(0, 6))
def test_floats_agree_with_float64_differences(seed, n, d, k, itself, kind, dtype, block):
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"): x = np.nan_to_num(cloud(rng, n, d, kind).astype(dtype), posinf=6e4, neginf=-6e4)
    y = x if itself else np.concatenate([x[::2], cloud(rng, n, d, kind).astype(np.float32).clip(-6e4, 6e4).astype(dtype)])
    k = min(k, len(y) - itself)
    distance, index = nearest(x, y, k, exclude_self=itself, block=4**block * 4)
    expected = in_float64(x, y, k, itself)
    np.testing.assert_allclose(distance, expected[0], rtol=1e-12)
    pairs = np.sqrt(np.square(x[:, None].astype(float) - y[index].astype(float)).sum(2))
    np.testing.assert_allclose(pairs, distance, rtol=1e-12)  # the indices are those of the distances


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 300), kinds)
def test_the_bound_is_one(seed, n, d, kind):
    p = PointSet(cloud(np.random.default_rng(seed), n, d, kind))
    for dtype in (torch.float32, torch.float64):
        block, slack = p.block(slice(None), dtype), product_slack(p, p, dtype)
        low, norms = lower_bounds(block, block, slack).double().numpy() / p.scale**2, block.norms.double().numpy() / p.scale**2
        true, tiny = squared_distances(p.raw, p.raw), p.tiny / p.scale**2
        assert (low <= true).all() and (true <= low + 2.02 * slack * np.add.outer(norms, norms) + 2 * tiny).all()


def test_many_points_in_doubt_go_through_float64(monkeypatch):
    rng, seen = np.random.default_rng(0), []
    original = PointSet._prepared
    monkeypatch.setattr(PointSet, "_prepared", lambda self, rows, dtype: seen.append(dtype) or original(self, rows, dtype))
    x = np.concatenate([c * 1e3 + rng.normal(size=(300, 64)) * 1e-3 / 8 for c in rng.normal(size=(5, 64)) / 8]).astype(np.float32)
    distance, index = nearest(x, x, 2, exclude_self=True)
    expected = in_float64(x, x, 2, True)
    assert np.abs(distance / expected[0] - 1).max() < 1e-6 and (index == expected[1]).mean() > 0.999 and torch.float64 in seen


def test_uint8_images_of_the_papers_size_are_exact_integers():
    x = np.random.default_rng(0).integers(0, 256, (300, 3, 32, 32), dtype=np.uint8)
    x[150:] = np.where(np.random.default_rng(1).random((150, 3, 32, 32)) < 0.999, x[:150], x[150:])  # near copies
    distance, index = nearest(x, x, 3, exclude_self=True)
    flat = x.reshape(300, -1).astype(np.int64)
    d = np.array([((flat - q) ** 2).sum(1) for q in flat]); np.fill_diagonal(d, 2**40)
    expected = np.argsort(d, 1, kind="stable")[:, :3]
    assert (index == expected).all() and (distance == np.sqrt(np.take_along_axis(d, expected, 1))).all()


def test_a_set_about_itself_and_two_equal_sets_agree():
    x = np.random.default_rng(0).normal(size=(5000, 20)).astype(np.float32)  # several blocks, mirrored
    a, b = nearest(x, x, 3, exclude_self=True), nearest(x, x.copy(), 3, exclude_self=True)
    assert (a[0] == b[0]).all() and (a[1] == b[1]).all()


def test_sources_of_every_kind(tmp_path):
    x = (np.random.default_rng(0).normal(size=(200, 3, 4)) * 3).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    expected = nearest(x.astype(np.float64), x.astype(np.float64), 2, exclude_self=True)
    many = dict(memmap=np.load(tmp_path / "x.npy", mmap_mode="r"), torch=torch.from_numpy(x), grad=torch.from_numpy(x).float().requires_grad_(),
                strided=np.repeat(x, 2, 0)[::2], reverse=x.astype(np.float32)[::-1][::-1], single=x.astype(np.float32), lists=x.tolist())
    for name, y in many.items():
        got = nearest(y, y, 2, exclude_self=True)
        assert (got[0] == expected[0]).all() and (got[1] == expected[1]).all(), name
    half = torch.from_numpy(x).bfloat16()
    assert (nearest(half, half, exclude_self=True)[0] == nearest(half.double(), half.double(), exclude_self=True)[0]).all()


def test_the_callers_precision_settings_do_not_matter():
    x = np.random.default_rng(0).normal(size=(400, 60)).astype(np.float32)
    expected = nearest(x, x, exclude_self=True)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            got = nearest(x, x, exclude_self=True)
        assert torch.get_float32_matmul_precision() == "medium"
    finally: torch.set_float32_matmul_precision("highest")
    assert (got[0] == expected[0]).all() and (got[1] == expected[1]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same():
    x = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))
    for y in (x, (x * 40 + 128).clamp(0, 255).to(torch.uint8)):
        a, b = nearest(y, y, 3, exclude_self=True), nearest(y.cuda(), y.cuda(), 3, exclude_self=True)
        assert (a[0] == b[0]).all() and (a[1] == b[1]).all()


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
    (lambda x: nearest(x > 0, x), "dtype bool"),
    (lambda x: nearest(x, x, 2.5), "k = 2.5"),
    (lambda x: nearest(x, x * 1e200), "reference.*up to 1e150"),
    (lambda x: nearest(x[0], x), "shape"),
    (lambda x: kl_entropy_per_point(x, 10), "k = 10"),
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
        terms = kl_entropy_per_point(x, k)
        assert terms.shape == (50,) and terms.mean() == pytest.approx(expected, abs=1e-12) and terms.argmin() == eps.argmin()


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
    assert count_copies(np.array([[0.0, 1.0], [-0.0, 1.0], [2.0, 1.0]])) == 2  # -0.0 is 0.0
    many = np.random.default_rng(0).integers(0, 2, (60, 3))
    assert count_copies(many) == (nearest(many, many, exclude_self=True)[0] == 0).sum() > 0
