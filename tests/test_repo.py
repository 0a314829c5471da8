import ast
import re
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT

LIBRARY = sorted(p for p in (ROOT / "nbs").glob("[0-9]*.ipynb"))


def test_nbdev_reads_pyproject_and_leaves_settings_ini_alone():
    before = (ROOT / "settings.ini").read_bytes()
    code = "from nbdev.config import get_config; c = get_config(); print(c.lib_path.name, c.nbs_path.name, c.allowed_cell_metadata_keys)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.split(maxsplit=2) == ["collapse_nb", "nbs", "['tags']\n"] or out.strip() == "collapse_nb nbs ['tags']"
    assert (ROOT / "settings.ini").read_bytes() == before


def test_importing_the_package_is_light():
    code = "import sys, collapse_nb; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_library_notebooks_read_as_designed(path):
    "H1, one > line, a badge; default_exp; one imports-only export cell; executed; short functions; small."
    nb = nbformat.read(path, 4)
    head = nb.cells[0].source
    assert head.startswith("# ") and "\n> " in head and "colab" in head
    code = [c for c in nb.cells if c.cell_type == "code"]
    assert code[0].source.startswith("#| default_exp")
    assert all(re.match(r"(#|import |from |\s*$)", line) for line in code[1].source.splitlines())
    assert not any("default_exp" in c.source for c in code[1:])
    assert any(c.outputs for c in code) and not any(o.output_type == "error" for c in code for o in c.outputs)
    assert path.stat().st_size < 200_000
    for c in code:
        for f in (f for f in ast.walk(ast.parse(c.source)) if c.source.startswith("#| export") and isinstance(f, ast.FunctionDef)):
            assert len(ast.get_source_segment(c.source, f)) < 3200, f"{f.name} is too long to be followed"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_data_flows_down_the_list_of_notebooks(path):
    "A notebook imports only from those above it."
    above = [re.search(r"default_exp (\w+)", p.read_text()).group(1) for p in LIBRARY if p.stem < path.stem]
    used = set(re.findall(r"from collapse_nb\.(\w+) import", path.read_text()))
    assert used <= set(above), used - set(above)


def test_the_index_lists_every_notebook_and_its_links_lead_somewhere():
    text = "\n".join(c.source for c in nbformat.read(ROOT / "nbs" / "index.ipynb", 4).cells if c.cell_type == "markdown")
    assert text.startswith("# ") and "\n> " in text and "colab" in text
    links = re.findall(r"\[([^]]*)\]\((?!http)([^)]+)\)", text)
    assert not [link for _, link in links if not (ROOT / "nbs" / link).exists()]
    assert not [(name, link) for name, link in links if link.endswith(".ipynb") and link != f"{name}.ipynb"]
    assert {p.name for p in (ROOT / "nbs").glob("*.ipynb")} - {link for _, link in links} == {"index.ipynb"}


def test_readme_commands_exist():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", readme, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for notebook in re.findall(r"nbs/(\w+\.ipynb)", readme):
        assert (ROOT / "nbs" / notebook).exists(), notebook
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_no_text_has_a_gap_to_fill():
    texts = [ROOT / "README.md", ROOT / "settings.ini", *(ROOT / "docs").glob("*.md"), *(ROOT / "nbs").glob("*.ipynb")]
    assert not [(p.name, found) for p in texts if (found := re.findall("@[A-Z]+@", p.read_text()))]
