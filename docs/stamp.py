"""Outputs that belong to their source: `python docs/stamp.py nbs/X.ipynb ...` after a notebook was
executed, before it is committed.

The digest of the code cells is kept in the notebook's metadata. `--check` says of which notebooks the
outputs belong to other code."""

import hashlib
import json
import sys
from pathlib import Path

KEY = "outputs_of"  # in the notebook's metadata; pyproject's [tool.nbdev] lets nbdev-clean keep it


def code_of(notebook: dict) -> list[dict]:
    "The code cells."
    return [c for c in notebook["cells"] if c["cell_type"] == "code"]


def digest(notebook: dict) -> str:
    "What the code cells say, in twelve digits."
    sources = ["".join(c["source"]).rstrip() for c in code_of(notebook)]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:12]


def check(notebook: dict) -> str:
    "Why a notebook's outputs cannot be trusted; empty where they can, or where there are none."
    if not any(c["outputs"] for c in code_of(notebook)):
        return ""
    if KEY not in notebook["metadata"]:
        return "has outputs and no stamp"
    if notebook["metadata"][KEY] != digest(notebook):
        return "has outputs of other code"
    return ""


def stamp(path: Path):
    """Write the digest into an executed notebook. Raises ValueError for one without outputs, or with an
    error in them."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    outputs = [o for c in code_of(notebook) for o in c["outputs"]]
    if not outputs or any(o["output_type"] == "error" for o in outputs):
        raise ValueError(
            f"{path}: {'an error in its outputs' if outputs else 'no outputs'} (allowed: an executed "
            f"notebook)"
        )
    notebook["metadata"][KEY] = digest(notebook)
    path.write_text(
        json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
    )


def main(*arguments: str) -> int:
    "Stamp notebooks, or check them; the exit status is 1 where one fails the check."
    paths = [Path(a) for a in arguments if a != "--check"]
    if not paths:
        print(__doc__)
        return 1
    if "--check" not in arguments:
        for path in paths:
            stamp(path)
        return 0
    found = {p: check(json.loads(p.read_text(encoding="utf-8"))) for p in paths}
    for path, why in found.items():
        if why:
            print(f"{path} {why}: execute it, then python docs/stamp.py {path}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
