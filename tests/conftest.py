"""What the tests share: the project's root, and notebooks executed as a reader would, through papermill."""

import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest

os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
ROOT = Path(__file__).resolve().parent.parent


LONGEST = ("notebooks", "installed", "jupyterlab", "loop", "sweep", "docs", "gpu", "health", "parallel", "training")  # begun first: no
# worker is left alone with one of them at the end


def pytest_collection_modifyitems(items):
    names = [f"test_{name}.py" for name in LONGEST]
    items.sort(key=lambda item: names.index(item.path.name) if item.path.name in names else len(names))


UNBORN = "Kernel died before"  # its first cell: kernels that start at once may choose the same port, and then one of them is started again


def papermill_process(command, **options) -> subprocess.CompletedProcess:
    "Run papermill as a process, with its output kept."
    for _ in range(3):
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
        if UNBORN not in done.stderr: break
    return done


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@contextmanager
def warm_python(python: str, environment: dict):
    "A folder with a Python that has imported what takes long (see warm.py), and with a kernel that it starts."
    server = Path(__file__).with_name("warm.py")
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        started, kernel = Path(folder, "python"), Path(folder, "kernels", "python3", "kernel.json")
        started.write_text(f'#!/bin/sh\nexec "{python}" -S -E "{server}" {folder}/socket "$@"\n')
        started.chmod(0o755)
        kernel.parent.mkdir(parents=True)
        argv = [str(started), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel.write_text(json.dumps(dict(argv=argv, display_name="Python 3 (ipykernel)", language="python")))
        about = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        with subprocess.Popen([python, "-u", server, f"{folder}/socket"], env=environment, **about) as process:
            assert process.stdout.readline() == b"warm\n"
            yield Path(folder)
            process.stdin.close()


@pytest.fixture(scope="session")
def warm():
    "A Python, for -m MODULE ... and -c CODE ..., that starts warm. So do kernels, where this fixture is used."
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with warm_python(sys.executable, environment) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder), prepend=os.pathsep)
        yield str(folder / "python")


@pytest.fixture
def warm_processes(warm, monkeypatch):
    "What the library starts, starts warm."
    import multiprocessing.spawn  # noqa: F401  (it keeps the Python that it finds)
    monkeypatch.setattr(sys, "executable", warm)


@pytest.fixture
def execute(tmp_path, warm):
    "Run nbs/NAME.ipynb with parameters from the repository root; return the executed notebook."
    import papermill

    def run(name: str, **parameters):
        files = ROOT / "nbs" / f"{name}.ipynb", tmp_path / f"{name}-out.ipynb"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            for again in (True, True, False):
                try: return papermill.execute_notebook(*files, parameters, cwd=ROOT, progress_bar=False, kernel_name="python3")
                except RuntimeError as e:
                    if not (again and UNBORN in str(e)): raise

    return run


def text_of(notebook) -> str:
    "Everything the notebook printed."
    return "".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)


def heading_id(heading: str) -> str:
    "As GitHub makes it."
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
