"""What the tests share: the project's root, and notebooks executed as a reader would, through papermill."""

import os
import subprocess
import warnings
from pathlib import Path

import pytest

os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
ROOT = Path(__file__).resolve().parent.parent


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


@pytest.fixture
def execute(tmp_path):
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
