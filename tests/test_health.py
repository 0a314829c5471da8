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
from collapse_nb import verdicts as V
from collapse_nb.entropy import kl_entropy
from collapse_nb.health_page import tile
from collapse_nb import sets as S
from collapse_nb.data import Images, load_images
from collapse_nb.fid import export_images, export_npz
from collapse_nb.metrics import distance_to_train, frechet_distance, memorized_fraction, novelty_ratio, prdc
from collapse_nb.networks import random_weights
from collapse_nb.selection import select
from collapse_nb.two_samples import TWO_SAMPLES

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
    noise = V.spoil(HELDOUT[:100], "noise")
    assert {"memorizing", "losing diversity"} <= set(found(H.report(copies, TRAIN, HELDOUT, space=space)))
    assert found(H.report(few, TRAIN, HELDOUT, space=space)) == ["losing diversity"]
    assert {"garbage", "losing diversity"} <= set(found(H.report(noise, TRAIN, HELDOUT, space=space)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("space", ["pixel", "classifier"])
def test_noise_that_greedy_selection_loves_raises_the_warning(space, seed):
    order = np.random.default_rng(seed).permutation(1000)
    train, pool = DIGITS[order[:128]], DIGITS[order[128:384]]
    dirty = Images.concat([pool[:-13], V.spoil(pool[-13:], "noise", seed)])
    points = {name: H.embed(x, space) for name, x in dict(clean=pool, dirty=dirty).items()}
    index = {name: select("greedy", z, 128, seed=seed)[0] for name, z in points.items()}
    assert (index["dirty"] >= 243).sum() > 6.5, "more than chance"
    clean, spoiled = (H.report(x[index[name]], train, HELDOUT, space=space) for name, x in dict(clean=pool, dirty=dirty).items())
    assert spoiled.warnings and spoiled.found("garbage") and spoiled.numbers["entropy"].low > spoiled.numbers["entropy"].real_high
    assert not clean.warnings and not clean.found("garbage") and clean.numbers["entropy"].low > clean.numbers["entropy"].real_high
    z, real = points["dirty"], H.embed(train, space)
    kept = V.far_away(z, real) <= 1
    assert not kept[-13:].any() and kept[:-13].mean() > 0.9, "the remedy"


def test_numbers_are_those_of_the_metrics():
    made, r = HELDOUT[:60], HELDOUT[60:]
    health = H.report(made, TRAIN, r, draws=3, seed=7, transformations=False)
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
    again, other = (H.report(made, TRAIN, r, draws=3, seed=s, transformations=False) for s in (7, 8))
    assert again.to_dict() == health.to_dict() != other.to_dict()


def test_n_limits_the_sets_that_are_drawn_from_and_never_the_training_set():
    health = H.report(HELDOUT[:300], DIGITS, HELDOUT[300:], n=50)
    assert health.sizes == dict(generated=50, train=1000, reference=100, draw=50)


def test_far_away_by_hand():
    real = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert V.far_away(np.array([[0.0], [3.5], [5.0]]), real).tolist() == [0, 0.5, 2]
    assert V.far_away(np.array([[0.0], [1.0]]), np.zeros((4, 1))).tolist() == [0, np.inf]


def test_judge_by_its_stated_limits():
    n = V.Number
    fine = dict(novelty=n(0.51, 0.4, 0.6, 1), memorized=n(0.1, 0.04, 0.2, 0.0), recall=n(0.81, real=1), coverage=n(0.81, real=1),
                isolated=n(0.05, 0.01), precision=n(0.81, real=1),
                density=n(0.51, real=1), frechet=n(2, real=1), entropy=n(0, 0, 0, 0, 0, 0), duplicates=n(0.05, real=0.01))
    def of(**changed): return [v.name for v in V.judge(fine | changed, 10) if v.found]
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
    names = ("novelty", "recall", "coverage", "precision", "density", "frechet", *TWO_SAMPLES)
    assert health.missing == [V.LABELS[x] for x in names]
    assert "not measured without a reference: novelty" in repr(health)
    assert "Not measured without a reference" in health._repr_html_()
    assert H.report(HELDOUT[:50], TRAIN).found("memorizing") is False
    assert "unseen" not in repr(health) and "any training image" in repr(H.report(V.spoil(HELDOUT[:50], "noise"), TRAIN))
    with pytest.raises(ValueError, match="memorising.*memorizing"):
        health.found("memorising")


def test_the_json_can_be_read_back(tmp_path):
    health = H.report(HELDOUT[:50], TRAIN, HELDOUT[50:])
    health.save(tmp_path / "h.json")
    found = json.loads((tmp_path / "h.json").read_text())
    assert found["schema"] == H.SCHEMA and found["numbers"]["duplicates"]["low"] is None and found["warnings"] == []
    assert set(found["numbers"]) == set(V.LABELS) - {"copies_space"}
    back = H.Health.load(tmp_path / "h.json")
    assert back.to_dict() == health.to_dict() and repr(back) == repr(health)
    assert back.to_frame().equals(health.to_frame()) and "<table" in back._repr_html_()
    for text, words in (("{}", "KeyError: 'schema'"), ('{"schema": 99}', "schema 99 .allowed: 1"), ("x", "h.json is no report")):
        (tmp_path / "h.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            H.Health.load(tmp_path / "h.json")


def test_every_number_and_its_meaning_is_shown():
    health = H.report(HELDOUT[:50], TRAIN, HELDOUT[50:])
    page = health.page()
    assert set(V.MEANINGS) == set(V.LABELS)
    for name in health.numbers:
        assert V.LABELS[name] in repr(health) and V.LABELS[name] in page and V.MEANINGS[name] in page
    p, far = health.pairs, health.isolated
    assert len(p) == len(far) == 8 and sorted(x["ratio"] for x in p if not x["copy"]) == [x["ratio"] for x in p if not x["copy"]]


def pictures_in(text):
    import base64
    return [Image.open(io.BytesIO(base64.b64decode(b))) for b in re.findall(r"data:image/png;base64,([^\"]+)", text)]


def test_the_pictures_are_the_images():
    health = H.report(HELDOUT[:50], TRAIN, HELDOUT[50:], show=3)
    shown = pictures_in(health._repr_html_())[1:]  # the first is the plot of the distances
    assert len(shown) == 3 * 2 + 3 and all(x.mode == "L" and x.size == (96, 96) for x in shown)
    for p, made, real in zip(health.pairs, shown[0:6:2], shown[1:6:2]):
        assert (np.asarray(made)[::12, ::12] == HELDOUT.pixels[p["generated"], 0]).all()
        assert (np.asarray(real)[::12, ::12] == TRAIN.pixels[p["train"], 0]).all()


@pytest.mark.parametrize("shape, size", [((3, 8, 8), (96, 96)), ((3, 40, 30), (90, 120)), ((3, 400, 400), (192, 192)), ((1, 800, 400), (96, 192))])
def test_tiles_of_colour_and_large_images(shape, size):
    x = np.zeros(shape, np.uint8)
    x[0] = 200
    made = Image.open(io.BytesIO(tile(x)))
    assert made.mode == ("RGB" if shape[0] == 3 else "L") and made.size == size
    assert np.asarray(made)[40, 40].tolist() == ([200, 0, 0] if shape[0] == 3 else 200)


def test_one_row_for_each_image(tmp_path):
    made = Images.concat([TRAIN[:4], HELDOUT[:40], HELDOUT[:3], V.spoil(HELDOUT[:3], "noise")])
    export_images(replace(made, labels=None), tmp_path / "made")
    health = H.report(tmp_path / "made", TRAIN, HELDOUT[60:])
    rows = health.to_frame().set_index("image")
    assert len(rows) == 50 and rows.index[0].endswith(".png") and list(rows.match[:4]) == list(rows.nearest[:4]) == [0, 1, 2, 3]
    assert rows["copy"].tolist() == [True] * 4 + [False] * 46
    assert rows.isolated[-3:].all() and rows.isolated[4:-3].mean() < 0.1
    assert rows.group[4:7].tolist() == rows.group[44:47].tolist() == [0, 1, 2] and rows.group.notna().sum() == 6
    assert sorted(map(sorted, health.groups["generated"])) == [[rows.index[4 + i], rows.index[44 + i]] for i in range(3)]
    assert rows.entropy_term.mean() == pytest.approx(kl_entropy(made)) and (rows.entropy_term[4:7] < rows.entropy_term.median()).all()
    kept = set(health.kept)
    assert not kept & {0, 1, 2, 3, 44, 45, 46, 47, 48, 49} and {4, 5} <= kept
    assert "near-duplicates among generated: 6 images in 3 groups; the largest: " in repr(health)
    assert f"copies (4 of 4):\n    {rows.index[0]} is 0, as it is (ratio 0.00)" in repr(health)
    page = health.page("my <images>")
    assert page.count("<tr>") > 50 and "my &lt;images&gt;" in page and "http" not in page


@pytest.mark.parametrize("change", ["mirrored", "shifted", "brighter"])
def test_a_reference_that_overlaps_does_not_silence_the_verdict(change):
    "Half of the reference shows training images, changed; copies are found all the same."
    x = DIGITS[:300].pixels
    changed = {"mirrored": x[..., ::-1], "shifted": np.roll(x, 1, 3), "brighter": np.clip(x * 0.8 + 30, 0, 255).astype(np.uint8)}
    reference = np.concatenate([changed[change][:250], HELDOUT.pixels[:500]])
    health = H.report(np.ascontiguousarray(changed[change][250:]), DIGITS, reference)
    assert health.found("memorizing") and health.numbers["copies"].value > 0.9
    assert health.sizes["reference"] <= 510 and any("near-duplicates of training images" in n for n in health.notes)


def test_too_much_overlap_is_refused():
    shifted = np.roll(DIGITS[:300].pixels, 1, 3)
    with pytest.raises(ValueError, match="of 400 reference images show what a training image shows"):
        H.report(HELDOUT[100:200], DIGITS, np.concatenate([shifted, HELDOUT.pixels[:100]]))


def test_a_network_is_a_second_opinion():
    noisy = replace(TRAIN, pixels=np.clip(TRAIN.pixels + np.random.default_rng(0).normal(0, 20, TRAIN.pixels.shape), 0, 255).astype(np.uint8))
    health = H.report(noisy, TRAIN, HELDOUT, space="classifier")
    assert set(health.limits) == {"pixel", "classifier"} and health.numbers["copies_space"].real <= 0.02
    assert "copies by classifier: ratio" in repr(health) and health.numbers["copies"].value > 0.9


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
    health = H.report(HELDOUT[:20], TRAIN[:40], HELDOUT[20:60], space="dinov2", weights=random_weights("dinov2", tmp_path / "w.safetensors"), cache=False)
    assert health.space == "dinov2" and np.isfinite(health.numbers["frechet"].value)


def test_spoil():
    x = HELDOUT[:200]
    noise, pepper, blend = (V.spoil(x, kind).pixels.astype(float) for kind in ("noise", "salt and pepper", "blend"))
    assert abs(noise.mean() - 127.5) < 3 and abs((pepper != x.pixels).mean() - 0.2 * (1 - np.isin(x.pixels, (0, 255)).mean() / 2)) < 0.02
    assert (blend == (x.pixels.astype(int) + np.roll(x.pixels, 1, 0)) // 2).all()
    assert (V.spoil(x, "noise", 1).pixels != noise).any()
    with pytest.raises(ValueError, match="kind = 'fog'.*blend"): V.spoil(x, "fog")
