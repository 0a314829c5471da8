import numpy as np
import pytest

from collapse_nb.data import Images
from collapse_nb.distances import disjoint_parts, frechet_distance, frechet_floor, frechet_infinity


def test_disjoint_parts_use_each_point_once():
    x = np.arange(22).reshape(11, 2)
    parts = disjoint_parts(x, 3, 5)
    assert parts.shape == (3, 3, 2) and len({tuple(p) for p in parts.reshape(-1, 2)}) == 9
    assert (parts == disjoint_parts(x, 3, 5)).all() and (parts != disjoint_parts(x, 3, 6)).any()


def test_floor_is_seeded_and_zero_for_identical_points():
    x = np.random.default_rng(0).normal(size=(60, 4))
    assert frechet_floor(x, 30) == frechet_floor(x, 30) != frechet_floor(x, 30, seed=1)
    assert frechet_floor(np.ones((10, 3)), 5) == pytest.approx(0, abs=1e-12)


def test_floor_follows_one_over_n():
    "To first order the bias is c/N, so four times fewer points score four times as much."
    x = np.random.default_rng(0).normal(size=(32_000, 8))
    small, large = frechet_floor(x, 200), frechet_floor(x, 800)
    assert small / large == pytest.approx(4, rel=0.1)


def test_infinity_is_nearer_the_truth_than_the_plain_value():
    rng = np.random.default_rng(1)
    pairs = [(rng.normal(size=(300, 16)), 2 * rng.normal(size=(400, 16)) + .5) for _ in range(12)]
    truth = 16 * (1 + .25)  # (2 - 1)^2 and 0.5^2 a dimension
    plain, infinite = np.mean([(frechet_distance(a, b), frechet_infinity(a, b)) for a, b in pairs], 0)
    assert abs(infinite - truth) < abs(plain - truth) / 2
    same = np.mean([frechet_infinity(rng.normal(size=(300, 16)), rng.normal(size=(300, 16))) for _ in range(12)])
    assert abs(same) < 0.1 * frechet_distance(rng.normal(size=(300, 16)), rng.normal(size=(300, 16)))


def test_infinity_of_two_sizes_is_the_line_through_them():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(100, 3)), rng.normal(size=(100, 3))
    whole = frechet_distance(a, b)  # one part: all points
    half = 2 * whole - frechet_infinity(a, b, sizes=[50, 100], seed=4)  # the intercept is 2 FD(100) - FD(50)
    assert half > 0 and frechet_infinity(a, b, sizes=(50, 100), seed=4) == frechet_infinity(a, b, sizes=np.array([50, 100]), seed=4)
    assert frechet_infinity(a, b, sizes=[50, 100], seed=5) != frechet_infinity(a, b, sizes=[50, 100], seed=4)


def test_refusals():
    x = np.random.default_rng(0).normal(size=(20, 3))
    for n in (1, 11, 2.0, True):
        with pytest.raises(ValueError, match=r"n = .* is out of range \(allowed: 2 to 10"): frechet_floor(x, n)
    for sizes in ([10], [10, 10], [1, 10], [10, 21], [10, 12.5]):
        with pytest.raises(ValueError, match=r"sizes = .*allowed: at least two different whole numbers, 2 to 20"): frechet_infinity(x, x, sizes=sizes)
    with pytest.raises(ValueError, match="allowed: one shape"): frechet_infinity(x, x[:, :2])
    with pytest.raises(ValueError, match="grey.*RGB"):
        frechet_infinity(Images(np.zeros((9, 1, 8, 24), np.uint8)), Images(np.zeros((9, 3, 8, 8), np.uint8)))
    with pytest.raises(ValueError, match="NaN or infinite"): frechet_floor(np.full((20, 3), np.nan), 5)
