"""Precision, recall, density, coverage against the authors' package and distances computed one by one; the kernel distance; novelty; small sets."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from collapse_nb.data import Images, load_images
from collapse_nb.distances import DISTRIBUTION, PRDC_K, distribution, frechet_distance, kernel_distance, of_one_set, prdc, same_kind, vendi_score
from collapse_nb.metrics import METRICS, authentic, bootstrap, distance_to_train, generalization_score, measure
from collapse_nb.metrics import memorized, memorized_fraction, novelty_ratio, resampled_means

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
TWO_SETS = dict(distance=distance_to_train, gs=generalization_score, memorized=memorized, authentic=authentic, prdc=lambda a, b: prdc(a, b, 2),
                novelty=lambda a, b: novelty_ratio(a, b, b), kernel=kernel_distance, frechet=frechet_distance)


@pytest.mark.parametrize("name", TWO_SETS)
def test_sets_that_cannot_be_compared(name):
    f, fine = TWO_SETS[name], np.arange(12.).reshape(6, 2)
    grey, rgb = Images(np.zeros((6, 1, 8, 24), np.uint8)), Images(np.zeros((6, 3, 8, 8), np.uint8))  # as many values in each
    with pytest.raises(ValueError, match=r"grey \[1, 8, 24\], .*RGB \[3, 8, 8\] \(allowed: one shape\)"): f(grey, rgb)
    with pytest.raises(ValueError, match=r"\b2\].*\b3\]"): f(fine, np.zeros((6, 3)))
    with pytest.raises(ValueError, match="NaN or infinite"): f(BAD, fine)
    with pytest.raises(ValueError, match="NaN or infinite"): f(fine, BAD)


def test_same_kind_lets_points_of_images_pass():
    same_kind(a=Images(np.zeros((6, 1, 8, 8), np.uint8)), b=np.zeros((2, 64)), c=torch.zeros(3, 8, 8), d=[[0] * 64])


def test_novelty_by_hand():
    train = np.array([[0.], [10.]])
    assert novelty_ratio([[1.], [12.]], train, [[3.], [13.]]) == pytest.approx((1 + 2) / (3 + 3))
    assert novelty_ratio(train, train, [[3.]]) == 0
    assert np.isnan(novelty_ratio([[1.]], train, train))


@pytest.mark.parametrize("n, d", [(50, 2), (1000, 2), (50, 40), (1000, 40)])
def test_novelty_of_a_fresh_sample_is_one_whatever_n_and_space(n, d):
    rng = np.random.default_rng(n + d)
    train, fresh, unseen = rng.normal(size=(n, d)), rng.normal(size=(2000, d)), rng.normal(size=(2000, d))
    low, high = bootstrap(distance_to_train(fresh, train), over=distance_to_train(unseen, train), level=0.999)
    assert low < 1 < high and novelty_ratio(fresh, train, unseen) == pytest.approx(1, abs=0.08)
    assert novelty_ratio(train + 1e-3, train, unseen) < 0.1


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
    d, g, e = digits(60, source=1), digits(90, 1, 2), digits(70, 3, 2)
    heldout, unseen, spaces = load_images("digits", split="heldout")[:200], digits(50, 2), ("pixel", "classifier")
    row = measure(d, g, e, heldout, spaces, unseen)
    of_spaces = {name.split("[")[0] for name in row}
    assert of_spaces <= set(METRICS) and len(row) == 2 * len(of_spaces) - 1  # confidence is of no space
    g = g[:60]
    assert row["novelty[pixel]"] == pytest.approx(novelty_ratio(g, d, unseen)) and row["gs_unseen[pixel]"] == generalization_score(unseen, d)
    assert row["novelty_low[pixel]"] < row["novelty[pixel]"] < row["novelty_high[pixel]"]
    assert (row["memorized_low[pixel]"], row["memorized_high[pixel]"]) == bootstrap(memorized(g, d))
    assert row["memorized[pixel]"] == memorized_fraction(g, d) and row["authentic[pixel]"] == authentic(g, d).mean()
    assert {k: row[f"{k}[pixel]"] for k in DISTRIBUTION} == distribution(e, heldout)
    assert row == measure(d, g, e, heldout, spaces, unseen)  # the intervals, too


@pytest.mark.parametrize("part, sets", [("train", {"G_n", "D_n", "heldout", "unseen"}), ("generated", {"G_n"}), ("samples", {"E_n"}),
                                        ("unseen", {"G_n", "unseen"})])
def test_every_metric_is_of_the_sets_that_it_names(part, sets):
    "Another D_n, G_n, E_n or U_n changes the metrics of these sets, and no other."
    heldout = load_images("digits", split="heldout")[:200]
    made = dict(train=digits(60, source=1), generated=digits(60, 1, 2), samples=digits(70, 2, 2), heldout=heldout, unseen=digits(50, 3))
    row, other = (measure(**made | change, spaces=("pixel",)) for change in ({}, {part: digits(len(made[part]), 9)}))
    changed = {k for k in row if row[k] != other[k]}
    assert {METRICS[k.split("[")[0]].of for k in changed} == sets
    if part == "samples":
        assert {f"{k}[pixel]" for k in ("frechet", "kernel", "vendi", "density")} <= changed <= {f"{k}[pixel]" for k in DISTRIBUTION}
    if part == "unseen": assert changed == {f"{k}[pixel]" for k in ("gs_unseen", "novelty", "novelty_low", "novelty_high")}


def test_what_samples_are_measured_by_is_the_functions():
    e, heldout = digits(70, 2, 2), load_images("digits", split="heldout")[:200]
    found = distribution(e, heldout)
    assert tuple(found) == DISTRIBUTION and found["vendi"] == vendi_score(e) and found["frechet"] == frechet_distance(e, heldout)
    assert found["kernel"] == kernel_distance(e, heldout) and {k: found[k] for k in DISTRIBUTION[3:]} == prdc(heldout, e, PRDC_K)
    assert "precision" in distribution(e[:6], heldout) and "precision" not in distribution(e[:5], heldout)


def kernel_by_definition(a, b):
    "Binkowski et al. 2018, equation 4, pair by pair."
    k = lambda x, y: (float(x @ y) / len(x) + 1) ** 3
    m, n = len(a), len(b)
    return (sum(k(a[i], a[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
            + sum(k(b[i], b[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
            - 2 * sum(k(x, y) for x in a for y in b) / (m * n))


@pytest.mark.parametrize("m, n, d", [(2, 2, 1), (9, 7, 3), (12, 20, 40)])
def test_kernel_distance_by_its_definition(m, n, d):
    a, b = RNG.normal(size=(m, d)), RNG.normal(size=(n, d)) + .5
    assert kernel_distance(a, b) == pytest.approx(kernel_by_definition(a, b), rel=1e-9, abs=1e-12)
    assert kernel_distance(b, a) == pytest.approx(kernel_distance(a, b)) and kernel_distance(torch.from_numpy(a), b) == kernel_distance(a, b)


def test_large_sets_are_computed_in_blocks_and_once():
    "What a set of more than 2,000 points alone says is remembered by its content: a changed copy, another k or another type is another set."
    a, b = RNG.normal(size=(2100, 3)), RNG.normal(size=(30, 3)) + .5
    gram = (a @ a.T / 3 + 1)**3
    whole = (gram.sum() - gram.trace()) / (2100 * 2099) - 2 * ((a @ b.T / 3 + 1)**3).mean()
    alone = (b @ b.T / 3 + 1)**3
    assert kernel_distance(a, b) == pytest.approx(whole + (alone.sum() - alone.trace()) / (30 * 29))
    seen = []
    def counted(x, k): seen.append(len(x)); return float(x.sum()) * k
    assert of_one_set(counted, a, 2) == of_one_set(counted, a.copy(), 2) == a.sum() * 2 and seen == [2100]
    other = a.copy(); other[-1, -1] += 1
    assert of_one_set(counted, other, 2) == other.sum() * 2 and of_one_set(counted, a, 3) == a.sum() * 3
    of_one_set(counted, a.astype(np.float32), 2); of_one_set(counted, b, 2); of_one_set(counted, b, 2)
    assert seen == [2100] * 4 + [30] * 2
    first = prdc(a, b)
    assert prdc(a, b) == first and prdc(other, b, 4) == prdc(torch.from_numpy(other), b, 4)


def test_kernel_distance_is_unbiased():
    "Of samples of one distribution the mean is zero, at the smallest sizes too, where the Frechet distance is far above."
    pairs = [(RNG.normal(size=(6, 3)), RNG.normal(size=(9, 3))) for _ in range(4000)]
    found = np.array([kernel_distance(a, b) for a, b in pairs])
    assert abs(found.mean()) < 4 * found.std() / 4000**.5 and (found < 0).mean() > .3
    apart = np.array([kernel_distance(a, b + 1) for a, b in pairs[:1000]])
    assert apart.mean() > 20 * found.std() / 1000**.5
    a = np.full((4, 2), 2.0)
    assert kernel_distance(a, np.zeros((3, 2))) == pytest.approx((4 + 1)**3 + 1 - 2)  # k(a, a) + k(0, 0) - 2 k(a, 0)


@pytest.mark.parametrize("function", [kernel_distance, frechet_distance])
@pytest.mark.parametrize("a, b", [((1, 3), (5, 3)), ((5, 3), (1, 3)), ((5, 3), (5, 2))])
def test_distances_of_sets_refuse(function, a, b):
    with pytest.raises(ValueError, match=r"features of shapes .*at least 2 points each"): function(np.zeros(a), np.zeros(b))


def test_measure_fills_in_what_a_real_training_set_gives():
    d, g, e, heldout = digits(40), digits(40, 1, 1), digits(30, 2, 1), load_images("digits", split="heldout")[:100]
    row = measure(d, g, e, heldout, ("pixel",))
    assert row["gs_unseen[pixel]"] == row["gs_heldout[pixel]"] and row == measure(d, g, e, heldout, ("pixel",), heldout)
    one = measure(d, g, e, heldout, ("pixel",), heldout[:1])
    assert one["novelty[pixel]"] > 0 and "novelty_low[pixel]" not in one  # one unseen image gives no interval


def test_measure_of_sets_that_are_small_or_equal():
    heldout = load_images("digits", split="heldout")
    few = measure(digits(3), digits(3, 1), digits(3, 2), heldout, ("pixel",))
    assert "precision[pixel]" not in few and "novelty[pixel]" in few and np.isfinite(few["kernel[pixel]"])
    same = Images(np.repeat(heldout.pixels[:1], 20, 0), None, 0, heldout.grid)
    row = measure(same, same, same, same, ("pixel",))
    assert row["gs[pixel]"] == row["coverage[pixel]"] == 0 and row["memorized[pixel]"] == 1 and "novelty[pixel]" not in row
    assert row["vendi[pixel]"] == pytest.approx(1) and row["kernel[pixel]"] == pytest.approx(0, abs=1e-3) and np.isfinite(list(row.values())).all()
    fine, one, rgb = digits(20), digits(1), Images(np.zeros((20, 3, 8, 8), np.uint8))
    for name, k in dict(train=0, generated=1, samples=2, heldout=3, unseen=5).items():
        sets = [fine, fine, fine, heldout, ("pixel",), None]
        if name != "unseen":
            with pytest.raises(ValueError, match=f"{name} has 1"): measure(*sets[:k], one, *sets[k + 1:])
        with pytest.raises(ValueError, match=rf"{name}: RGB \[3, 8, 8\]"): measure(*sets[:k], rgb, *sets[k + 1:])
