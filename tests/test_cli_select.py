"""collapse-nb select: features from a file, a distance of one's own from real images, file names, where the choice goes."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_cli import environment

from collapse_nb.data import load_images
from collapse_nb.fid import export_images
from collapse_nb.selection import greedy, guarded

RNG = np.random.default_rng(0)


@pytest.fixture
def nb(tmp_path, capsys):
    "collapse-nb ARGUMENTS, with relative paths in a directory of its own."
    from collapse_nb.cli import main

    def call(*arguments, code=0):
        assert main([*map(str, arguments)]) == code
        return capsys.readouterr()
    with pytest.MonkeyPatch.context() as m:
        m.chdir(tmp_path)
        yield call


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    "Digits as PNG and as npz, held-out ones, noise among digits; features, and a reference for them."
    there, digits = tmp_path_factory.mktemp("select"), load_images("digits", n=60)
    export_images(digits, there / "photos")
    real = load_images("digits", split="heldout", n=40)
    export_images(real, there / "real")
    noise = RNG.integers(0, 256, (10, 1, 8, 8), dtype=np.uint8)
    np.savez(there / "noisy.npz", pixels=np.concatenate([digits.pixels, noise]), names=np.array([f"img-{i}.png" for i in range(70)]))
    points = RNG.normal(size=(500, 6)).astype(np.float16)
    points[450:] *= 20
    np.save(there / "features.npy", points)
    np.save(there / "real.npy", RNG.normal(size=(100, 6)).astype(np.float32))
    return there


def loaded(path):
    with np.load(path, allow_pickle=False) as z: return {k: z[k] for k in z.files}


def test_features_are_chosen_as_the_function_does(nb, there, tmp_path):
    said = nb("select", there / "features.npy", "--n", 50, "--out", "kept.npz").out
    points, kept = np.load(there / "features.npy"), loaded(tmp_path / "kept.npz")
    assert kept["index"].tolist() == greedy(points, 50, start=kept["index"][0]).tolist()
    np.testing.assert_array_equal(kept["features"], points[kept["index"]])
    assert kept["features"].dtype == np.float16 and "pixels" not in kept and "6 features, seed 0: 50 of 500" in said
    assert re.search(r"entropy of the 50 kept: \S+ nats", said)
    nb("select", there / "features.npy", "--n", 50, "--out", "kept.npy")
    assert np.load(tmp_path / "kept.npy").tolist() == kept["index"].tolist()


@pytest.mark.parametrize("strategy", ["greedy", "threshold_decay", "vanilla", "max_entropy"])
def test_within_a_distance_of_the_reference(nb, there, tmp_path, strategy):
    points, real = np.load(there / "features.npy").astype(float), np.load(there / "real.npy").astype(float)
    away = np.linalg.norm(points[:, None] - real, axis=2).min(1)
    said = nb("select", there / "features.npy", "--n", 20, "--strategy", strategy, "--reference", there / "real.npy", "--within", 2.5,
              "--out", "kept.npz").out
    kept, inside = loaded(tmp_path / "kept.npz"), np.flatnonzero(away <= 2.5)
    assert set(kept["index"]) <= set(inside) and kept["within"] == 2.5 and str(kept["reference"]) == str(there / "real.npy")
    assert f"{len(inside):,} lie within 2.5 of the reference" in said and 20 < len(inside) < 450
    if strategy == "greedy":
        start = np.searchsorted(inside, kept["index"][0])
        assert kept["index"].tolist() == inside[greedy(points[inside].astype(np.float16), 20, start=start)].tolist()


def test_a_guard_of_ones_own_keeps_noise_out(nb, there, tmp_path):
    ask = ("select", there / "noisy.npz", "--n", 20, "--force", "--out", "kept.npz")
    nb(*ask)
    assert (loaded(tmp_path / "kept.npz")["index"] >= 60).sum() >= 8
    nb(*ask, "--reference", there / "real", "--within", 600)
    kept = loaded(tmp_path / "kept.npz")
    assert (kept["index"] < 60).all() and kept["names"].tolist() == [f"img-{i}.png" for i in kept["index"]]


def test_an_error_says_which_distance_would_do(nb, there, tmp_path):
    ask = ("select", there / "features.npy", "--n", 400, "--reference", there / "real.npy", "--out", "kept.npz", "--within")
    error = nb(*ask, 1, code=2).err
    enough = re.search(r"within = 1: \d+ of 500 lie so close to the reference .allowed for n = 400: (\S+) or more", error)[1]
    assert not (tmp_path / "kept.npz").exists()
    nb(*ask, enough)
    assert len(loaded(tmp_path / "kept.npz")["index"]) == 400


def test_guarded_takes_features(nb, there, tmp_path):
    said = nb("select", there / "features.npy", "--n", 30, "--strategy", "guarded", "--reference", there / "real.npy", "--out", "k.npz").out
    index = loaded(tmp_path / "k.npz")["index"]
    points, real = np.load(there / "features.npy"), np.load(there / "real.npy")
    assert index.tolist() == guarded(points, 30, reference=real, start=index[0]).tolist() and "lie within" in said


def test_names_survive_a_second_selection(nb, there, tmp_path):
    nb("select", there / "photos", "--n", 30, "--out", "first.npz")
    nb("select", "first.npz", "--n", 10, "--out", "second.npz")
    first, second = loaded(tmp_path / "first.npz"), loaded(tmp_path / "second.npz")
    assert second["names"].tolist() == first["names"][second["index"]].tolist()
    nb("select", there / "photos", "--n", 30, "--out", "files")
    assert {p.name for p in (tmp_path / "files").iterdir()} == set(first["names"])
    nb("select", there / "photos", "--n", 30, "--out", "first.npy")
    assert np.load(tmp_path / "first.npy").tolist() == first["index"].tolist()


def test_what_is_no_picture_is_passed_over_on_request(nb, there, tmp_path):
    shutil.copytree(there / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "notes.csv").write_text("1,2")
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[2:5, 3, 3] = 255
    Image.fromarray(clear).save(tmp_path / "photos" / "clear.png")
    ask = ("select", "photos", "--n", 10, "--out", "kept.npz", "--force")
    assert "--skip-other" in nb(*ask, code=2).err
    assert "photos: 2 other files passed over, the first" in nb(*ask, "--skip-other").out
    assert "photos: 1 other files passed over" in nb(*ask, "--skip-other", "--background", "white").out
    kept = loaded(tmp_path / "kept.npz")
    assert "notes.csv" not in kept["names"] and kept["pixels"].shape[1:] == (1, 8, 8)


def test_grey_pictures_kept_in_two_ways_are_compared(nb, there, tmp_path):
    grey = load_images("digits", split="heldout", n=40).pixels
    np.savez(tmp_path / "colour.npz", pixels=grey.repeat(3, axis=1))
    ask = ("select", there / "photos", "--n", 20, "--force", "--out", "kept.npz", "--strategy", "guarded", "--reference")
    nb(*ask, there / "real")
    first = loaded(tmp_path / "kept.npz")["index"].tolist()
    nb(*ask, "colour.npz")
    assert loaded(tmp_path / "kept.npz")["index"].tolist() == first


@pytest.mark.parametrize("arguments, words", [
    (("features.npy", "--n", "501"), "n = 501 is out of range .allowed: 2 to 500"),
    (("features.npy", "--n", "9", "--out", "folder"), "has no files to copy .allowed: a name ending in .npz or .npy"),
    (("features.npy", "--n", "9", "--space", "classifier"), "space = 'classifier': INPUT holds features"),
    (("features.npy", "--n", "9", "--side", "4"), "side = 4: INPUT holds features"),
    (("features.npy", "--n", "9", "--within", "2"), "within = 2: of what. .allowed: with --reference"),
    (("features.npy", "--n", "9", "--within", "nan", "--reference", "real.npy"), "within = nan"),
    (("features.npy", "--n", "9", "--within", "-1", "--reference", "real.npy"), "within = -1"),
    (("features.npy", "--n", "9", "--within", "2", "--reference", "real.npy", "--strategy", "guarded"), "'guarded' sets a limit of its own"),
    (("features.npy", "--n", "9", "--reference", "real.npy"), "'greedy' looks at none .allowed: with --strategy guarded, or with --within"),
    (("features.npy", "--n", "9", "--reference", "real", "--within", "2"), r"allowed: an npy of features \[N, 6\]"),
    (("photos", "--n", "9", "--reference", "real.npy", "--within", "2"), "holds features, INPUT images"),
    (("features.npy", "--n", "9", "--out", "features.npy"), "lies in the input"),
    (("features.npy", "--n", "9", "--out", "real.npy"), "real.npy' exists .allowed: write over it with --force"),
    (("damaged.npy", "--n", "9"), "damaged.npy cannot be read as an npy"),
    (("words.npy", "--n", "9"), "allowed: numbers"),
    (("infinite.npy", "--n", "9"), "1 of 60 values are NaN or infinite"),
])
def test_a_mistake_is_one_line_and_nothing_is_written(nb, there, tmp_path, arguments, words):
    for p in there.iterdir(): (tmp_path / p.name).symlink_to(p)
    (tmp_path / "damaged.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'")
    np.save(tmp_path / "words.npy", np.array([["a", "b"]] * 20))
    odd = np.ones((20, 3), np.float16)
    odd[7, 1] = np.inf
    np.save(tmp_path / "infinite.npy", odd)
    before = {p.name for p in tmp_path.iterdir()}
    out = () if "--out" in arguments else ("--out", "kept.npz")
    error = nb("select", *arguments, *out, code=2).err
    assert re.search(words, error) and error.count("\n") == 1 and {p.name for p in tmp_path.iterdir()} == before


def test_progress_goes_to_stderr_and_results_to_stdout(there, tmp_path):
    "A pipe gets four lines and no bar."
    command = [sys.executable, "-m", "collapse_nb.cli", "select", str(there / "features.npy"), "--n", "50", "--out", "kept.npz"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 3 and "\r" not in done.stdout and str(ROOT) not in done.stderr


@pytest.mark.slow
def test_many_features_stay_on_disk(tmp_path):
    "200,000 x 256 float16, 102 MB: what the process holds of its own grows by less than half of that."
    rng = np.random.default_rng(1)
    x = np.lib.format.open_memmap(tmp_path / "features.npy", mode="w+", dtype=np.float16, shape=(200_000, 256))
    for i in range(0, len(x), 20_000): x[i:i + 20_000] = rng.normal(size=(20_000, 256))
    x.flush()
    code = """if True:
    import sys, threading, time
    from collapse_nb import cli, selection
    own = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
    before, peak = own(), [0]
    def watch():
        while True:
            peak[0] = max(peak[0], own())
            time.sleep(.02)
    threading.Thread(target=watch, daemon=True).start()
    cli.main(["select", "features.npy", "--n", "100", "--out", "kept.npy"])
    print((peak[0] - before) / 1024)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) < 200, done.stdout
    assert len(np.load(tmp_path / "kept.npy")) == 100
