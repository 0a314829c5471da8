import numpy as np
import pytest

from collapse_nb.data import Images, check_varied, from_unit, load_images


def some(n=5, seed=0, **about):
    return Images(np.random.default_rng(seed).integers(0, 256, (n, 1, 8, 8), dtype=np.uint8), **about)


@pytest.mark.parametrize("pixels, words", [
    (np.zeros((3, 8, 8), np.uint8), r"\[3, 8, 8\].*\[N, C, H, W\]"),
    (np.zeros((3, 2, 8, 8), np.uint8), r"\[3, 2, 8, 8\]"),
    (np.zeros((0, 1, 8, 8), np.uint8), r"N > 0"),
    (np.zeros((3, 1, 8, 8)), "float64.*uint8"),
    (np.full((3, 1, 8, 8), np.nan, np.float32), "192 NaN"),
    ([[1]], "list.*uint8"),
])
def test_wrong_images_are_refused(pixels, words):
    with pytest.raises(ValueError, match=words):
        Images(pixels)


def test_labels_must_fit():
    with pytest.raises(ValueError, match="labels.*5 integers"):
        some(labels=np.zeros(4, int))


def test_equal_images_are_refused():
    with pytest.raises(ValueError, match="all 3 images are equal"):
        check_varied(Images(np.full((3, 1, 8, 8), 7, np.uint8)), "here")


def test_npz_there_and_back(tmp_path):
    a = some(labels=np.arange(5), source=np.array([0, 1, 1, 2, 3]), grid=255 / 16, dataset="digits")
    a.save(tmp_path / "a.npz")
    b = Images.load(tmp_path / "a.npz")
    for name in ("pixels", "labels", "source"):
        assert (getattr(a, name) == getattr(b, name)).all()
    assert (b.grid, b.dataset) == (a.grid, a.dataset)


def test_indexing_keeps_everything_together():
    a = some(labels=np.arange(5), source=np.arange(5))
    for index in (2, [4, 1], slice(1, 4), np.array([True, False, True, False, False])):
        b = a[index]
        assert (a.pixels[b.labels] == b.pixels).all() and (b.source == b.labels).all()


def test_concat_refuses_another_kind():
    with pytest.raises(ValueError, match="differ"):
        Images.concat([some(), Images(np.zeros((1, 1, 4, 4), np.uint8))])


def test_rounding_clips_and_refuses_nan():
    values = np.array([-3, -1, 0, 1, 3], np.float32).reshape(-1, 1, 1, 1)
    assert from_unit(values).pixels.ravel().tolist() == [0, 0, 128, 255, 255]
    with pytest.raises(ValueError, match="1 of 1 .*NaN"):
        from_unit(np.full((1, 1, 1, 1), np.nan))


def test_digits_split_is_fixed_and_disjoint():
    train, heldout = load_images("digits"), load_images("digits", split="heldout")
    assert (len(train), len(heldout)) == (1000, 797)
    assert not {p.tobytes() for p in train.pixels} & {p.tobytes() for p in heldout.pixels}
    assert set(np.unique(train.pixels)) == {int(np.rint(v * 255 / 16)) for v in range(17)}


def test_subsets_follow_the_seed():
    a, b, c = (load_images("digits", n=20, seed=s) for s in (1, 1, 2))
    assert (a.pixels == b.pixels).all() and not (a.pixels == c.pixels).all()


@pytest.mark.parametrize("n", [0, 1001])
def test_n_out_of_range(n):
    with pytest.raises(ValueError, match=f"n = {n}.*1000"):
        load_images("digits", n=n)


def test_unknown_names():
    with pytest.raises(ValueError, match="cifar11.*digits"):
        load_images("cifar11")
    with pytest.raises(ValueError, match="valid.*train, heldout"):
        load_images("digits", split="valid")
