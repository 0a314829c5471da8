"""What people's own files are like: each fault that was met, with the right value."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from collapse_nb import project as P
from collapse_nb.data import Images, check_heldout, load_images, places
from collapse_nb.folders import channels_first, decode, list_pictures, read_image_files, sort_files
from collapse_nb.sets import file_names, read_pool, read_set, read_sets

RNG = np.random.default_rng(0)


def noise(*shape): return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels, kind="PNG", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, kind, **options)
    return path


def folder(path: Path, pixels) -> Path:
    for i, x in enumerate(pixels): save(path / f"{i:03d}.png", x)
    return path


# ---- pictures as they are seen

@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("way", range(1, 9))
def test_a_camera_that_was_turned(tmp_path, kind, way):
    exif = Image.Exif()
    exif[0x0112] = way
    path = save(tmp_path / f"a.{kind.lower()}", noise(6, 8, 3), kind, exif=exif, **dict(lossless=True) if kind == "WEBP" else {})
    with Image.open(path) as im: expected = np.asarray(ImageOps.exif_transpose(im)).transpose(2, 0, 1)
    got = decode(path.read_bytes(), "a")
    assert (got == expected).all() and got.shape[1:] == ((8, 6) if way > 4 else (6, 8))


def test_damaged_exif_leaves_the_picture(tmp_path):
    path = save(tmp_path / "a.jpg", noise(8, 8, 3), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    assert decode(path.read_bytes(), "a").shape == (3, 8, 8)


def test_the_first_picture_of_a_camera_file_of_two(tmp_path):
    first, preview = noise(8, 8, 3), Image.fromarray(noise(4, 4, 3))
    path = save(tmp_path / "a.jpg", first, "MPO", save_all=True, append_images=[preview])
    with Image.open(path) as im: assert (im.format, im.n_frames) == ("MPO", 2)
    (tmp_path / "one.jpg").write_bytes(b"")
    Image.fromarray(first).save(tmp_path / "one.jpg", "JPEG")
    assert (decode(path.read_bytes(), "a") == decode((tmp_path / "one.jpg").read_bytes(), "one")).all()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_png_with_a_long_text(tmp_path, zipped):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", "x" * 3_000_000, zip=zipped)
    texts.add_itxt("prompt", "y" * 3_000_000, zip=zipped)
    x = noise(8, 8, 3)
    assert (decode(save(tmp_path / "a.png", x, pnginfo=texts).read_bytes(), "a") == x.transpose(2, 0, 1)).all()


def png16(channels: int) -> bytes:
    "A PNG of 16 bits a channel, which PIL does not write."
    import struct
    import zlib
    def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes(noise(8 * 2 * channels)) for _ in range(8))
    head = struct.pack(">IIBBBBB", 8, 8, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_not_cut_to_eight(channels):
    with pytest.raises(ValueError, match=r"deep.png: (16 bits a channel|mode I;16).*allowed: 8-bit"): decode(png16(channels), "deep.png")


@pytest.mark.parametrize("background, rgb", [("white", 255), ("black", 0), ("#404040", 64)])
def test_what_is_behind_a_transparent_picture(tmp_path, background, rgb):
    x = noise(4, 4, 4)
    x[:2, :, 3], x[2:, :, 3] = 0, 255
    data = save(tmp_path / "d" / "a.png", x).read_bytes()
    with pytest.raises(ValueError, match="a.png: transparent in places.*--background"): decode(data, "a.png")
    got = decode(data, "a", background)
    assert (got[:, :2] == rgb).all() and (got[:, 2:] == x[2:, :, :3].transpose(2, 0, 1)).all()
    assert (read_set(tmp_path / "d", "train", background=background).pixels[0] == got).all()
    assert (read_pool(tmp_path / "d", file_names(tmp_path / "d", background=background), None, background=background).pixels[0] == got).all()
    with pytest.raises(ValueError, match="background = 'wite'.*allowed: a colour"): decode(data, "a", "wite")


# ---- files beside pictures

def test_other_files_are_passed_over_and_counted(tmp_path):
    good = folder(tmp_path / "d", noise(9, 8, 8))
    (good / "notes.txt").write_text("x"); (good / "cut.png").write_bytes((good / "000.png").read_bytes()[:50])
    save(good / "film.webp", noise(8, 8, 3), "WEBP", save_all=True, append_images=[Image.fromarray(noise(8, 8, 3))])
    (good / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="cut.png cannot be read|gone.png"): read_set(good, "train")
    names, others = sort_files(good, skip_other=True)
    assert names == [f"{i:03d}.png" for i in range(9)] and [o.split(":")[0] for o in others] == ["cut.png", "film.webp", "gone.png", "notes.txt"]
    sets = read_sets(noise(10, 8, 8), good, skip_other=True)
    assert len(sets["train"]) == 9 and sets.left_out == {"files of train that are no pictures to be read": 4} and sets.names["train"] == names
    assert sets.notes == ["left out: 4 files of train that are no pictures to be read"]
    assert len(read_pool(good, file_names(good, skip_other=True), None)) == 9


@pytest.mark.parametrize("link, words", [("gone.png", "gone.png' is a link that leads nowhere"), ("round", "round' is a link that leads nowhere, or in a circle")])
def test_links_that_lead_nowhere(tmp_path, link, words):
    d = folder(tmp_path / "d" / "a", noise(8, 8, 8))
    (d / link).symlink_to(tmp_path / "d" if link == "round" else tmp_path / "nowhere.png")
    for read in (lambda: list_pictures(tmp_path / "d"), lambda: load_images(f"folder:{tmp_path / 'd'}")):
        with pytest.raises(ValueError, match=words): read()
    (d / link).unlink()
    (tmp_path / "twice").symlink_to(d)  # a link that ends is followed
    assert len(list_pictures(tmp_path / "twice")) == 8
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="leads nowhere"): read_set(tmp_path / "gone", "train")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(folder(tmp_path / "d", noise(2, 8, 8)) / "pipe.png")
    with pytest.raises(ValueError, match="pipe.png' is no regular file"): list_pictures(tmp_path / "d")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_names_the_picture(tmp_path, method):
    data = save(tmp_path / "a.png", noise(32, 32, 3)).read_bytes()
    with zipfile.ZipFile(tmp_path / "z.zip", "w", method) as z: z.writestr("in/a.png", data)
    assert read_image_files(tmp_path / "z.zip", ["in/a.png"], None).shape == (1, 3, 32, 32)
    cut = bytearray((tmp_path / "z.zip").read_bytes())
    cut[200:260] = bytes(60)
    (tmp_path / "z.zip").write_bytes(cut)
    with pytest.raises(ValueError, match="z.zip/in/a.png cannot be read"): read_image_files(tmp_path / "z.zip", ["in/a.png"], None)


# ---- paths

@pytest.mark.parametrize("path", ["", "  ", "folder:", "npz: "])
def test_an_empty_path_is_not_the_working_directory(tmp_path, monkeypatch, path):
    monkeypatch.chdir(folder(tmp_path, noise(8, 8, 8)))
    with pytest.raises(ValueError, match="(train|folder|npz) = '.*' is empty"): read_set(path, "train")


@pytest.mark.parametrize("name", ["folder", "npz", "2024"])
def test_a_folder_may_have_any_name(tmp_path, monkeypatch, name):
    x = noise(8, 8, 8)
    monkeypatch.chdir(folder(tmp_path / name, x).parent)
    for said in (name, f"./{name}", f"folder:{name}", f"{name}/"): assert (read_set(said, "train").pixels[:, 0] == x).all()


def test_nobody_has_a_home(tmp_path, monkeypatch):
    def unknown(*_): raise RuntimeError("Could not determine home directory.")
    monkeypatch.setattr(Path, "home", unknown); monkeypatch.setattr(Path, "expanduser", lambda p: unknown() if str(p).startswith("~") else p)
    x = noise(8, 8, 8)
    assert (read_set(folder(tmp_path / "d", x), "train").pixels[:, 0] == x).all() and len(load_images("digits", n=3)) == 3
    assert all(p.is_absolute() for p in places())
    with pytest.raises(ValueError, match="train = '~/d': nobody knows this home directory .allowed: an absolute path"): read_set("~/d", "train")


# ---- arrays

def test_one_colour_picture_is_not_many_grey_ones(tmp_path):
    for shape in ((40, 30, 3), (3, 40, 30)):
        with pytest.raises(ValueError, match=r"one colour picture or \d+ grey ones.*allowed: \[1, "): channels_first(noise(*shape), "x")
    np.save(tmp_path / "one.npy", noise(40, 30, 3))
    with pytest.raises(ValueError, match=r"one.npy: pixels: uint8 \[40, 30, 3\]"): read_set(tmp_path / "one.npy", "train")
    assert channels_first(noise(1, 40, 30, 3), "x").shape == (1, 3, 40, 30)


@pytest.mark.parametrize("shape, expected", [((20, 3, 8, 8), (3, 8, 8)), ((20, 8, 8, 3), (3, 8, 8)), ((20, 8, 6), (1, 8, 6))])
def test_an_npy_is_read(tmp_path, shape, expected):
    x = noise(*shape)
    np.save(tmp_path / "X.NPY", x); os.rename(tmp_path / "X.NPY.npy", tmp_path / "X.NPY")
    for images in (read_set(tmp_path / "X.NPY", "train"), read_pool(tmp_path / "X.NPY", file_names(tmp_path / "X.NPY"), None)):
        assert images.shape == expected and (channels_first(x, "x") == images.pixels).all()
    kept, held = (load_images(f"npz:{tmp_path / 'X.NPY'}", split=s) for s in ("train", "heldout"))
    assert (len(kept), len(held)) == (16, 4)


def test_an_npy_stays_on_disk_until_it_is_used(tmp_path):
    from collapse_nb.folders import plain_arrays
    np.save(tmp_path / "x.npy", noise(20, 8, 8))
    assert isinstance(plain_arrays(tmp_path / "x.npy")["pixels"], np.memmap)
    np.save(tmp_path / "o.npy", np.array([None, 1]), allow_pickle=True)
    with pytest.raises(ValueError, match="o.npy cannot be read as an npy of plain arrays"): plain_arrays(tmp_path / "o.npy")


def test_a_sheet_of_pictures_called_grid_is_no_grid(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=noise(20, 8, 8), grid=noise(64, 64, 3), dataset=np.arange(3))
    for images in (read_set(tmp_path / "a.npz", "train"), read_pool(tmp_path / "a.npz", None, None)): assert images.grid == 1
    Images(noise(20, 1, 8, 8), grid=17.0).save(tmp_path / "b.npz")
    assert read_set(tmp_path / "b.npz", "train").grid == 17


@pytest.mark.parametrize("last, right", [(np.uint8(7), True), (np.uint64(7), True), (np.uint64(2**63 + 1), False), (np.int64(10**12), False), (np.int64(-1), False)])
def test_labels_that_are_huge_or_unsigned(tmp_path, last, right):
    labels = np.zeros(20, last.dtype)
    labels[-1] = last
    np.savez(tmp_path / "a.npz", pixels=noise(20, 8, 8), labels=labels)
    if right:
        assert read_pool(tmp_path / "a.npz", None, None).labels.tolist() == [0] * 19 + [7]
        return
    with pytest.raises(ValueError, match=f"a.npz: labels .*{last}.*at most 999,999"): read_pool(tmp_path / "a.npz", None, None)
    if last > 0:
        with pytest.raises(ValueError, match=f"labels: {last} is out of range"): Images(noise(20, 1, 8, 8), labels)


def test_grey_pictures_compare_however_they_are_kept(tmp_path):
    grey, colour = noise(20, 8, 8), noise(20, 8, 8, 3)
    folder(tmp_path / "grey", grey); folder(tmp_path / "colour", colour)
    np.savez(tmp_path / "grey.npz", arr_0=grey[..., None].repeat(3, -1))
    for a, b in (("grey", "grey.npz"), ("grey.npz", "grey")):
        sets = read_sets(tmp_path / a, tmp_path / b)
        assert sets["train"].shape == (1, 8, 8) and (sets["train"].pixels == sets["generated"].pixels).all()
    sets = read_sets(tmp_path / "grey", tmp_path / "colour")  # samples that have lost all colour
    assert (sets["generated"].pixels == grey[:, None].repeat(3, 1)).all() and (sets["train"].pixels == colour.transpose(0, 3, 1, 2)).all()
    with pytest.raises(ValueError, match="grey .*RGB .*allowed: one shape"): read_sets(grey, colour)


# ---- sets in sets

def test_train_that_holds_the_other_two(tmp_path):
    made, train, test = noise(20, 8, 8), noise(30, 8, 8), noise(40, 8, 8)
    photos = tmp_path / "photos"
    for name, x in dict(gen=made, train=train, test=test).items(): folder(photos / name, x)
    sets = read_sets(photos / "gen", photos, f"folder:{photos}/test/")
    assert (sets["train"].pixels[:, 0] == train).all() and (sets["reference"].pixels[:, 0] == test).all()
    assert sets.left_out == {"pictures of train in the folder of generated or reference": 60}
    (tmp_path / "link").symlink_to(photos / "test")
    assert len(read_sets(photos / "gen", photos, tmp_path / "link")["train"]) == 30
    assert read_sets(photos / "gen", photos / "train").left_out == {}
    assert len(read_sets(photos / "train", photos / "train")["train"]) == 30  # the same twice: copies, as it says
    with pytest.raises(ValueError, match="gen2 holds no pictures but those of another set"):
        folder(tmp_path / "gen2" / "a", made)
        read_sets(tmp_path / "gen2" / "a", tmp_path / "gen2")


def test_reference_images_that_are_in_train(tmp_path):
    made, train, test = (Images(noise(n, 1, 8, 8)) for n in (20, 30, 40))
    both = Images.concat([test, train[:25]])
    sets = read_sets(made, train, both)
    assert (sets["reference"].pixels == test.pixels).all() and sets.left_out == {"images of reference that are exactly in train": 25}
    with pytest.raises(ValueError, match=r"reference: 25 of its 36 images are exactly in train, 11 others remain .allowed: at least 12"):
        read_sets(made, train, both[29:])
    with pytest.raises(ValueError, match="reference: 30 of its 30 images"): read_sets(made, train, train)


def test_the_copy_verdict_is_not_silenced(tmp_path):
    from collapse_nb import report
    digits = load_images("digits", n=200)
    for name, x in dict(train=digits[:100], test=digits[100:]).items(): folder(tmp_path / name, x.pixels[:, 0])
    folder(tmp_path / "gen", digits[:60].pixels[:, 0])
    assert report(tmp_path / "gen", tmp_path, tmp_path / "test").found("memorizing")


# ---- before any work

def test_a_held_out_image_has_no_neighbour():
    with pytest.raises(ValueError, match="1 image held out.*at least 2; with 8 different images"): check_heldout(Images(noise(1, 1, 8, 8), dataset="folder:x"))
    check_heldout(Images(noise(2, 1, 8, 8)))


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:200], lambda b: b"PK" + b[:100]])
def test_a_cut_file_of_images_is_named(tmp_path, damage):
    path = tmp_path / "generated.npz"
    Images(noise(20, 1, 8, 8)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="generated.npz cannot be read as images"): Images.load(path)
    with pytest.raises(FileNotFoundError): Images.load(tmp_path / "none.npz")


# ---- parameters of notebooks

@pytest.mark.parametrize("default, value, meant", [
    ("None", 2024, "2024"), ("'figures'", 7, "7"), ("None", "none", None), ("None", "2024", "2024"), ("None", None, None)])
def test_a_path_that_papermill_reads_as_a_number(default, value, meant):
    space = {"In": [f"out_dir = {default}", f"# Parameters\nout_dir = {value!r}"], "out_dir": value}
    P.check_parameters(space, "out_dir")
    assert space["out_dir"] == meant


def test_lists_numbers_and_mappings_as_parameters():
    cells = ["%pip list", "seeds = '0, 1'\nstrategies = 'vanilla'\nseed = 0\nguidance = None", "# Parameters\nseeds = [3, 4]\nstrategies = ['greedy']\nseed = 2\nguidance = 'none'\nmore = {'alpha': .8}"]
    space = {"In": cells, "seeds": [3, 4], "strategies": ["greedy"], "seed": 2, "guidance": "none", "more": {"alpha": .8}}
    P.check_parameters(space, "seeds", "strategies", "seed", "guidance", "more")
    assert [space[k] for k in ("seeds", "strategies", "seed", "guidance", "more")] == ["3, 4", "greedy", 2, "none", {"alpha": .8}]
    def refused(name, value):
        P.check_parameters({"In": [f"{name} = 'x'", f"# Parameters\n{name} = {value!r}"], name: value}, name)
    with pytest.raises(ValueError, match=r"seeds = \{'a': 1\} .allowed: a text, a number, or a list"): refused("seeds", {"a": 1})
    with pytest.raises(ValueError, match="out_dir = 2024.1 is no path.*-r out_dir"): refused("out_dir", 2024.1)
    with pytest.raises(ValueError, match="out_dir = True is no path"): refused("out_dir", True)


# ---- three hundred damaged files of each format

def whole_files() -> dict[str, bytes]:
    made, x = {}, noise(24, 24, 3)
    x[:12] = 7  # not noise alone: more of a file's structure is met
    for name, kind in dict(png="PNG", jpg="JPEG", webp="WEBP").items():
        Image.fromarray(x).save(buffer := io.BytesIO(), kind)
        made[name] = buffer.getvalue()
    for name, write in dict(npz=lambda b: np.savez_compressed(b, pixels=noise(6, 8, 8), labels=np.arange(6)), npy=lambda b: np.save(b, noise(6, 8, 8))).items():
        write(buffer := io.BytesIO())
        made[name] = buffer.getvalue()
    for name, method in dict(zip=zipfile.ZIP_DEFLATED, bz2=zipfile.ZIP_BZIP2, xz=zipfile.ZIP_LZMA).items():
        with zipfile.ZipFile(buffer := io.BytesIO(), "w", method) as z:
            for i in range(2): z.writestr(f"{i}.png", made["png"])
        made[name] = buffer.getvalue()
    return made


def damaged(data: bytes, rng) -> bytes:
    kind, data = rng.integers(4), bytearray(data)
    if kind == 0: return bytes(data[:rng.integers(len(data))])
    where = rng.integers(0, len(data) if kind > 1 else min(64, len(data)), rng.integers(1, 12))
    for i in where: data[i] = rng.integers(256)
    if kind == 3: data = data[:len(data) // 2] + data[len(data) // 2 + rng.integers(1, 9):]
    return bytes(data)


@pytest.mark.filterwarnings("ignore")  # what PIL and numpy think of the damage is not asked
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "npz", "npy", "zip", "bz2", "xz"])
def test_damaged_files_are_named(tmp_path, ending):
    rng, data, refused = np.random.default_rng(20), whole_files()[ending], 0
    picture, packed = ending in ("png", "jpg", "webp"), ending in ("zip", "bz2", "xz")
    name = f"x.{'zip' if packed else ending}"
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / name if picture else tmp_path / name
    for _ in range(300):
        path.write_bytes(damaged(data, rng))
        try: read_set(path.parent if picture else path, "train")
        except (ValueError, OSError) as e:
            assert name in str(e), e
            refused += 1
    assert refused > 30
