"""The command line as a person uses it: processes of their own, small inputs, exit codes."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from importlib import import_module

import numpy as np
import pandas as pd
import papermill
import pytest
from conftest import ROOT, text_of

from collapse_nb.data import Images, load_images
from collapse_nb.entropy import kl_entropy
from collapse_nb.fid import export_images, export_npz

PAGE = (ROOT / "docs" / "add_a_selector.md").read_text()
CODE = re.search(r"```python\n(.*?)```", PAGE, re.S).group(1)
SMOKE = ("run", "--preset", "smoke", "--iterations", "1", "--more", "train_steps=6; warmup_steps=2; sample_steps=3; spaces=pixel")


def environment(**more):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    plain = {k: v for k, v in os.environ.items() if not k.startswith("COLLAPSE_NB_")}
    return plain | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"} | more


@pytest.fixture
def nb(tmp_path, warm):
    "collapse-nb ARGUMENTS, in a directory of its own."
    def call(*arguments, code=0, **more):
        command = [warm, "-m", "collapse_nb.cli", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment(**more), capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done
    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "60 digits as PNG, in class folders; the same as a zip and as an npz, in the order of the names; held-out ones."
    there, digits = tmp_path_factory.mktemp("pictures"), load_images("digits", n=60)
    for k in np.unique(digits.labels): export_images(digits[digits.labels == k], there / "photos" / f"digit-{k}")
    digits[np.argsort(digits.labels, kind="stable")].save(there / "photos.npz")
    with zipfile.ZipFile(there / "photos.zip", "w") as z:
        for p in (there / "photos").rglob("*.png"): z.write(p, p.relative_to(there / "photos"))
    export_images(load_images("digits", split="heldout", n=40), there / "unseen")
    return there


def test_the_console_script_is_this_function():
    name, _, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["collapse-nb"].partition(":")
    assert callable(getattr(import_module(name), function)) and name == "collapse_nb.cli"


@pytest.mark.parametrize("command, words", [
    ((), ["run", "select", "report", "COLLAPSE_NB_PLUGINS"]), (("run",), ["threshold_decay", "accumulate", "demo", "examples:", "nats", "fork-from"]),
    (("select",), ["max_entropy", "guarded", "--reference", "dinov2", "--force", "examples:", "0..255"]),
    (("report",), ["--strict", "--html", "exit code", "memorizing"])])
def test_help_teaches_at_once(nb, command, words):
    start = time.perf_counter()
    said = nb(*command, "--help").stdout
    assert all(w in said for w in words), said
    code = ("import sys, collapse_nb.cli\ntry: collapse_nb.cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
            "sys.exit(bool({'torch', 'numpy'} & {*sys.modules}))")
    subprocess.run([sys.executable, "-c", code, *command, "--help"], env=environment(), check=True, capture_output=True)
    assert time.perf_counter() - start < 10  # two processes on a machine that may be busy; what makes it fast is checked above


@pytest.mark.parametrize("arguments, words", [
    (("run", "--preset", "dmeo"), "dmeo.*demo"), (("run", "--strategy", "entorpy"), "strategy = 'entorpy'.*threshold_decay"),
    (("run", "--n-train", "many"), "n_train = 'many'"), (("run", "--seed", "-1"), "seed = -1"), (("run", "--more", "alpha"), "key=value"),
    (("run", "--seed", "1", "--more", "seed=2"), "seed: given as a parameter and in more"), (("run", "--n-train", "5000"), "n_train = 5000.*1000"),
    (("run", "--sede", "1"), "--sede"), (("run", "-p", "sede", "1"), "sede = '1': no such parameter"),
    (("run", "-p", "strategy", "entorpy"), "strategy = 'entorpy'.*threshold_decay"), (("run", "-p", "seed"), "-p: expected 2"),
    (("run", "-p", "seed", "1", "--seed", "2"), "seed = '1'.*given twice"), (("run", "-p", "seed", "1", "-p", "seed", "2"), "given twice"),
    (("run", "-p", "n_train", "9", "-p", "more", "n_train=8"), "n_train: given as a parameter and in more"),
    (("run", "--fork-from", "nowhere:1"), "nowhere.*names no run"), ((), "COMMAND"),
    (("run", "--plugins", "mine.py"), "mine.py.*is not there"), (("run", "--plugins", "no_such_module"), "no_such_module.*cannot be imported"),
    (("select", "nothing", "--n", "3", "--out", "k.npz"), "'nothing'.*no such file or folder"),
    (("select", "{photos}", "--n", "61", "--out", "k.npz"), "n = 61.*2 to 60"),
    (("select", "{photos}", "--n", "1", "--out", "k.npz"), "n = 1 .*2 to 60"),
    (("select", "{photos}.npz", "--n", "61", "--out", "k.npz"), "n = 61.*2 to 60"),
    (("select", "{photos}", "--n", "x", "--out", "k.npz"), "--n.*'x'"),
    (("select", "{photos}", "--n", "9", "--out", "k.npz", "--space", "pixels"), "space = 'pixels'.*classifier"),
    (("select", "{photos}", "--n", "9", "--out", "k.npz", "--alpha", "1.5"), "alpha = 1.5.*less than 1"),
    (("select", "{photos}", "--n", "9", "--out", "k.npz", "--side", "0"), "side = 0"),
    (("select", "{photos}", "--n", "9", "--out", "k.npz", "--device", "gpu"), "device = 'gpu'"),
    (("select", "{photos}", "--n", "9", "--out", "{photos}/kept"), "in the input"),
    (("select", "{photos}", "--n", "9", "--out", "k.npz", "--strategy", "guarded"), "'guarded' needs a reference.*--reference"),
    (("select", "{photos}", "--n", "9", "--out", "k.npz", "--reference", "{photos}"), "reference = .*'greedy' looks at none.*guarded"),
    (("select", "{photos}", "--n", "9", "--out", "k.npz", "--strategy", "guarded", "--reference", "gone"), "reference = 'gone'.*no such file"),
    (("select", "{photos}", "--n", "9", "--out", "{photos}/kept", "--strategy", "guarded", "--reference", "{photos}.zip"), "in the input"),
    (("select", "{photos}.npz", "--n", "9", "--out", "kept"), "no files to copy"), (("select", "{photos}", "--n", "9"), "--out"),
    (("report", "{photos}", "nowhere/at/all"), "nowhere/at/all"), (("report", "{photos}", "{photos}", "--json", "x.txt"), "json = 'x.txt'.*[.]json"),
    (("report", "{photos}", "{photos}", "--draws", "0"), "draws = 0"), (("report", "{photos}", "{photos}", "--space", "dino"), "dino.*dinov2")])
def test_a_mistake_is_one_line_and_nothing_is_written(nb, folder, tmp_path, arguments, words):
    place = () if arguments[:1] != ("run",) else ("--out-dir", tmp_path / "run")
    done = nb(*(a.format(photos=folder / "photos") for a in arguments), *place, code=2)
    assert re.search(words, done.stderr) and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 or arguments[0] == "report" and "Looked at" in done.stderr
    assert not [p for p in tmp_path.rglob("*") if "cache" not in p.parts] and not (folder / "photos" / "kept").exists()


def test_debug_shows_where(nb):
    assert "Traceback" in nb("run", "--seed", "-1", "--debug", code=1).stderr


def test_folder_zip_and_npz_give_the_same_selection(nb, folder, tmp_path):
    kept = {}
    for name in ("photos", "photos.zip", "photos.npz"):
        said = nb("select", folder / name, "--n", 20, "--seed", 3, "--out", f"{name}-kept.npz").stdout
        with np.load(tmp_path / f"{name}-kept.npz", allow_pickle=False) as z: kept[name] = {k: z[k] for k in z.files}
    a, b, c = kept.values()
    assert len(set(a["index"].tolist())) == 20
    for other in (b, c):
        for key in ("index", "pixels", "labels"): np.testing.assert_array_equal(a[key], other[key])
    names = sorted(p.relative_to(folder / "photos").as_posix() for p in (folder / "photos").rglob("*.png"))
    assert a["names"].tolist() == b["names"].tolist() == [names[i] for i in a["index"]] and "names" not in c
    assert a["labels"].tolist() == [int(n[6]) for n in a["names"]]
    numbers = re.search(r"kept: (\S+) nats .* random: (\S+), (\S+) to (\S+) in", said).groups()
    entropy, chance, low, high = (float(x.replace(",", "")) for x in numbers)
    assert entropy == pytest.approx(kl_entropy(c["pixels"], floor=255 / 32), abs=.06)
    assert low <= chance <= high < entropy and "space pixel, seed 3: 20 of 60" in said


def test_another_strategy_seed_side_and_space(nb, folder, tmp_path):
    def kept(*options):
        nb("select", folder / "photos", "--n", 20, "--out", "kept.npz", "--force", *options)
        with np.load(tmp_path / "kept.npz") as z: return z["index"].tolist(), z["pixels"].shape
    plain = kept()
    assert kept() == plain and plain[0] != kept("--seed", 1)[0] and kept("--strategy", "greedy") == plain
    assert kept("--side", 4)[1] == (20, 1, 4, 4) and kept("--strategy", "threshold_decay", "--alpha", ".8")[0] != plain[0]
    assert kept("--strategy", "threshold_decay") == kept("--strategy", "threshold_decay", "--alpha", ".95")  # auto
    assert kept("--space", "classifier")[0] != plain[0]


def test_guarded_compares_with_a_reference(nb, folder, tmp_path):
    "Noise among the pictures: greedy keeps it, guarded does not; a folder, an npz and a space of features."
    from collapse_nb.selection import guarded
    digits, real = load_pool(folder), load_images("digits", split="heldout", n=40)
    noise = np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "pool.npz", pixels=np.concatenate([digits.pixels, noise]))
    real.save(tmp_path / "real.npz")
    def kept(*options):
        said = nb("select", "pool.npz", "--n", 20, "--out", "kept.npz", "--force", *options).stdout
        with np.load(tmp_path / "kept.npz") as z: return z["index"], said, str(z["reference"]) if "reference" in z.files else None
    assert (kept()[0] >= 60).sum() >= 8 and kept()[2] is None
    index, said, where = kept("--strategy", "guarded", "--reference", folder / "unseen")
    assert (index < 60).all() and re.search(r"lie within \d+\.\d of the reference; 0 from beyond", said) and where == str(folder / "unseen")
    assert kept("--strategy", "guarded", "--reference", "real.npz")[0].tolist() == index.tolist()
    pool = np.concatenate([digits.flat(), noise.reshape(10, 64)])
    assert index.tolist() == guarded(pool, 20, reference=real, start=index[0]).tolist()
    colours = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "colour.npz", pixels=colours)
    other = ("select", "pool.npz", "--n", 20, "--out", "new.npz", "--strategy", "guarded", "--reference", "colour.npz")
    assert re.search(r"reference: images of \[3, 8, 8\], and of \[1, 8, 8\] in INPUT", nb(*other, code=2).stderr)
    assert not (tmp_path / "new.npz").exists()


def test_pool_and_reference_meet_in_one_classifier_that_of_the_reference(nb, folder, tmp_path):
    from collapse_nb.features import embed
    from collapse_nb.selection import guarded
    digits = load_pool(folder)
    np.savez(tmp_path / "pool.npz", pixels=digits.pixels)  # as generated images are: without labels
    ask = ("select", "pool.npz", "--n", 20, "--out", "kept.npz", "--strategy", "guarded", "--space", "classifier", "--reference")
    assert "within" in nb(*ask, folder / "photos.zip").stdout
    with np.load(tmp_path / "kept.npz") as z: index = z["index"]
    real = dataclasses.replace(digits, dataset=f"folder:{folder / 'photos.zip'}")
    points = embed(real, "classifier")
    assert index.tolist() == guarded(points, 20, reference=points, start=index[0]).tolist()
    assert "classifier space needs labels" in nb(*ask, folder / "unseen", "--force", code=2).stderr


def test_files_are_copied_and_nothing_is_written_over(nb, folder, tmp_path):
    ask = ("select", folder / "photos", "--n", 12, "--out")
    nb(*ask, "kept.npz"); nb(*ask, "kept/")
    with np.load(tmp_path / "kept.npz") as z: names = set(z["names"].tolist())
    def there(): return {p.relative_to(tmp_path / "kept").as_posix() for p in (tmp_path / "kept").rglob("*") if p.is_file()}
    assert there() == names and all((tmp_path / "kept" / n).read_bytes() == (folder / "photos" / n).read_bytes() for n in names)
    nb("select", folder / "photos.zip", "--n", 12, "--out", "unzipped")
    assert all((tmp_path / "unzipped" / n).read_bytes() == (folder / "photos" / n).read_bytes() for n in names)
    before = (tmp_path / "kept.npz").read_bytes()
    assert "kept.npz' exists" in nb(*ask, "kept.npz", "--seed", 1, code=2).stderr and (tmp_path / "kept.npz").read_bytes() == before
    assert "is not empty" in nb(*ask, "kept/", code=2).stderr
    (tmp_path / "kept" / "mine.txt").write_text("kept")
    assert "1 other files" in nb(*ask, "kept/", "--force").stderr and there() == names | {"mine.txt"}
    nb(*ask, "kept.npz", "--seed", 1, "--force")
    assert (tmp_path / "kept.npz").read_bytes() != before and not list(tmp_path.glob("*.part"))


def test_an_npz_of_guided_diffusion(nb, tmp_path):
    export_npz(load_images("digits", n=30), tmp_path / "samples.npz")
    nb("select", "samples.npz", "--n", 5, "--out", "kept.npz")
    with np.load(tmp_path / "kept.npz") as z: assert z["pixels"].shape == (5, 3, 8, 8) and "labels" not in z.files


def test_report_in_words_numbers_and_pictures(nb, folder, tmp_path):
    sets = folder / "photos", folder / "photos", folder / "unseen"
    said = nb("report", *sets, "--json", "health.json", "--html", "health.html").stdout
    numbers = json.loads((tmp_path / "health.json").read_text())
    assert "memorizing? yes" in said and numbers["sizes"]["generated"] == 60 and numbers["space"] == "pixel"
    page = (tmp_path / "health.html").read_text()
    assert page.count("data:image/png;base64,") == 1 + 8 * 2 + 8 and "charset" in page and "<script>" in page
    nb("report", *sets, "--strict", code=1)
    assert "health.json' exists" in nb("report", *sets, "--json", "health.json", code=2).stderr
    nb("report", *sets, "--json", "health.json", "--force", "--n", "30")
    assert json.loads((tmp_path / "health.json").read_text())["sizes"]["generated"] == 30


def test_report_rows_and_what_is_kept(nb, folder, tmp_path):
    "Two training pictures among the unseen ones: the rows name them, and --keep leaves them out."
    made = tmp_path / "made"
    shutil.copytree(folder / "unseen", made)
    names = sorted(p.relative_to(folder / "photos") for p in (folder / "photos").rglob("*.png"))[:2]
    for i, name in enumerate(names):
        shutil.copyfile(folder / "photos" / name, made / f"copy{i}.png")
    said = nb("report", made, folder / "photos", "--n", "none", "--csv", "rows.csv", "--keep", "kept").stdout
    rows = pd.read_csv(tmp_path / "rows.csv").set_index("image")
    total = sum(1 for _ in made.rglob("*.png"))
    assert len(rows) == total and rows.loc[["copy0.png", "copy1.png"], "copy"].all()
    assert rows.loc["copy0.png", "match"] == str(names[0]) and f"copy0.png is {names[0]}" in said
    kept = {str(p.relative_to(tmp_path / "kept")) for p in (tmp_path / "kept").rglob("*.png")}
    assert kept and not kept & {"copy0.png", "copy1.png"} and kept < set(rows.index)
    assert f"kept: {len(kept)} of {total} images" in said
    nb("report", made, folder / "photos", "--keep", "kept.npz", "--n", "none")
    assert len(Images.load(tmp_path / "kept.npz")) == len(kept)
    nb("report", made, folder / "photos", "--keep", "small.npz", "--n", "none", "--side", 6)
    assert Images.load(tmp_path / "small.npz").shape[1:] == (6, 6), "pictures of several sizes need it"
    for option, value, words in (("--csv", "rows.txt", "csv = .*[.]csv"), ("--keep", "kept", "not empty"), ("--csv", "rows.csv", "exists")):
        assert re.search(words, nb("report", made, folder / "photos", option, value, code=2).stderr)


def test_strict_is_content_with_real_images(nb, tmp_path):
    digits = load_images("digits", n=400)
    for name, x in dict(made=digits[:200], train=digits[200:]).items(): x.save(tmp_path / f"{name}.npz")
    assert "yes" not in nb("report", "made.npz", "train.npz", "digits", "--strict").stdout.split("distance to")[0]


@pytest.mark.slow
def test_a_run_and_its_continuation(nb, tmp_path):
    first = nb(*SMOKE, "--strategy", "greedy", "--out-dir", tmp_path / "run", "--figures-dir", tmp_path / "figures")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["strategy"] == "greedy" and config["train_steps"] == 6 and config["preset"] == "smoke"
    said = "iteration 1/1: GS", "iteration 1 after iteration 1: greedy ", f"run directory: {tmp_path / 'run'}"
    assert all(words in first.stdout for words in said)
    assert {p.suffix for p in (tmp_path / "figures").iterdir()} == {".png", ".svg", ".json"} and "going on" not in first.stdout
    assert "greedy:" in first.stderr and "step" in first.stderr  # the bar
    before = (tmp_path / "run" / "iteration-001" / "generated.npz").read_bytes()
    more = [*SMOKE, "--strategy", "entropy", "--out-dir", tmp_path / "run", "--figures-dir", tmp_path / "figures"]
    more[more.index("1")] = "2"
    assert f"1 of 2 iterations are complete in {tmp_path / 'run'}; going on at iteration 2" in nb(*more).stdout
    assert (tmp_path / "run" / "iteration-001" / "generated.npz").read_bytes() == before and (tmp_path / "run" / "iteration-002").is_dir()
    assert "holds another run: " in nb(*more, "--seed", "1", code=2).stderr
    fork = ("--strategy", "vanilla", "--fork-from", f"{tmp_path / 'run'}:1", "--out-dir", tmp_path / "fork", "--figures-dir", tmp_path / "figures")
    nb(*SMOKE, *fork)
    assert (tmp_path / "fork" / "iteration-001" / "generated.npz").read_bytes() == before


@pytest.mark.slow
def test_what_papermill_takes_is_taken_here(nb, tmp_path):
    "The same words, the same run; any field of the config; and without plotting packages where no figure is asked for."
    (tmp_path / "seaborn.py").write_text("raise ImportError('no seaborn here')")
    words = dict(preset="smoke", strategy="greedy", iterations=1, train_steps=6, more="warmup_steps=2; sample_steps=3", spaces="pixel",
                 out_dir=tmp_path / "run", figures_dir="none")
    said = nb("run", *(x for k, v in words.items() for x in ("-p", k, v)), PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert "iteration 1/1: GS" in said.stdout and "figure:" not in said.stdout
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["strategy"], config["train_steps"], config["warmup_steps"], config["spaces"]) == ("greedy", 6, 2, ["pixel"])
    again = nb(*SMOKE, "--strategy", "greedy", "--out-dir", tmp_path / "run", "--figures-dir", "none")
    assert "all 1 iterations are complete" in again.stdout


@pytest.mark.slow
def test_an_interrupted_run_says_what_is_kept(tmp_path, warm):
    more = "train_steps=100000; warmup_steps=2; sample_steps=3; spaces=pixel; checkpoint_steps=20"
    command = [warm, "-m", "collapse_nb.cli", "run", "--preset", "smoke", "--more", more, "--out-dir", str(tmp_path / "run")]
    default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background shell ignores it for its children
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=default) as process:
        checkpoint, end = tmp_path / "run" / "iteration-001.partial" / "training.safetensors", time.monotonic() + 300
        try:
            while not checkpoint.exists() and time.monotonic() < end and process.poll() is None: time.sleep(.2)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=100)
        finally: process.kill()  # a test that fails must not train on
    assert process.returncode == 130 and "Traceback" not in errors
    assert "interrupted: 0 of 2 iterations are complete" in errors and "going on inside iteration 1; the same command continues" in errors


@pytest.fixture
def mine(tmp_path):
    "The page's code, in the file that it names."
    (tmp_path / "my_selectors.py").write_text(CODE)
    return tmp_path / "my_selectors.py"


def test_the_page_is_ten_lines_and_its_commands_exist(nb):
    assert len([line for line in CODE.splitlines() if line.strip()]) <= 10 and 'register("loners")' in CODE
    options = set(re.findall(r"--[a-z][\w-]*", PAGE))
    said = nb("run", "--help").stdout + nb("select", "--help").stdout
    assert options and all(o in said for o in options)


def test_a_selector_of_ones_own_on_the_command_line(nb, mine, folder, tmp_path):
    (command,) = re.findall(r"^collapse-nb (select .*)$", PAGE, re.M)
    nb(*command.replace("photos/", str(folder / "photos")).split())
    with np.load(tmp_path / "kept.npz") as z: index, strategy = z["index"], str(z["strategy"])
    sys.path.insert(0, str(tmp_path))
    try: expected = import_module("my_selectors").loners(load_pool(folder), 30)
    finally: sys.path.remove(str(tmp_path)); sys.modules.pop("my_selectors", None)
    assert strategy == "loners" and index.tolist() == expected.tolist()
    without = ("select", folder / "photos", "--n", "30", "--strategy", "loners", "--out", "again.npz")
    assert "strategy = 'loners' is unknown" in nb(*without, code=2).stderr
    nb(*without, COLLAPSE_NB_PLUGINS="my_selectors")  # a module of the working directory
    with np.load(tmp_path / "again.npz") as z: assert z["index"].tolist() == index.tolist()
    mine.write_text("import nothing_of_this_name")
    assert "cannot be imported: ModuleNotFoundError" in nb(*without, "--plugins", mine, code=2).stderr


def load_pool(folder):
    "The pictures as the command sees them."
    from collapse_nb.sets import file_names, read_pool
    return read_pool(folder / "photos", file_names(folder / "photos"), None)


@pytest.mark.slow
def test_a_selector_of_ones_own_in_the_loop(nb, mine, execute, tmp_path):
    small = dict(more="train_steps=6; warmup_steps=2; sample_steps=3; spaces=pixel", figures_dir=str(tmp_path / "figures"))
    parameters = dict(re.findall(r"-p (\w+) (\S+)", re.search(r"^papermill .*plugins.*$", PAGE, re.M).group(0)))
    assert parameters == dict(preset="smoke", plugins="my_selectors.py", strategy="loners")
    told = execute("run_loop", **parameters | dict(plugins=str(mine)), out_dir=str(tmp_path / "one"), **small)
    assert "iteration 2 after iteration 1: loners " in text_of(told)
    with np.load(tmp_path / "one" / "iteration-001" / "selected.npz") as z: assert len(z["index"]) == 32
    known = json.loads((tmp_path / "one" / "environment.json").read_text())[0]["plugins"]
    assert list(known) == ["my_selectors.py"] and len(known["my_selectors.py"]) == 8
    (command,) = re.findall(r"^collapse-nb (run .*)$", PAGE, re.M)
    nb(*command.split(), "--more", small["more"], "--figures-dir", tmp_path / "figures", "--out-dir", tmp_path / "two")
    one, two = (np.load(tmp_path / n / "iteration-002" / "generated.npz")["pixels"] for n in ("one", "two"))
    np.testing.assert_array_equal(one, two)  # the same run, from a notebook and from the command line
    with pytest.raises(papermill.PapermillExecutionError, match="strategy = 'loners' is unknown"):
        execute("run_loop", preset="smoke", strategy="loners", out_dir=str(tmp_path / "three"), **small)
    assert not (tmp_path / "three").exists()
