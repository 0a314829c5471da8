"""The report on sets of images."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import collapse_nb
from collapse_nb import health as H
from collapse_nb import sets as S
from collapse_nb.data import Images, load_images
from collapse_nb.fid import export_images, export_npz
from collapse_nb.metrics import distance_to_train, frechet_distance, memorized_fraction, novelty_ratio, prdc
from collapse_nb.networks import stand_in
from collapse_nb.selection import select

DIGITS, HELDOUT = load_images("digits"), load_images("digits", split="heldout")
TRAIN = DIGITS[:128]


def found(health):
    return [v.name for v in health.verdicts if v.found]


def test_report_is_there_and_importing_stays_quick():
    assert collapse_nb.report is H.report
    code = "import sys, collapse_nb; assert 'torch' not in sys.modules; print(collapse_nb.report.__module__, 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out == ["collapse_nb.health", "True"]
    with pytest.raises(AttributeError, match="reprot"): _ = collapse_nb.reprot


@pytest.mark.parametrize("space", ["pixel", "classifier"])
def test_fresh_real_images_are_healthy(space):
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(HELDOUT))
        assert found(H.report(HELDOUT[order[:128]], TRAIN, HELDOUT[order[128:]], space=space, seed=seed)) == []


@pytest.mark.parametrize("space", ["pixel", "classifier"])
def test_each_fault_is_found(space):
    copies = TRAIN[np.random.default_rng(0).integers(128, size=100)]
    few = HELDOUT[np.isin(HELDOUT.labels, (0, 1))]
    noise = H.spoil(HELDOUT[:100], "noise")
    assert {"memorizing", "losing diversity"} <= set(found(H.report(copies, TRAIN, HELDOUT, space=space)))
    assert found(H.report(few, TRAIN, HELDOUT, space=space)) == ["losing diversity"]
    assert {"garbage", "losing diversity"} <= set(found(H.report(noise, TRAIN, HELDOUT, space=space)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("space", ["pixel", "classifier"])
def test_noise_that_greedy_selection_loves_raises_the_warning(space, seed):
    order = np.random.default_rng(seed).permutation(1000)
    train, pool = DIGITS[order[:128]], DIGITS[order[128:384]]
    dirty = Images.concat([pool[:-13], H.spoil(pool[-13:], "noise", seed)])
    points = {name: H.embed(x, space) for name, x in dict(clean=pool, dirty=dirty).items()}
    index = {name: select("greedy", z, 128, seed=seed)[0] for name, z in points.items()}
    assert (index["dirty"] >= 243).sum() > 6.5, "more than chance"
    clean, spoiled = (H.report(x[index[name]], train, HELDOUT, space=space) for name, x in dict(clean=pool, dirty=dirty).items())
    assert spoiled.warnings and spoiled.found("garbage") and spoiled.numbers["entropy"].low > spoiled.numbers["entropy"].real_high
    assert not clean.warnings and not clean.found("garbage") and clean.numbers["entropy"].low > clean.numbers["entropy"].real_high
    z, real = points["dirty"], H.embed(train, space)
    kept = H.far_away(z, real) <= 1
    assert not kept[-13:].any() and kept[:-13].mean() > 0.9, "the remedy"


def test_numbers_are_those_of_the_metrics():
    made, r = HELDOUT[:60], HELDOUT[60:]
    health = H.report(made, TRAIN, r, draws=3, seed=7)
    assert health.sizes == dict(generated=60, train=128, reference=737, draw=60)
    assert health.numbers["novelty"].value == pytest.approx(novelty_ratio(made, TRAIN, r))
    assert health.numbers["gs"].real == pytest.approx(distance_to_train(r, TRAIN).mean())
    assert health.numbers["memorized"].value == memorized_fraction(made, TRAIN)
    drawn = []
    for i in range(3):
        rest = r[np.random.default_rng(H.derive_seed(7, i, "report")).permutation(737)[368:]]
        drawn.append(prdc(rest, made) | dict(frechet=frechet_distance(made, rest)))
    for name in drawn[0]:
        values = [d[name] for d in drawn]
        number = health.numbers[name]
        assert (number.value, number.low, number.high) == pytest.approx((np.mean(values), min(values), max(values)))
    assert H.report(made, TRAIN, r, draws=3, seed=7).to_dict() == health.to_dict() != H.report(made, TRAIN, r, draws=3, seed=8).to_dict()


def test_n_limits_the_sets_that_are_drawn_from_and_never_the_training_set():
    health = H.report(HELDOUT[:300], DIGITS, HELDOUT[300:], n=50)
    assert health.sizes == dict(generated=50, train=1000, reference=100, draw=50)


def test_far_away_by_hand():
    real = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert H.far_away(np.array([[0.0], [3.5], [5.0]]), real).tolist() == [0, 0.5, 2]
    assert H.far_away(np.array([[0.0], [1.0]]), np.zeros((4, 1))).tolist() == [0, np.inf]


def test_judge_by_its_stated_limits():
    n = H.Number
    fine = dict(novelty=n(0.51, 0.4, 0.6, 1), memorized=n(0.1, 0.04, 0.2, 0.0), recall=n(0.81, real=1), coverage=n(0.81, real=1),
                isolated=n(0.05, 0.01), precision=n(0.81, real=1),
                density=n(0.51, real=1), frechet=n(2, real=1), entropy=n(0, 0, 0, 0, 0, 0), duplicates=n(0.05, real=0.01))
    def of(**changed): return [v.name for v in H.judge(fine | changed, 10) if v.found]
    assert of() == []
    for name, number, verdict in [
            ("novelty", n(0.49, real=1), "memorizing"), ("memorized", n(0.1, 0.06, 0.2, 0.0), "memorizing"),
            ("recall", n(0.79, real=1), "losing diversity"), ("coverage", n(0.39, real=0.5), "losing diversity"),
            ("entropy", n(-2.3, -2.3, -2.3, 0, 0, 0), "losing diversity"),
            ("duplicates", n(0.07, real=0.01), "losing diversity"), ("isolated", n(0.05, 0.02), "garbage"), ("precision", n(0.79, real=1), "garbage"),
            ("density", n(0.49, real=1), "garbage"), ("entropy", n(1, 1, 1, 0, 0, 0.5), "entropy from noise")]:
        assert of(**{name: number}) == [verdict]
    assert of(entropy=n(1, 1, 1, 0, 0, 0.5), precision=n(0.96, real=1), frechet=n(1.4, real=1)) == []
    assert of(entropy=n(1, 0.4, 2, 0, 0, 0.5)) == [], "within the draws of real images"


def test_without_a_reference_it_says_what_is_missing():
    health = H.report(TRAIN[:50], TRAIN)
    assert health.found("memorizing") and health.found("entropy from noise") is None
    assert health.missing == [H.LABELS[x] for x in ("novelty", "recall", "coverage", "precision", "density", "frechet")]
    assert "not measured without a reference: novelty" in repr(health) and "Not measured without a reference" in health._repr_html_()
    assert H.report(HELDOUT[:50], TRAIN).found("memorizing") is False
    with pytest.raises(ValueError, match="memorising.*memorizing"): health.found("memorising")


def test_the_dictionary_is_json_and_the_text_has_every_number():
    health = H.report(HELDOUT[:50], TRAIN, HELDOUT[50:])
    back = json.loads(json.dumps(health.to_dict(), allow_nan=False))
    assert back["space"] == "pixel" and back["numbers"]["duplicates"]["low"] is None and back["warnings"] == []
    assert set(back["numbers"]) == set(H.LABELS) and all(label in repr(health) and label in health._repr_html_() for label in H.LABELS.values())
    p, far = back["pairs"], back["isolated"]
    assert len(p) == len(far) == 8 and sorted(x["distance"] for x in p) == [x["distance"] for x in p]
    for x in p:
        assert x["distance"] == pytest.approx(np.linalg.norm(HELDOUT.flat()[x["generated"]] * 1.0 - TRAIN.flat()[x["train"]]))


def pictures_in(text):
    import base64
    return [Image.open(io.BytesIO(base64.b64decode(b))) for b in re.findall(r"data:image/png;base64,([^\"]+)", text)]


def test_the_pictures_are_the_images():
    health = H.report(HELDOUT[:50], TRAIN, HELDOUT[50:], show=3)
    pairs, isolated = pictures_in(health._repr_html_())
    assert pairs.mode == "L" and pairs.size == (3 * 44, 2 * 44) and isolated.size == (3 * 44, 44)
    drawn = np.asarray(pairs)
    for i, p in enumerate(health.pairs):
        for row, images, index in ((0, HELDOUT, p["generated"]), (1, TRAIN, p["train"])):
            tile = drawn[44 * row + 2:44 * row + 42:5, 44 * i + 2:44 * i + 42:5]
            assert (tile == images.pixels[index, 0]).all()


@pytest.mark.parametrize("shape, high, wide", [((3, 8, 8), 44, 44), ((3, 40, 30), 44, 34), ((3, 120, 120), 84, 84), ((1, 200, 100), 84, 44)])
def test_strips_of_colour_and_large_images(shape, high, wide):
    x = np.zeros((4, *shape), np.uint8); x[:, 0] = 200
    made = Image.open(io.BytesIO(H.strip(x, x)))
    assert made.mode == ("RGB" if shape[0] == 3 else "L") and made.size == (4 * wide, 2 * high)
    pixel = np.asarray(made)[high // 2, wide // 2]
    assert pixel.tolist() == ([200, 0, 0] if shape[0] == 3 else 200)


def test_names_are_escaped():
    health = replace(H.report(HELDOUT[:50], TRAIN), space="<script>alert(1)</script>")
    assert "<script>" not in health._repr_html_() and "&lt;script&gt;" in health._repr_html_()


def test_sets_from_everywhere(tmp_path):
    x = DIGITS[:30]
    export_images(x, tmp_path / "flat"); export_npz(x, tmp_path / "arr.npz"); x.save(tmp_path / "ours.npz")
    for label in (0, 1): export_images(x[:5] if label == 0 else x[5:], tmp_path / "classes" / "a" / str(label))
    for source in (x, x.pixels, x.pixels[:, 0], torch.from_numpy(x.pixels), tmp_path / "flat", str(tmp_path / "classes"),
                   f"folder:{tmp_path}/flat", f"npz:{tmp_path}/ours.npz", tmp_path / "ours.npz"):
        assert (S.read_set(source, "generated").pixels == x.pixels).all()
    assert (S.read_set(tmp_path / "arr.npz", "train").pixels == np.repeat(x.pixels, 3, 1)).all()
    assert S.read_set(tmp_path / "ours.npz", "train").grid == x.grid and S.read_set(x, "train", side=4).shape == (1, 4, 4)
    assert len(S.read_set("digits", "train")) == 1000 and len(S.read_set("digits", "reference")) == 797
    health = H.report(tmp_path / "flat", "digits", "digits")
    assert health.found("memorizing") and health.sizes["train"] == 1000


RGB = np.repeat(HELDOUT.pixels, 3, axis=1)
NAN = np.full((20, 1, 8, 8), np.nan)


@pytest.mark.parametrize("sets, options, words", [
    ((RGB, TRAIN, HELDOUT), {}, r"generated: RGB \[3, 8, 8\], train: grey \[1, 8, 8\].*allowed: one shape"),
    ((HELDOUT, TRAIN, np.zeros((20, 1, 9, 9), np.uint8)), {}, r"reference: grey \[1, 9, 9\]"),
    ((HELDOUT[:1], TRAIN, HELDOUT), {}, r"generated has 1 image \(allowed: at least 6"),
    ((HELDOUT[:5], TRAIN, HELDOUT), {}, r"generated has 5 images \(allowed: at least 6"),
    ((HELDOUT, TRAIN[:3], HELDOUT), {}, "train has 3 images"),
    ((HELDOUT, TRAIN, HELDOUT[:11]), {}, r"reference has 11 images \(allowed: at least 12 where k = 5"),
    ((HELDOUT, TRAIN, HELDOUT[:11]), dict(k=6), "reference has 11 images.*14 where k = 6"),
    ((HELDOUT, TRAIN[[0] * 20], HELDOUT), {}, "train: all 20 images are equal"),
    ((HELDOUT, TRAIN, HELDOUT[[0] * 20]), {}, "reference: all 20 images are equal"),
    ((NAN, TRAIN, HELDOUT), {}, r"generated: 1280 of 1280 values are NaN or infinite \(allowed: uint8 0..255\)"),
    ((HELDOUT.unit(), TRAIN, HELDOUT), {}, r"generated: float32 \[797, 1, 8, 8\] \(allowed: uint8 0..255"),
    ((HELDOUT, "digts", HELDOUT), {}, "digts.*digits"),
    ((HELDOUT, TRAIN, HELDOUT), dict(space="pixels"), "pixels"),
    ((HELDOUT, TRAIN, HELDOUT), dict(n=5), r"n = 5 is out of range \(allowed: a whole number from 6, or none\)"),
    ((HELDOUT, TRAIN, HELDOUT), dict(draws=0), "draws = 0"),
    ((HELDOUT, TRAIN, HELDOUT), dict(show=True), "show = True"),
    ((HELDOUT, TRAIN, HELDOUT), dict(k=0), "k = 0"),
    ((HELDOUT.pixels, TRAIN.pixels), dict(space="classifier"), "classifier.*dataset|dataset.*unknown"),
])
def test_a_mistake_is_named_before_anything_is_computed(sets, options, words, monkeypatch):
    def never(*a, **k): raise AssertionError("computed")
    for f in ("numbers_of_images", "numbers_of_sets"): monkeypatch.setattr(H, f, never)
    with pytest.raises(ValueError, match=words): H.report(*sets, **options)


@pytest.mark.parametrize("name, words", [("none.npz", "not on this machine"), ("no/folder", "not on this machine")])
def test_a_missing_path_is_named(tmp_path, name, words):
    with pytest.raises(FileNotFoundError, match=words): H.report(tmp_path / name, TRAIN)


def test_damaged_and_foreign_npz(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3)); (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="holds x .allowed: pixels, or arr_0"): S.read_set(tmp_path / "other.npz", "train")
    with pytest.raises(ValueError, match="cannot be read as an npz"): S.read_set(tmp_path / "bad.npz", "train")


def test_a_model_that_makes_one_image_gets_a_report():
    health = H.report(HELDOUT[[0] * 40], TRAIN, HELDOUT[1:])
    assert found(health) == ["losing diversity"] and health.numbers["duplicates"].value == 1
    assert health.numbers["recall"].value == 0 and np.isfinite(health.numbers["entropy"].value)
    json.dumps(health.to_dict(), allow_nan=False)


def test_a_network_from_a_file(tmp_path):
    pytest.importorskip("timm")
    health = H.report(HELDOUT[:20], TRAIN[:40], HELDOUT[20:60], space="dinov2", weights=stand_in("dinov2", tmp_path / "w.safetensors"), cache=False)
    assert health.space == "dinov2" and np.isfinite(health.numbers["frechet"].value)


def test_spoil():
    x = HELDOUT[:200]
    noise, pepper, blend = (H.spoil(x, kind).pixels.astype(float) for kind in ("noise", "salt and pepper", "blend"))
    assert abs(noise.mean() - 127.5) < 3 and abs((pepper != x.pixels).mean() - 0.2 * (1 - np.isin(x.pixels, (0, 255)).mean() / 2)) < 0.02
    assert (blend == (x.pixels.astype(int) + np.roll(x.pixels, 1, 0)) // 2).all()
    assert (H.spoil(x, "noise", 1).pixels != noise).any()
    with pytest.raises(ValueError, match="kind = 'fog'.*blend"): H.spoil(x, "fog")
