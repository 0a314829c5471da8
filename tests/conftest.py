"""What the tests share: the project's root, and notebooks executed as a reader would, through papermill."""

import os
import warnings
from pathlib import Path

import pytest

os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture
def execute(tmp_path):
    "Run nbs/NAME.ipynb with parameters from the repository root; return the executed notebook."
    import papermill

    def run(name: str, **parameters):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return papermill.execute_notebook(
                ROOT / "nbs" / f"{name}.ipynb", tmp_path / f"{name}-out.ipynb", parameters, cwd=ROOT, progress_bar=False,
                kernel_name="python3")

    return run


def text_of(notebook) -> str:
    "Everything the notebook printed."
    return "".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)
