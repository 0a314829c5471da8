"""What a person installs: the wheel, in a fresh virtual environment outside the repository. Its command line, and the demos as Colab runs them."""

import base64
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import sysconfig
from types import SimpleNamespace

import matplotlib
import nbformat
import pytest
import torch
from conftest import ROOT, papermill_process, text_of, warm_python
from test_data_files import batches
from torch.utils.flop_counter import FlopCounterMode

from collapse_nb.config import load_preset
from collapse_nb.cost import placeholder_images
from collapse_nb.denoiser import Denoiser

INSTALLING = ["run_loop", *sorted(p.stem for p in (ROOT / "nbs").glob("demo_*.ipynb"))]
TINY = "n_train=12; train_steps=6; eval_samples=20; warmup_steps=2; batch_size=8; sample_steps=3; iterations=1; network=unet-16-32; precision=float32; threads=1"


def clean_environment(home, **more):
    "Nothing of this process's Python, home or Jupyter; matplotlib's list of fonts, which takes long to make, is lent."
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JUPYTER", "PIP_", "COLLAPSE_NB"))}
    return kept | dict(HOME=str(home), MPLCONFIGDIR=matplotlib.get_cachedir(), PYDEVD_DISABLE_FILE_VALIDATION="1") | more


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    "A virtual environment with the wheel; what the package needs is borrowed from this one, after its own packages."
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "home").mkdir()
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python, env = folder / "venv" / "bin" / "python", clean_environment(folder / "home")
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", *folder.glob("*.whl")]
    subprocess.run(install, env=env, cwd=folder, check=True)
    own = next((folder / "venv" / "lib").glob("python3*/site-packages"))
    (own / "borrowed.pth").write_text("\n".join(dict.fromkeys(sysconfig.get_path(p) for p in ("purelib", "platlib"))))
    with warm_python(python, env) as warm:
        yield SimpleNamespace(python=python, env=env, own=own, warm=warm)


@pytest.fixture(scope="module")
def smoke(fresh, tmp_path_factory):
    "`collapse-nb run --preset smoke` in an empty directory: the process, and the directory."
    folder = tmp_path_factory.mktemp("smoke")
    command = [fresh.python.with_name("collapse-nb"), "run", "--preset", "smoke"]
    return subprocess.run(command, cwd=folder, env=fresh.env, capture_output=True, text=True), folder


@pytest.fixture
def demo(fresh, tmp_path):
    "Run a demo as Colab does: a directory with nothing but the notebook. Returns the process and the executed notebook."
    here = tmp_path / "here"
    here.mkdir()

    def run(name, env=None, **parameters):
        notebook, out = nbformat.read(ROOT / "nbs" / f"{name}.ipynb", 4), tmp_path / "out.ipynb"
        notebook.cells.append(nbformat.v4.new_code_cell("import collapse_nb; print('imported from', collapse_nb.__file__)"))
        nbformat.write(notebook, here / f"{name}.ipynb")
        named = [x for k, v in parameters.items() for x in ("-p", k, str(v))]
        command = [fresh.warm / "python", "-m", "papermill", "--no-progress-bar", "-k", "python3", f"{name}.ipynb", out, *named]
        done = papermill_process(command, cwd=here, env=fresh.env | dict(JUPYTER_PATH=str(fresh.warm)) | (env or {}))
        return done, nbformat.read(out, 4)

    run.here = here
    return run


def executed(fresh, done, notebook, pictures):
    "The text that a demo printed, which ran to its end with the installed package and shows so many pictures."
    assert done.returncode == 0, done.stderr[-3000:]
    shown = [o.data for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    drawn = [d["image/png"] for d in shown if "image/png" in d]
    assert len(drawn) == pictures and all(base64.b64decode(p)[:4] == b"\x89PNG" for p in drawn)
    assert f"imported from {fresh.own}" in text_of(notebook)
    return text_of(notebook)


def files(folder):
    "Every file of finished iterations, with the time of its last change."
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and re.search(r"/iteration-\d+/", str(p))}


# ---- the wheel

@pytest.mark.slow
def test_the_wheel_carries_the_presets(fresh, tmp_path):
    assert (fresh.own / "collapse_nb" / "settings.ini").read_bytes() == (ROOT / "settings.ini").read_bytes()
    code = "import collapse_nb.config as c; print(c.__file__); print(c.load_preset('demo').name)"
    said = subprocess.run([fresh.python, "-c", code], cwd=tmp_path, env=fresh.env, capture_output=True, text=True, check=True).stdout
    assert said.startswith(str(fresh.own)) and "demo-digits" in said


@pytest.mark.slow
def test_the_command_line_runs_outside_the_repository(smoke):
    done, folder = smoke
    assert done.returncode == 0, done.stderr[-3000:]
    (metrics,) = folder.glob("runs/smoke-*/metrics.csv")
    assert len(metrics.read_text().splitlines()) == 3 and f"run directory: {metrics.parent}" in done.stdout
    assert sorted(p.name for p in folder.iterdir()) == ["figures", "runs"]


@pytest.mark.slow
def test_a_sweep_outside_the_repository(fresh, demo):
    more = "strategy=vanilla; iterations=1; train_steps=6; warmup_steps=2; sample_steps=3; spaces=pixel"
    said = executed(fresh, *demo("run_sweep", study="smoke", more=more, workers=1), pictures=1)
    assert "numbers of 1 runs" in said and len(list(demo.here.glob("runs/smoke-*/run_loop.ipynb"))) == 1
    assert (fresh.own / "collapse_nb" / "run_loop.ipynb").read_bytes() == (ROOT / "nbs" / "run_loop.ipynb").read_bytes()


# ---- the demos

@pytest.mark.slow
def test_run_loop_and_again_after_a_disconnect_and_beside_another_run(fresh, demo, smoke):
    shutil.copytree(smoke[1] / "runs" / "cache", demo.here / "runs" / "cache")  # the classifier, whose training takes longest
    said = executed(fresh, *demo("run_loop", preset="smoke", iterations=1), pictures=2)
    assert re.search(r"iteration 1 after iteration 1: vanilla \d+ after", said)
    assert sorted(p.name for p in demo.here.iterdir()) == ["figures", "run_loop.ipynb", "runs"]
    before = files(demo.here)
    (first,) = {p.parent.parent for p in before if p.name == "metrics.json"}
    executed(fresh, *demo("run_loop", preset="smoke", iterations=2), pictures=2)
    after = files(demo.here)
    assert before.items() < after.items(), "a complete iteration was written again"
    assert len({p.parent for p in after if p.name == "metrics.json"}) == 2
    two = dict(preset="smoke", iterations=2, strategy="greedy", compare_with=first.relative_to(demo.here))
    said = executed(fresh, *demo("run_loop", **two), pictures=2)
    assert re.search(r"iteration 2 after iteration 1: vanilla .*, greedy \d+ after", said)


@pytest.fixture
def colab(tmp_path):
    "The environment of a stand-in for Colab: its module google.colab mounts a folder of this test instead of a Drive."
    package = tmp_path / "colab" / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "drive.py").write_text("""
import os, pathlib, collapse_nb.project as project
def mount(path):
    assert path == "/content/drive"
    project.DRIVE = pathlib.Path(os.environ["MY"])
""")
    return dict(PYTHONPATH=str(tmp_path / "colab"), MY=str(tmp_path / "drive"))


@pytest.mark.slow
def test_cifar10_keeps_everything_on_drive(fresh, demo, colab, tmp_path):
    data = tmp_path / "data" / "cifar-10-batches-py"
    data.mkdir(parents=True)
    for name, batch in batches().items(): (data / name).write_bytes(pickle.dumps(batch))
    settings = dict(env=colab, device="cpu", data_root=data.parent, more=TINY)
    said = executed(fresh, *demo("demo_cifar10_gpu", **settings), pictures=2)
    kept = tmp_path / "drive" / "MyDrive" / "collapse_nb"
    assert len(list(kept.glob("runs/paper-cifar10-*/iteration-001/metrics.json"))) == 2 and len(list(kept.glob("runs/cache/classifier-*"))) == 1
    assert (kept / "figures" / "local" / "cifar10.png").exists() and str(kept) in said
    assert [p.name for p in demo.here.iterdir()] == ["demo_cifar10_gpu.ipynb"] and [p.name for p in data.parent.iterdir()] == [data.name]
    assert "all of it, predicted: 0.0 hours" in said and re.search(r"after iteration 1: vanilla .*, greedy \d+ after", said)
    config = json.loads(next(kept.glob("runs/*/config.json")).read_text())
    assert (config["sampler"], config["objective"], config["n_train"], config["train_steps"]) == ("ddim", "ddpm", 12, 6)


@pytest.mark.slow
@pytest.mark.parametrize("parameters, words", [
    (dict(), r"device = 'cuda': there is no GPU here \(on Colab choose one with Runtime > Change runtime type"),
    (dict(device="cpu", download=True), "cifar10 could not be downloaded to .*; instead: put cifar-10-python.tar.gz")])
def test_cifar10_says_what_is_missing_before_long_work(demo, parameters, words):
    if not parameters and torch.cuda.is_available(): pytest.skip("there is a GPU")
    nowhere = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https")}  # offline, at once
    done, _ = demo("demo_cifar10_gpu", env=nowhere, **parameters)
    assert done.returncode and re.search(words, done.stderr, re.S), done.stderr[-3000:]
    assert [p.name for p in demo.here.iterdir()] == ["demo_cifar10_gpu.ipynb"]


@pytest.mark.slow
def test_check_my_images_trains_a_model_where_none_are_named(fresh, demo, smoke):
    shutil.copytree(smoke[1] / "runs" / "cache", demo.here / "runs" / "cache")
    done, notebook = demo("demo_check_my_images", preset="smoke", save_to="numbers.json")
    assert "a model of the preset smoke" in executed(fresh, done, notebook, pictures=0)
    assert "memorizing? " in str(notebook.cells) and str(notebook.cells).count("data:image/png;base64,") == 1 + 8 * 2 + 8
    assert sorted(p.name for p in demo.here.iterdir()) == ["demo_check_my_images.ipynb", "numbers.json", "runs"]


@pytest.mark.slow
def test_the_hours_that_the_cifar10_demo_names_are_those_of_its_arithmetic():
    nb = nbformat.read(ROOT / "nbs" / "demo_cifar10_gpu.ipynb", 4)
    text = nb.cells[1].source
    flop, train, draw, hour, whole = (float(x) for x in re.search(
        r"takes (\S+) GFLOP.*sustains (\d+) TFLOP/s in training \(fp16\) and (\d+) in.*take (\S+) hours here and (\d+) hours", text, re.S).groups())
    short = eval(re.search(r"(?s)short = (dict\(.*?\))", "".join(c.source for c in nb.cells))[1])

    def hours(strategy, **changes):
        c = load_preset("paper-cifar10", strategy=strategy, **changes)
        trained, drawn = c.train_steps * c.batch_size * 3 * counted, (c.n_generate + c.eval_samples) * c.sample_steps * counted
        return c.iterations * (trained / train + drawn / draw) / 1e12 / 3600

    config = load_preset("paper-cifar10")
    images = placeholder_images(config, 2)
    with FlopCounterMode(display=False) as counter: Denoiser.fresh(config.network, config.objective, images, 0).unet(torch.zeros(2, 3, 32, 32), 0)
    counted = counter.get_total_flops() / 2
    both = lambda **changes: sum(hours(s, **changes) for s in ("vanilla", "greedy"))
    assert flop == round(counted / 1e9, 1) and hour == round(both(**short), 1) and whole == round(both())


# ---- installing

def install_cell(name):
    return next(c.source for c in nbformat.read(ROOT / "nbs" / f"{name}.ipynb", 4).cells if "pip" in c.source and c.cell_type == "code")


def test_what_installs_itself_does_it_in_the_same_way():
    assert len(INSTALLING) == 3 and len({install_cell(name) for name in INSTALLING}) == 1


@pytest.mark.slow
def test_the_install_cell_does_nothing_where_the_package_is(fresh, tmp_path):
    code = "import subprocess; subprocess.run = subprocess.Popen = None\n" + install_cell(INSTALLING[0])
    done = subprocess.run([fresh.python, "-c", code], cwd=tmp_path, env=fresh.env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("git"), reason="pip needs git")
def test_the_install_cell_installs_from_github_or_says_why_not(tmp_path):
    "With git told to find GitHub's repository in a copy of this one, and the build backend lent."
    lent, copy, venv = (tmp_path / n for n in ("lent", "copy", "venv"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    lent.mkdir()
    for name in ("pip", "hatchling", "packaging", "pathspec", "pluggy", "trove_classifiers"):
        (lent / name).symlink_to(os.path.join(sysconfig.get_path("purelib"), name))
    env = clean_environment(tmp_path, PYTHONPATH=str(lent), PIP_NO_INDEX="1", PIP_NO_DEPS="1", PIP_NO_BUILD_ISOLATION="0",
                            PIP_DISABLE_PIP_VERSION_CHECK="1", GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0=f"url.file://{copy}.insteadOf",
                            GIT_CONFIG_VALUE_0="https://github.com/collapse-nb/collapse_nb")
    code = install_cell(INSTALLING[0]) + "\nimport collapse_nb.config as c; print(c.__file__, c.load_preset('demo').name)"
    run = lambda: subprocess.run([venv / "bin" / "python", "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    failed = run()  # there is nothing yet
    said = "RuntimeError: pip could not install git[+]https://github.com/collapse-nb/collapse_nb.*last words:.*does not (exist|appear to be a git)"
    assert failed.returncode and re.search(said, failed.stderr, re.S), failed.stderr
    copy.mkdir()
    for name in ("pyproject.toml", "settings.ini", "README.md", "LICENSE"): shutil.copy(ROOT / name, copy)
    (copy / "nbs").mkdir()
    shutil.copy(ROOT / "nbs" / "run_loop.ipynb", copy / "nbs")
    shutil.copytree(ROOT / "collapse_nb", copy / "collapse_nb", ignore=shutil.ignore_patterns("__pycache__"))
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "copy"]):
        subprocess.run(["git", *command], cwd=copy, env=clean_environment(tmp_path), check=True)
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(venv)) and "demo-digits" in done.stdout
