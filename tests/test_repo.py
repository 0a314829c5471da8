import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import nbformat
import pytest
import yaml
from conftest import ROOT, heading_id
from packaging.requirements import Requirement

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
    texts = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "settings.ini", *(ROOT / "docs").glob("*.md"), *(ROOT / "nbs").glob("*.ipynb")]
    assert not [(p.name, found) for p in texts if (found := re.findall("@[A-Z]+@", p.read_text()))]


def test_links_of_the_changelog_lead_somewhere():
    for path, anchor in re.findall(r"\]\((?!http)([^)#]+)#?([^)]*)\)", (ROOT / "CHANGELOG.md").read_text()):
        headings = re.findall(r"^#+ (.+)", (ROOT / path).read_text(), re.M) if anchor else []
        assert (ROOT / path).exists() and (not anchor or anchor in map(heading_id, headings)), (path, anchor)


TOP = """README.md CHANGELOG.md CITATION.cff LICENSE Makefile pyproject.toml requirements.lock settings.ini .gitignore
collapse_nb docs figures nbs tests .ci .devcontainer .github"""


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no repository")
def test_nothing_else_lies_at_the_top():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.partition("/")[0] for line in listed.splitlines()} <= set(TOP.split())


# ---- the environment

LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINUX = dict(implementation_name="cpython", platform_python_implementation="CPython", os_name="posix", sys_platform="linux",
             platform_system="Linux", platform_machine="x86_64")
MAC = LINUX | dict(sys_platform="darwin", platform_system="Darwin", platform_machine="arm64")
MACHINES = [on | dict(python_version=v, python_full_version=f"{v}.9") for on in (LINUX, MAC) for v in ("3.11", "3.12", "3.13")]


def locked() -> list[tuple[Requirement, list[str]]]:
    "What stands in the lock: a requirement, and the hashes of its files."
    entries = re.findall(r"^([a-z0-9].*?)(?: \\\n|\n)((?:    --hash=.*\n)*)", LOCK, re.M)
    return [(Requirement(line), re.findall(r"--hash=(\S+)", hashes)) for line, hashes in entries]


def test_the_lock_has_one_version_with_hashes_of_everything_that_make_installs():
    "Inside the range of pyproject.toml, on each system and Python that the workflow tests."
    lock = locked()
    asked = [Requirement(r) for r in PROJECT["dependencies"] + sum((PROJECT["optional-dependencies"][e] for e in ("dev", "docs")), [])]
    assert len(lock) > 200 > len(asked) > 30
    for machine in MACHINES:
        version = {}
        for r, _ in lock:
            if r.marker is None or r.marker.evaluate(machine):
                assert r.name not in version, (r.name, machine)
                (pin,) = r.specifier
                assert pin.operator == "==" and "*" not in pin.version, r
                version[r.name] = pin.version
        assert not [str(r) for r in asked if not r.specifier.contains(version.get(r.name, "none"))], machine
        assert ("nvidia-cublas" in version) == (machine["sys_platform"] == "linux")
    assert not [r.name for r, hashes in lock if not hashes or not all(re.fullmatch("sha256:[0-9a-f]{64}", h) for h in hashes)]
    assert sum(len(hashes) + 1 for _, hashes in lock) == len([line for line in LOCK.splitlines() if not line.lstrip().startswith("#")])


def test_no_address_is_in_what_installs():
    "Where packages come from is the machine's business: neither the lock nor what reads it names a place."
    names = "requirements.lock pyproject.toml .ci/install .ci/run .devcontainer/devcontainer.json Makefile"
    files = [ROOT / name for name in names.split()] + list((ROOT / ".github").rglob("*.yaml"))
    own = r"https://(?:github\.com/collapse-nb/collapse_nb|arxiv\.org/abs/)\S*"
    place = r"\w+://[^\s\"']+|--(?:extra-)?index-url (?![\"$])\S+|--find-links \S+"
    assert not [(p.name, found) for p in files if (found := re.findall(place, re.sub(own, "", p.read_text())))]


BACKEND = """import shutil
def build_editable(folder, settings=None, metadata=None):
    return shutil.copy("own/own-1-py3-none-any.whl", folder).rpartition("/")[2]
"""


@pytest.fixture
def tiny(tmp_path):
    """.ci/install in a project of its own, whose lock names three packages that lie in a folder, beside a folder with another
    build of one. Called with variables it returns the process, and each package's word of where it comes from."""
    def wheel(folder, name, version):
        place = tmp_path / folder / name.replace("_", "-")
        place.mkdir(parents=True)
        path = place / f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as z:
            z.writestr(f"{name}.py", f"place = {folder!r}\n")
            z.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            z.writestr(f"{info}/RECORD", "")
        (place / "index.html").write_text(f'<!DOCTYPE html><a href="{path.name}">{path.name}</a>')
        return path, f"{place.name}=={version} \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"

    lock = [wheel("index", *each)[1] for each in (("nvidia_cublas", "13.1"), ("torch", "2.0"), ("torch_fidelity", "0.4"))]
    wheel("cpu", "torch", "2.0+cpu")
    (tmp_path / "own").mkdir()
    shutil.copy(wheel("built", "own", "1")[0], tmp_path / "own")
    (tmp_path / "requirements.lock").write_text("".join(lock))
    (tmp_path / "backend.py").write_text(BACKEND)
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (tmp_path / "pyproject.toml").write_text(f'{build}[project]\nname = "own"\nversion = "1"\n')
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "install", tmp_path / ".ci")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV", "PYTHON", "TORCH_INDEX", "NEWEST"))}
    places = dict(PIP_INDEX_URL=(tmp_path / "index").as_uri(), PIP_CONFIG_FILE=os.devnull, PIP_NO_CACHE_DIR="1",
                  UV_INDEX_URL=(tmp_path / "index").as_uri(), UV_NO_CONFIG="1", UV_CACHE_DIR=str(tmp_path / "cache"), PYTHON=sys.executable)

    def install(**variables):
        env = kept | places | variables
        done = subprocess.run(["sh", ".ci/install"], cwd=tmp_path, env=env, capture_output=True, text=True)
        said = {}
        for name in ("torch", "torch_fidelity", "nvidia_cublas", "own"):
            found = subprocess.run([tmp_path / ".venv/bin/python", "-c", f"import {name}; print({name}.place)"], capture_output=True, text=True)
            said[name] = found.stdout.strip()
        return done, said

    install.lock, install.cpu = tmp_path / "requirements.lock", (tmp_path / "cpu").as_uri()
    return install


UV = shutil.which("uv", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
TOOLS = ["no", pytest.param(UV, marks=pytest.mark.skipif(not UV, reason="no uv here"))]


@pytest.mark.slow
@pytest.mark.parametrize("uv", TOOLS, ids=["pip", "uv"])
def test_torch_comes_from_where_it_is_told_and_the_rest_from_the_lock(tiny, uv):
    done, said = tiny(UV=uv, TORCH_INDEX=tiny.cpu)
    assert said == dict(torch="cpu", torch_fidelity="index", nvidia_cublas="", own="built"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("uv", TOOLS, ids=["pip", "uv"])
def test_installing_refuses_a_file_of_another_hash(tiny, uv):
    tiny.lock.write_text(tiny.lock.read_text()[:-5] + "0000\n")
    done, said = tiny(UV=uv)
    assert done.returncode and not any(said.values()) and "hash" in done.stderr.lower(), done.stderr


@pytest.mark.slow
def test_installing_goes_on_with_pip_where_uv_fails(tiny):
    done, said = tiny(UV="/bin/false")
    assert done.returncode == 0 and "pip tries" in done.stdout, done.stderr
    assert said == dict(torch="index", torch_fidelity="index", nvidia_cublas="index", own="built")


def test_ways_in_are_targets_of_make():
    "The devcontainer and the workflows call what the Makefile has."
    makefile = (ROOT / "Makefile").read_text()
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    workflows = [yaml.safe_load(p.read_text()) for p in sorted((ROOT / ".github" / "workflows").glob("*.yaml"))]
    commands = [container["postCreateCommand"], (ROOT / ".ci" / "run").read_text()]
    commands += [step["run"] for w in workflows for job in w["jobs"].values() for step in job["steps"] if "run" in step]
    called = {target for c in commands for target in re.findall(r"\bmake ([a-z]\w*)", c)}
    assert {"install", "test", "docs"} <= called
    assert not [target for target in called if not re.search(rf"^{target}:", makefile, re.M)]


# ---- the release

CHANGES = (ROOT / "CHANGELOG.md").read_text()
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_version_is_one():
    "pyproject.toml states it; the citation and the newest entry of the changelog follow."
    newest = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", CHANGES, re.M)
    assert PROJECT["version"] == CITATION["version"] == newest[1]
    assert str(CITATION["date-released"]) == newest[2]


def test_the_citation_is_of_its_format():
    "What the schema 1.2.0 of cff asks: these fields, and known ones only."
    assert CITATION["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= set(CITATION)
    known = "abstract authors cff-version commit contact date-released doi identifiers keywords license license-url message " \
            "preferred-citation references repository repository-artifact repository-code title type url version"
    assert set(CITATION) <= set(known.split()) and CITATION["type"] == "software" and CITATION["license"] == PROJECT["license"]
    paper = CITATION["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper) and paper["type"] == "conference-paper" and paper["conference"]["name"]
    for person in paper["authors"]: assert set(person) <= {"given-names", "family-names"} and person["family-names"]
    for identifier in paper["identifiers"]: assert set(identifier) <= {"type", "value", "description"} and identifier["type"] in ("doi", "url", "swh", "other")
    assert paper["title"] in (ROOT / "README.md").read_text().replace("\n", " ")


@pytest.mark.slow
def test_wheel_and_sdist_hold_what_they_must(tmp_path):
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    stem = f"collapse_nb-{PROJECT['version']}"
    assert wheel.name.startswith(stem) and sdist.name == f"{stem}.tar.gz"
    inside = set(zipfile.ZipFile(wheel).namelist())
    modules = {f"collapse_nb/{p.name}" for p in (ROOT / "collapse_nb").iterdir() if p.suffix in (".py", ".html", ".css", ".js")}
    assert {n for n in inside if ".dist-info/" not in n} == modules | {"collapse_nb/settings.ini", "collapse_nb/run_loop.ipynb"}
    names = {n.removeprefix(f"{stem}/") for n in tarfile.open(sdist).getnames()}
    wanted = "pyproject.toml settings.ini requirements.lock Makefile .ci/run .ci/install README.md CHANGELOG.md CITATION.cff LICENSE"
    assert set(wanted.split()) | {"nbs/run_loop.ipynb", "docs/scope.md", "tests/test_repo.py", "figures/records/demo.csv"} <= names
    assert wheel.stat().st_size < 2**20 and sdist.stat().st_size < 60 * 2**20
    twine = pytest.importorskip("twine.commands.check")
    assert not twine.check([str(wheel), str(sdist)], strict=True)
