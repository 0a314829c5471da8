"""Precision, recall, density and coverage against the authors' package and against distances computed one by one; the index; small sets."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from collapse_nb.data import Images, load_images
from collapse_nb.metrics import (SETS, authentic, bootstrap, generalization_index, generalization_score, measure, memorized, memorized_fraction,
                                 novelty, prdc, resampled_means, same_kind, vendi_score)

RNG = np.random.default_rng(0)


def package(real, generated, k):
    compute_prdc = pytest.importorskip("prdc").compute_prdc
    with contextlib.redirect_stdout(io.StringIO()):
        return {name: float(v) for name, v in compute_prdc(real, generated, k).items()}


def by_definition(real, generated, k):
    "Naeem et al. 2020 with all distances from differences, float64."
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    r, g = (np.sort(cdist(x, x), 1)[:, k] for x in (real, generated))
    between = cdist(real, generated)
    inside = between < r[:, None]
    return dict(precision=inside.any(0).mean(), recall=(between < g).any(1).mean(), density=inside.sum(0).mean() / k, coverage=inside.any(1).mean())


def clusters(n, d):
    return np.random.default_rng(1).normal(size=(5, d))[RNG.integers(5, size=n)] * 1e4 + RNG.normal(size=(n, d))


REAL = dict(
    gaussian=(RNG.normal(size=(400, 16)), RNG.normal(size=(300, 16)) + .1),
    float32=(RNG.normal(size=(300, 64)).astype(np.float32), RNG.normal(size=(500, 64)).astype(np.float32)),
    clustered=(clusters(400, 8), clusters(300, 8)),
    collapsed=(RNG.normal(size=(400, 32)), RNG.normal(size=(300, 32)) * .05),
    grid=(RNG.integers(-3, 4, (400, 3)).astype(float), RNG.integers(-3, 4, (300, 3)).astype(float)),  # ties of all kinds, exact in the package too
    duplicated=(RNG.integers(0, 256, (50, 64))[RNG.integers(50, size=400)].astype(float),
                RNG.integers(0, 256, (80, 64))[RNG.integers(80, size=300)] * 1.),
    copies=((x := RNG.integers(0, 256, (200, 64)).astype(float)), np.concatenate([x[:100], RNG.integers(0, 256, (150, 64))])),
)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("name", REAL)
def test_prdc_equals_the_package(name, k):
    real, generated = REAL[name]
    assert prdc(real, generated, k) == package(real, generated, k)


def test_prdc_far_from_the_origin_is_right_where_products_are_not():
    real, generated = (RNG.normal(size=(n, 32)) * 1e-3 + 1000 for n in (300, 200))
    assert prdc(real, generated) == pytest.approx(by_definition(real, generated, 5), abs=1e-12)
    far = RNG.normal(size=(2, 32)) * 1e6  # float32 products see nothing inside these clusters: the float64 path
    real, generated = (np.concatenate([c + RNG.normal(size=(n, 32)) for c in far]) for n in (200, 150))
    assert prdc(real, generated) == pytest.approx(by_definition(real, generated, 5), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(arrays(np.int16, st.tuples(st.integers(4, 30), st.just(3)), elements=st.integers(-3, 3)),
       arrays(np.int16, st.tuples(st.integers(4, 30), st.just(3)), elements=st.integers(-3, 3)), st.integers(1, 3), st.sampled_from([4, 64, 1 << 22]))
def test_prdc_by_definition_whatever_the_block(real, generated, k, block):
    assert prdc(real, generated, k, block=block) == pytest.approx(by_definition(real, generated, k), abs=1e-12)


def test_prdc_of_identical_points_and_of_torch():
    assert set(prdc(np.ones((10, 3)), np.ones((8, 3))).values()) == {0.0}
    real, generated = REAL["float32"]
    assert prdc(torch.from_numpy(real), torch.from_numpy(generated)) == prdc(real, generated)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_prdc_on_a_gpu():
    real, generated = REAL["float32"]
    assert prdc(torch.from_numpy(real).cuda(), torch.from_numpy(generated).cuda()) == prdc(real, generated)


@pytest.mark.parametrize("k", [0, 5, 2.0, True])
def test_prdc_refuses_k(k):
    with pytest.raises(ValueError, match=r"k = .* for 9 real and 5 generated points \(allowed: 1 to 4\)"):
        prdc(np.zeros((9, 2)), np.zeros((5, 2)), k)


BAD = np.array([[0., 1], [np.nan, 2], [np.inf, 3], [4, 4], [5, 5], [6, 6]])
TWO_SETS = dict(novelty=novelty, gs=generalization_score, memorized=memorized, authentic=authentic, prdc=lambda a, b: prdc(a, b, 2),
                index=lambda a, b: generalization_index(a, b, b))


@pytest.mark.parametrize("name", TWO_SETS)
def test_sets_that_cannot_be_compared(name):
    f, fine = TWO_SETS[name], np.arange(12.).reshape(6, 2)
    grey, rgb = Images(np.zeros((6, 1, 8, 24), np.uint8)), Images(np.zeros((6, 3, 8, 8), np.uint8))  # as many values in each
    with pytest.raises(ValueError, match=r"grey \[1, 8, 24\], .*RGB \[3, 8, 8\] \(allowed: one shape\)"): f(grey, rgb)
    with pytest.raises(ValueError, match=r"\[2\].*\[3\]"): f(fine, np.zeros((6, 3)))
    with pytest.raises(ValueError, match="NaN or infinite"): f(BAD, fine)
    with pytest.raises(ValueError, match="NaN or infinite"): f(fine, BAD)


def test_same_kind_lets_points_of_images_pass():
    same_kind(a=Images(np.zeros((6, 1, 8, 8), np.uint8)), b=np.zeros((2, 64)), c=torch.zeros(3, 8, 8), d=[[0] * 64])


def test_index_by_hand():
    train = np.array([[0.], [10.]])
    assert generalization_index([[1.], [12.]], train, [[3.], [13.]]) == pytest.approx((1 + 2) / (3 + 3))
    assert generalization_index(train, train, [[3.]]) == 0
    assert np.isnan(generalization_index([[1.]], train, train))


@pytest.mark.parametrize("n, d", [(50, 2), (1000, 2), (50, 40), (1000, 40)])
def test_index_of_a_fresh_sample_is_one_whatever_n_and_space(n, d):
    rng = np.random.default_rng(n + d)
    train, fresh, unseen = rng.normal(size=(n, d)), rng.normal(size=(2000, d)), rng.normal(size=(2000, d))
    low, high = bootstrap(novelty(fresh, train), over=novelty(unseen, train), level=0.999)
    assert low < 1 < high and generalization_index(fresh, train, unseen) == pytest.approx(1, abs=0.08)
    assert generalization_index(train + 1e-3, train, unseen) < 0.1


def test_bootstrap_covers_repeats_and_refuses():
    rng = np.random.default_rng(0)
    held = [low <= 1 <= high for low, high in (bootstrap(rng.exponential(size=80), seed=i) for i in range(300))]
    assert 0.89 < np.mean(held) < 0.98
    ratios = [bootstrap(rng.exponential(size=80), rng.exponential(2, size=120), seed=i) for i in range(300)]
    assert 0.89 < np.mean([low <= 0.5 <= high for low, high in ratios]) < 0.98
    x = rng.normal(size=50)
    assert bootstrap(x, seed=3) == bootstrap(x, seed=3) != bootstrap(x, seed=4)
    assert bootstrap(np.zeros(9, bool)) == (0, 0) and np.isnan(bootstrap(x, np.zeros(5))).all()
    assert resampled_means(x, repeats=7).shape == (7,) and not np.array_equal(resampled_means(x), resampled_means(x, stage="other"))
    wide, narrow = bootstrap(x, level=0.99), bootstrap(x, level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    for bad in ([1.0], [1, np.nan], [[1, 2], [3, 4]]):
        with pytest.raises(ValueError, match="values of shape"): bootstrap(bad)
    with pytest.raises(ValueError, match="level = 95"): bootstrap(x, level=95)
    with pytest.raises(ValueError, match="repeats = 0"): bootstrap(x, repeats=0)


def test_authentic_by_hand():
    train = np.array([[0.], [1.], [10.]])  # their own nearest other: 1, 1, 9
    assert authentic([[0.], [-1.], [-1.5], [2.5], [14.], [20.]], train).tolist() == [False, False, True, True, False, True]
    with pytest.raises(ValueError, match="train has 1 point"): authentic(train, train[:1])


def test_vendi_of_known_kernels():
    assert vendi_score(np.eye(6)) == pytest.approx(6) == vendi_score(np.eye(6), "linear")
    for kernel in ("cosine", "linear", "rbf"):
        assert vendi_score(np.ones((9, 4)), kernel) == pytest.approx(1)
    half = np.array([[1., 0], [1, 0], [0, 5], [0, 5]])
    assert vendi_score(half) == pytest.approx(2)
    assert vendi_score(half, "linear") == pytest.approx(np.exp(-sum(p * np.log(p) for p in (1 / 26, 25 / 26))))
    assert vendi_score(half * 1e6, "rbf", width=1) == pytest.approx(2) and vendi_score(np.zeros((5, 3))) == pytest.approx(1)
    assert vendi_score(np.array([[0., 0], [0, 0], [1, 0], [1, 0]])) == pytest.approx(2)  # black images are one more kind
    with pytest.raises(ValueError, match="kernel = 'poly'"): vendi_score(half, "poly")
    with pytest.raises(ValueError, match="width = 0"): vendi_score(half, "rbf", width=0)
    with pytest.raises(ValueError, match="NaN or infinite"): vendi_score(BAD)


@pytest.mark.parametrize("n, d", [(40, 7), (7, 40)])
def test_vendi_by_its_definition_primal_and_dual(n, d):
    x = RNG.normal(size=(n, d))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for kernel, gram in (("cosine", unit @ unit.T), ("rbf", np.exp(-cdist(x, x, "sqeuclidean") / 18))):
        values = np.linalg.eigvalsh(gram / n)
        values = values[values > 1e-15]
        assert vendi_score(x, kernel, width=3.0) == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-9)


def digits(n, seed=0, source=0):
    images = load_images("digits", n=n, seed=seed)
    return Images(images.pixels, images.labels, source, images.grid, images.dataset)


def test_measure_says_what_the_functions_say():
    d, g, heldout, unseen, real = digits(60, source=1), digits(90, 1, 2), load_images("digits", split="heldout")[:200], digits(50, 2), digits(60, 3)
    row = measure(d, g, heldout, ("pixel", "classifier"), unseen, real)
    assert {name.split("[")[0] for name in row} <= set(SETS)
    g = g[:60]
    assert row["index[pixel]"] == pytest.approx(generalization_index(g, d, unseen)) and row["gs_unseen[pixel]"] == generalization_score(unseen, d)
    assert row["index_low[pixel]"] < row["index[pixel]"] < row["index_high[pixel]"]
    assert (row["memorized_low[pixel]"], row["memorized_high[pixel]"]) == bootstrap(memorized(g, d))
    assert row["memorized[pixel]"] == memorized_fraction(g, d)
    assert {k: row[f"{k}[pixel]"] for k in ("precision", "recall", "density", "coverage")} == prdc(heldout, g)
    assert row["vendi[pixel]"] == vendi_score(g) and row["authentic[pixel]"] == authentic(g, d).mean()
    assert row["frechet_floor[classifier]"] == measure(real, g, heldout, ("classifier",))["frechet_train[classifier]"]
    assert row == measure(d, g, heldout, ("pixel", "classifier"), unseen, real)  # the intervals, too


def test_measure_fills_in_what_a_real_training_set_gives():
    d, g, heldout = digits(40), digits(40, 1, 1), load_images("digits", split="heldout")[:100]
    row = measure(d, g, heldout, ("pixel",))
    assert row["gs_unseen[pixel]"] == row["gs_heldout[pixel]"] and row["frechet_floor[pixel]"] == row["frechet_train[pixel]"]
    later = measure(digits(40, source=1), g, heldout, ("pixel",))
    assert not {"gs_unseen[pixel]", "index[pixel]", "frechet_floor[pixel]"} & set(later)


def test_measure_of_sets_that_are_small_or_equal():
    heldout = load_images("digits", split="heldout")
    few = measure(digits(3), digits(3, 1), heldout, ("pixel",))
    assert "precision[pixel]" not in few and "index[pixel]" in few
    same = Images(np.repeat(heldout.pixels[:1], 20, 0), None, 0, heldout.grid)
    row = measure(same, same, same, ("pixel",))
    assert row["gs[pixel]"] == row["coverage[pixel]"] == 0 and row["memorized[pixel]"] == 1 and "index[pixel]" not in row
    assert row["vendi[pixel]"] == pytest.approx(1) and np.isfinite(list(row.values())).all()
    with pytest.raises(ValueError, match="generated has 1 image"): measure(digits(20), digits(1), heldout, ("pixel",))
    rgb = Images(np.zeros((20, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"generated: RGB \[3, 8, 8\]"): measure(digits(20), rgb, heldout, ("pixel",))
    with pytest.raises(ValueError, match=r"unseen: RGB \[3, 8, 8\]"): measure(digits(20), digits(20), heldout, ("pixel",), rgb)
