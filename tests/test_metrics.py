import numpy as np
import pytest
import scipy.linalg

from collapse_nb.data import Images, load_images
from collapse_nb.features import _load_classifier, embed, load_classifier, train_classifier
from collapse_nb.metrics import (frechet_distance, generalization_score, measure, memorized, memorized_fraction, mnnd, near_duplicate_distance,
                                 variance)


def test_generalization_score_by_hand():
    assert generalization_score([[0.0], [4.0]], [[1.0], [9.0]]) == pytest.approx((1 + 3) / 2)


def test_mnnd_and_variance_by_hand():
    x = np.array([[0, 0], [3, 4], [3, 5]])
    assert mnnd(x) == pytest.approx((5 + 1 + 1) / 3)
    assert variance(x) == pytest.approx(2 + 14 / 3)


def test_memorized_by_hand():
    train = np.array([[0.0], [100.0], [100.5], [300.0]])
    assert near_duplicate_distance(train) > 0.5
    generated = np.array([[0.0], [10.0], [30.0], [100.4], [150.0], [200.0]])
    # d1/d2: copy; 10/90; 30/70; 0.1/100.4 (100.5's neighbour at 100 is a near-duplicate); 49.5/150 is just below a third; 99.5/100
    assert memorized(generated, train).tolist() == [True, True, False, True, True, False]
    assert memorized_fraction(generated, train, ratio=0.05) == pytest.approx(2 / 6)


def test_memorized_when_all_training_points_are_one():
    train = np.concatenate([np.zeros((50, 2)), np.full((50, 2), 1e-9), [[1e6, 0]]])
    assert memorized(np.array([[1.0, 0.0]]), train).all()
    with pytest.raises(ValueError, match="ratio = 1.5"):
        memorized(train, train, ratio=1.5)


def textbook(a, b):
    "The formula with scipy's matrix square root."
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(ca @ cb)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * np.real(root))


def test_frechet_agrees_with_the_textbook():
    rng = np.random.default_rng(0)
    for d in (1, 2, 10):
        a, b = rng.normal(size=(300, d)) @ rng.normal(size=(d, d)), rng.normal(size=(200, d)) + 0.3
        expected = textbook(a, b) if d > 1 else (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
        assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-8)


@pytest.mark.parametrize("d", [1, 20, 64])
def test_frechet_agrees_with_clean_fid(monkeypatch, d):
    fid = pytest.importorskip("cleanfid.fid")
    root = scipy.linalg.sqrtm  # SciPy 1.18 takes no `disp` any more, with which it returned an error estimate, too
    monkeypatch.setattr(fid.linalg, "sqrtm", lambda a, disp=True: root(a) if disp else (root(a), 0.0))
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(400, d)) @ rng.normal(size=(d, d)), rng.normal(size=(300, d)) + 0.5
    statistics = [v for x in (a, b) for v in (x.mean(0), np.cov(x, rowvar=False))]
    assert frechet_distance(a, b) == pytest.approx(fid.frechet_distance(*statistics), rel=1e-6)


def test_frechet_with_fewer_points_than_dimensions():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(10, 50))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a, a + 2) == pytest.approx(200, rel=1e-8)


def test_classifier_is_cached_and_the_same_again(tmp_path):
    _load_classifier.cache_clear()
    first = load_classifier("digits", tmp_path)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    _load_classifier.cache_clear()
    second = load_classifier("digits", tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == files and len(files) == 1
    images = load_images("digits", n=20)
    assert (first.model.features[0].weight == second.model.features[0].weight).all() and first.accuracy == second.accuracy > 0.95
    assert embed(images, "classifier").shape == (20, 32) and embed(images, "classifier").dtype == np.float32
    assert (embed(images, "pixel") == images.flat()).all()


def test_a_space_that_the_images_cannot_have():
    plain = Images(np.zeros((2, 1, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="dataset = ''"):
        embed(plain, "classifier")
    with pytest.raises(ValueError, match="labels"):
        train_classifier(plain)
    with pytest.raises(ValueError, match="dino.*pixel"):
        embed(plain, "dino")


def test_measure_uses_the_first_n_of_what_was_generated():
    (train, generated, samples), heldout = (load_images("digits", n=n, seed=n) for n in (16, 40, 30)), load_images("digits", split="heldout")
    whole = measure(train, generated, samples, heldout, ("pixel",))
    assert whole == measure(train, generated[:16], samples, heldout, ("pixel",)) != measure(train, generated, samples[:29], heldout, ("pixel",))
