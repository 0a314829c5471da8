"""Copies that were changed, the threshold that unseen images set, and groups of near-duplicates."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from collapse_nb import copies as C
from collapse_nb.data import Images, load_images
from collapse_nb.metrics import near_duplicate_distance
from collapse_nb.neighbors import squared_distances


def pieces(name: str, side: int = 32) -> np.ndarray:
    "A photograph in pieces, uint8 [N, 3, side, side]."
    photo = load_sample_image(name)
    h, w = (n // side for n in photo.shape[:2])
    cut = photo[:h * side, :w * side].reshape(h, side, w, side, 3)
    return cut.transpose(0, 2, 4, 1, 3).reshape(-1, 3, side, side)


PHOTOS = np.concatenate([pieces("china.jpg", 16), pieces("flower.jpg", 16)])
PHOTOS = Images(PHOTOS[PHOTOS.reshape(len(PHOTOS), -1).std(1) > 25])
TRAIN, UNSEEN = PHOTOS[::2], PHOTOS[1::2]
RNG = np.random.default_rng(0)


def each(change):
    return lambda x: np.stack([np.ascontiguousarray(change(p)) for p in x])


def shifted(p):
    side, most = p.shape[1], p.shape[1] // 8
    y, x = RNG.integers(-most, most + 1, 2) + most
    return np.pad(p, ((0, 0), (most, most), (most, most)))[:, y:y + side, x:x + side]


def cropped(p):
    side = p.shape[1]
    c = RNG.integers(round(0.8 * side), side)
    y, x = RNG.integers(0, side + 1 - c, 2)
    window = Image.fromarray(p[:, y:y + c, x:x + c].transpose(1, 2, 0))
    return np.asarray(window.resize((side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def jpeg(p, quality=30):
    buffer = io.BytesIO()
    Image.fromarray(p.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).transpose(2, 0, 1)


def brighter(p):
    return np.clip(p * 1.2 + 15, 0, 255).astype(np.uint8)


CHANGES = {"mirrored": (lambda x: x[..., ::-1].copy(), 0.95), "shifted": (each(shifted), 0.95), "brighter": (each(brighter), 0.95),
           "darker": (lambda x: (x * 0.6).astype(np.uint8), 0.95), "jpeg": (each(jpeg), 0.95), "cropped": (each(cropped), 0.8)}


def table(train, unseen, count=200):
    "Change -> share of copies found, by the right training image; and the calibration."
    limit = C.calibrate(C.find_matches(unseen, train).ratio)
    chosen = np.random.default_rng(1).permutation(len(train))[:count]
    found = {}
    for name, (change, _) in CHANGES.items():
        m = C.find_matches(Images(change(train.pixels[chosen])), train)
        found[name] = ((m.ratio < limit.threshold) & (m.train == chosen)).mean()
    return found, limit


def test_changed_copies_are_found_among_photographs():
    "16x16 pieces of two photographs: leaves and roofs, more alike than the images that models are trained on."
    found, limit = table(TRAIN, UNSEEN)
    print(found, limit)
    assert limit.alarms <= 0.01, limit
    assert all(found[name] >= least for name, (_, least) in CHANGES.items() if name not in ("cropped", "jpeg")), found
    assert found["cropped"] > 0.3 and found["jpeg"] > 0.3, found


@pytest.mark.slow
def test_changed_copies_are_found_among_the_paper_s_images():
    "200 of 50,000 training images, each change; 2,000 unseen ones."
    try:
        train, unseen = (load_images("folder:cifar10-jpeg", split=s) for s in ("train", "heldout"))
    except FileNotFoundError:
        pytest.skip("needs CIFAR-10's JPEG copies")
    some = np.random.default_rng(2).permutation(len(unseen))[:2000]  # the archive is sorted by class
    found, limit = table(train, unseen[some])
    assert all(found[name] >= least for name, (_, least) in CHANGES.items()), found
    assert limit.alarms <= 0.01 and limit.overlap <= 60, limit


def test_the_distances_are_those_of_the_definition():
    made, train = (torch.from_numpy(pieces(name)[:40]).float() for name in ("china.jpg", "flower.jpg"))
    squared = {name: f(made, train).numpy() for name, f in C.TRANSFORMATIONS.items()}
    a, b = made.double().numpy(), train.double().numpy()
    assert squared["as it is"] == pytest.approx(((a - b)**2).sum((1, 2, 3)))
    assert squared["mirrored"] == pytest.approx(((a - b[..., ::-1])**2).sum((1, 2, 3)))
    shifts = []
    for y in range(-4, 5):
        for x in range(-4, 5):
            part = a[:, :, max(0, y):32 + min(0, y), max(0, x):32 + min(0, x)] - b[:, :, max(0, -y):32 - max(0, y), max(0, -x):32 - max(0, x)]
            shifts.append((part**2).mean((1, 2, 3)) * 3072)
    assert squared["shifted"] == pytest.approx(np.min(shifts, 0), rel=1e-5)
    for p, q, s in zip(a.reshape(40, -1), b.reshape(40, -1), squared["brightness"]):
        slope = np.clip(np.polyfit(q, p, 1)[0], 0.5, 2)
        assert s == pytest.approx(((p - p.mean() - slope * (q - q.mean()))**2).sum(), rel=1e-4)
    turned = np.min([((a - np.rot90(b, n, (2, 3)))**2).sum((1, 2, 3)) for n in (1, 2, 3)], 0)
    assert squared["turned"] == pytest.approx(turned)
    assert (squared["cropped"] <= squared["as it is"] * 1.5).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 24), (1, 28, 28), (3, 64, 64), (3, 100, 60)])
def test_every_shape(shape):
    x = np.random.default_rng(0).integers(0, 256, (30, *shape), dtype=np.uint8)
    x = np.asarray([np.asarray(Image.fromarray(p[0]).resize(shape[:0:-1])) for p in x])[:, None].repeat(shape[0], 1) if shape[0] == 1 else x
    train, made = Images(x[:20]), Images(np.ascontiguousarray(x[:5, :, :, ::-1]))
    m = C.find_matches(made, train, turns=True)
    assert m.train.tolist() == list(range(5)) and (m.transformation == "mirrored").all() and (m.distance == 0).all()
    assert (m.ratio == 0).all()


def test_quarter_turns_are_optional():
    made = Images(np.ascontiguousarray(np.rot90(TRAIN.pixels[:20], 1, (2, 3))))
    assert (C.find_matches(made, TRAIN).ratio > 0.5).mean() > 0.9
    m = C.find_matches(made, TRAIN, turns=True)
    assert (m.ratio == 0).all() and m.train.tolist() == list(range(20))


def test_a_twin_or_a_mirrored_twin_in_training_is_no_other_image():
    noisy = Images(np.clip(TRAIN.pixels[:20] + np.random.default_rng(0).integers(-9, 10, (20, *TRAIN.shape)), 0, 255).astype(np.uint8))
    for twin in (TRAIN.pixels[:20], TRAIN.pixels[:20, :, :, ::-1]):
        both = Images(np.concatenate([TRAIN.pixels, twin]))
        alone, m = C.find_matches(noisy, TRAIN), C.find_matches(noisy, both)
        assert (m.ratio < 0.6).all() and (m.distance == alone.distance).all()


def test_the_threshold_by_hand():
    ratio = np.concatenate([np.full(10, 0.2), np.linspace(0.6, 1, 1000)])
    limit = C.calibrate(ratio)
    assert limit.overlap == 10 and limit.unseen == 500 and 0.6 <= limit.threshold < 0.61
    assert limit.low <= limit.alarms <= limit.high and limit.alarms < 0.02
    assert C.calibrate(ratio, seed=1).threshold != limit.threshold
    few = C.calibrate(np.linspace(0.6, 1, 50))
    assert few.threshold == 1 / 3 and few.unseen == 25
    assert C.calibrate(np.linspace(0, 1, 1000), overlap=0.0).threshold < 0.02
    for wrong in (np.full(20, 0.1), np.ones(3), np.concatenate([np.full(11, 0.1), np.ones(9)])):
        with pytest.raises(ValueError, match=f"of {len(wrong)} reference images show what a training image shows"):
            C.calibrate(wrong)


def test_one_training_image_is_too_few():
    with pytest.raises(ValueError, match="train has 1 image .allowed: at least 2"):
        C.find_matches(UNSEEN, TRAIN[:1])
    with pytest.raises(ValueError, match="allowed: one shape"):
        C.find_matches(UNSEEN, load_images("digits"))


@pytest.mark.parametrize("images", ["photos", "digits"])
def test_groups_are_the_connected_components(images):
    x = PHOTOS if images == "photos" else load_images("digits", n=300)
    rng = np.random.default_rng(0)
    near = x.pixels[rng.integers(0, len(x), 60)].astype(int) + rng.integers(-6, 7, (60, *x.shape))
    x = Images(np.concatenate([x.pixels, x.pixels[:9], np.clip(near, 0, 255).astype(np.uint8)])[rng.permutation(len(x) + 69)])
    limit = near_duplicate_distance(x) * (1 if images == "photos" else 2)
    group = C.duplicate_groups(x, limit)
    close = squared_distances(x.flat(), x.flat()) <= limit**2
    for _ in range(20):
        close = close @ close
    assert ((group[:, None] == group) & (group >= 0)[:, None] | np.eye(len(x), dtype=bool) == close).all()
    first = [np.flatnonzero(group == i)[0] for i in range(group.max() + 1)]
    assert first == sorted(first) and (group >= 0).sum() > 60
    assert (C.duplicate_groups(x[:1], limit) == -1).all()


def test_a_transformation_of_your_own(monkeypatch):
    inverted = Images(255 - TRAIN.pixels[:10])
    monkeypatch.setitem(C.TRANSFORMATIONS, "inverted", lambda made, train: ((255 - made - train)**2).flatten(1).sum(1))
    near = np.arange(10)[:, None].repeat(2, 1)
    m = C.find_matches(inverted, TRAIN, near=near)
    assert (m.transformation == "inverted").all() and (m.distance == 0).all()


