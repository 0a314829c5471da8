"""Statistics of other tools against their published formulas, written out plainly here, and against torchmetrics where it is installed."""

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, norm
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from collapse_nb import two_samples as module
from collapse_nb.data import load_images
from collapse_nb.distances import frechet_distance, kernel_distance
from collapse_nb.two_samples import (TWO_SAMPLES, cell_centres, classifier_auc, copying_in_cells, copying_z, data_copying,
                                     memorization_distance, mifid, nearer_to_train, rank_z, two_samples)

RNG = np.random.default_rng(0)
TRAIN, UNSEEN, MADE = (RNG.normal(size=(n, 6)) + np.arange(n)[:, None] % 3 * 4 for n in (300, 200, 250))
COPIES = TRAIN[:250] + RNG.normal(scale=.01, size=(250, 6))


def by_hand(a, b):
    "Distances by scikit-learn, one by one."
    return NearestNeighbors(n_neighbors=1).fit(b).kneighbors(a)[0][:, 0]


def z_by_scipy(made, unseen, train):
    "Z_U as Meehan et al. 2020 compute it: scipy's U, normalized with their correction for continuity."
    a, b = by_hand(made, train), by_hand(unseen, train)
    u = mannwhitneyu(a, b, alternative="less").statistic
    n, m = len(b), len(a)
    return (u - (n * m / 2 - .5)) / np.sqrt(n * m * (n + m + 1) / 12)


def test_nearer_to_train_by_hand():
    train, unseen = [[0.], [10.]], [[4.], [20.]]
    assert nearer_to_train([[1.], [3.], [9.], [30.]], train, unseen) == .5
    assert nearer_to_train([[2.]], train, unseen) == .5  # a tie
    assert nearer_to_train([[2.], [1.]], train, unseen) == .75
    assert nearer_to_train(MADE, TRAIN[:200], UNSEEN) == np.mean(by_hand(MADE, TRAIN[:200]) < by_hand(MADE, UNSEEN))


@pytest.mark.parametrize("k, n", [(50, 250), (250, 250), (1000, 250)])
def test_a_pure_copier_scores_what_the_sizes_allow(k, n):
    rng = np.random.default_rng(1)
    train, unseen = rng.normal(size=(n, 8)), rng.normal(size=(k, 8))
    made = train[rng.integers(n, size=2000)]
    assert nearer_to_train(made, train, unseen) == pytest.approx((1 + min(k / n, 1)) / 2, abs=.06)
    assert nearer_to_train(rng.normal(size=(2000, 8)), train, unseen, draws=20) == pytest.approx(.5, abs=.06)


def test_the_seed_decides_the_subsample():
    a, b, c = (nearer_to_train(MADE, TRAIN, UNSEEN[:40], seed=s, draws=1) for s in (0, 0, 1))
    assert a == b != c


def test_rank_z_by_hand_and_with_ties():
    assert rank_z([1, 2], [3, 4]) == pytest.approx((0 - 1.5) / np.sqrt(4 * 5 / 12))
    assert rank_z([3, 4], [1, 2]) == pytest.approx((4 - 1.5) / np.sqrt(4 * 5 / 12))
    assert rank_z([1, 1], [1, 1]) == pytest.approx(.5 / np.sqrt(4 * 5 / 12))
    with pytest.raises(ValueError, match="1 NaN"): rank_z([1, np.nan], [1])
    with pytest.raises(ValueError, match="0 and 1 numbers"): rank_z([], [1])


@pytest.mark.parametrize("made", [MADE, COPIES, TRAIN[:250]], ids=["new", "near copies", "copies"])
def test_copying_z_is_that_of_the_authors_formula(made):
    assert copying_z(made, TRAIN, UNSEEN) == pytest.approx(z_by_scipy(made, UNSEEN, TRAIN), abs=1e-9)


def test_z_is_standard_normal_without_copying():
    rng = np.random.default_rng(2)
    z = [rank_z(rng.normal(size=60), rng.normal(size=90)) for _ in range(400)]
    assert abs(np.mean(z)) < .15 and np.std(z) == pytest.approx(1, abs=.1)


@pytest.mark.parametrize("made", [MADE, COPIES], ids=["new", "copies"])
def test_c_t_is_that_of_the_authors_formula(made):
    "Mean of the cells' Z_U, in each from its own training points, weighted by the unseen points; cells of few samples are left out."
    centres = cell_centres(TRAIN, 3)
    t, u, g = (np.linalg.norm(x[:, None] - centres, axis=2).argmin(1) for x in (TRAIN, UNSEEN, made))
    made, g = np.concatenate([made[g != 2], made[g == 2][:20]]), np.concatenate([g[g != 2], g[g == 2][:20]])  # 20 are too few
    weights = [np.mean(u == i) for i in range(2)]
    expected = sum(w * z_by_scipy(made[g == i], UNSEEN[u == i], TRAIN[t == i]) for i, w in enumerate(weights)) / sum(weights)
    assert data_copying(made, TRAIN, UNSEEN) == pytest.approx(expected, abs=1e-9)
    z, weight = copying_in_cells(made, TRAIN, UNSEEN, centres)
    assert weight[2] == 0 and weight[:2].tolist() == pytest.approx(weights) and np.isfinite(z).all()


def test_cells_are_those_of_k_means():
    centres = cell_centres(TRAIN, 3)
    plain = KMeans(3, n_init=10, random_state=5).fit(TRAIN).cluster_centers_
    order = [np.linalg.norm(plain - c, axis=1).argmin() for c in centres]
    np.testing.assert_allclose(centres, plain[order], atol=1e-4)


def test_cells_of_a_large_set_come_from_a_part_of_it(monkeypatch):
    monkeypatch.setattr(module, "MOST", 100)
    centres = cell_centres(TRAIN, 3)
    assert sorted(np.rint(centres.mean(1) / 4).tolist()) == [0, 1, 2]
    assert (cell_centres(TRAIN, 3) == centres).all() and (cell_centres(TRAIN, 3, seed=1) != centres).any()


def test_copying_in_one_region_is_seen_in_its_cell_only():
    "Copies in one, twice as far as real ones in the other: the global number is deceived."
    rng = np.random.default_rng(3)
    train, unseen = (np.concatenate([rng.normal(size=(n, 4)), rng.normal(size=(n, 4)) + 20]) for n in (200, 200))
    made = np.concatenate([train[:200] + 1e-3, rng.normal(size=(200, 4)) * 3 + 20])
    z, _ = copying_in_cells(made, train, unseen, [[0.] * 4, [20.] * 4])
    assert z[0] < -10 and z[1] > 5 and abs(copying_z(made, train, unseen)) < abs(z).min()


def test_c_t_without_a_cell_that_counts_is_nan():
    assert np.isnan(data_copying(MADE[:9], TRAIN, UNSEEN))
    z, weight = copying_in_cells(MADE, TRAIN, UNSEEN, [*cell_centres(TRAIN, 2), [1e6] * 6])
    assert np.isnan(z[2]) and weight[2] == 0


@pytest.mark.parametrize("shift", [0, .5, 1.5])
def test_auc_of_two_gaussians_is_known(shift):
    "No classifier beats the normal distribution function of shift / sqrt(2), and the linear one attains it."
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(1500, 3)), rng.normal(size=(2500, 3)) + [shift, 0, 0]
    assert classifier_auc(a, b) == pytest.approx(norm.cdf(shift / np.sqrt(2)), abs=.025)


def test_auc_of_pixels_that_never_change_and_of_more_dimensions_than_points():
    digits = load_images("digits", n=400)
    assert classifier_auc(digits[:200], digits[200:]) == pytest.approx(.5, abs=.08)
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 40, 500))
    assert .3 < classifier_auc(a, b) < .7 and classifier_auc(a, b + .5) > .95
    assert classifier_auc(a, b, seed=1) != classifier_auc(a, b)


def test_memorization_distance_by_hand():
    train = np.array([[1., 0], [0, 2], [0, 0]])
    assert memorization_distance([[3., 4], [0, 0], [5, 0]], train) == pytest.approx((1 - .8 + 0) / 2)
    assert memorization_distance([[-3., 0]], train) == 0  # the opposite direction
    assert memorization_distance(TRAIN, TRAIN) == 0
    cos = np.abs((MADE / np.linalg.norm(MADE, axis=1)[:, None]) @ (TRAIN / np.linalg.norm(TRAIN, axis=1)[:, None]).T)
    assert memorization_distance(MADE, TRAIN) == pytest.approx((1 - cos.max(1)).mean(), abs=1e-12)
    with pytest.raises(ValueError, match="train: every point is 0"): memorization_distance(MADE, np.zeros((3, 6)))
    with pytest.raises(ValueError, match="generated: every point is 0"): memorization_distance(np.zeros((3, 6)), TRAIN)


def test_memorization_distance_reads_blocks(monkeypatch):
    whole = memorization_distance(MADE, TRAIN)
    wide = np.zeros((len(TRAIN), 1 << 16))
    wide[:, :6] = TRAIN  # 256 rows a block
    assert memorization_distance(np.pad(MADE, ((0, 0), (0, wide.shape[1] - 6))), wide) == pytest.approx(whole, abs=1e-12)


def test_mifid_is_fid_over_distance_below_epsilon():
    fid, far = frechet_distance(MADE, TRAIN), memorization_distance(MADE, TRAIN)
    assert far < .1 and mifid(MADE, TRAIN) == pytest.approx(fid / far)
    assert mifid(MADE, TRAIN, epsilon=far) == fid and mifid(MADE, TRAIN, frechet=7.) == 7 / far
    assert mifid(TRAIN, TRAIN) == np.inf
    with pytest.raises(ValueError, match="epsilon = 0"): mifid(MADE, TRAIN, epsilon=0)


@pytest.mark.parametrize("made, epsilon", [(MADE, .1), (COPIES, .1), (MADE, .001)])
def test_mifid_equals_torchmetrics(made, epsilon):
    "It averages over the set that it calls real; Kaggle and the paper over the generated one: so the parts are exchanged."
    mifid_of = pytest.importorskip("torchmetrics.image.mifid").MemorizationInformedFrechetInceptionDistance
    theirs = mifid_of(torch.nn.Identity(), cosine_distance_eps=epsilon)
    theirs.update(torch.from_numpy(made), real=True)
    theirs.update(torch.from_numpy(TRAIN), real=False)
    assert mifid(made, TRAIN, epsilon=epsilon) == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_the_table_has_a_label_and_five_words_for_each():
    found = two_samples(MADE, TRAIN, UNSEEN, seed=3)
    assert list(found) == list(TWO_SAMPLES) == ["nearer_to_train", "z_u", "c_t", "auc", "kid", "mifid"]
    assert all(isinstance(v, float) for v in found.values())
    assert all(s.label and len(s.meaning.split()) == 5 for s in TWO_SAMPLES.values())
    assert found["kid"] == kernel_distance(MADE, UNSEEN) and found["c_t"] == data_copying(MADE, TRAIN, UNSEEN, seed=3)


def test_images_numpy_and_torch_give_the_same_numbers():
    digits, heldout = load_images("digits", n=300), load_images("digits", split="heldout", n=120)
    sets = digits[:150], digits[150:], heldout
    expected = two_samples(*sets)
    for kind in (lambda x: x.flat(), lambda x: torch.from_numpy(x.pixels), lambda x: x.pixels.astype(np.float32)):
        assert two_samples(*map(kind, sets)) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("function", [nearer_to_train, copying_z, data_copying, two_samples])
def test_sets_that_cannot_be_compared_are_refused(function):
    with pytest.raises(ValueError, match="allowed: one shape"): function(MADE, TRAIN, UNSEEN[:, :5])
    with pytest.raises(ValueError, match="NaN"): function(np.full((30, 6), np.nan), TRAIN, UNSEEN)


@pytest.mark.parametrize("call, words", [
    (lambda: nearer_to_train(MADE, TRAIN, UNSEEN, draws=0), "draws = 0"),
    (lambda: data_copying(MADE, TRAIN, UNSEEN, cells=301), "cells = 301 is out of range .allowed: 1 to 300"),
    (lambda: classifier_auc(MADE, UNSEEN, folds=1), "folds = 1"),
    (lambda: classifier_auc(MADE[:4], UNSEEN), "folds = 5 is out of range for 4 points of each set"),
])
def test_errors_say_what_is_allowed(call, words):
    with pytest.raises(ValueError, match=words): call()
