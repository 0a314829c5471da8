"""The notebooks that opt out of nbdev-test, executed as a reader would: papermill, small parameters, a temporary directory."""

import base64
import copy
import importlib.util
import json
import re
import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import papermill
import pytest
from conftest import ROOT, text_of

from collapse_nb.data import load_images
from collapse_nb.evidence import VERDICTS
from collapse_nb.fid import export_images

STAMP = importlib.util.spec_from_file_location("stamp", ROOT / "docs" / "stamp.py")
stamp = importlib.util.module_from_spec(STAMP)
STAMP.loader.exec_module(stamp)
RUNNABLE = sorted(p.stem for pattern in ("run_*", "fig_*", "demo_*", "ledger") for p in (ROOT / "nbs").glob(pattern + ".ipynb"))
FIGURES = [n for n in RUNNABLE if n.startswith("fig_")]


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory):
    "A copy of the notebooks after nbdev-clean."
    folder = tmp_path_factory.mktemp("cleaned")
    for file in ("pyproject.toml", "settings.ini"): shutil.copy(ROOT / file, folder)
    (folder / "nbs").mkdir(); (folder / "collapse_nb").mkdir()
    for name in RUNNABLE: shutil.copy(ROOT / "nbs" / f"{name}.ipynb", folder / "nbs")
    subprocess.run([f"{sys.prefix}/bin/nbdev-clean", "--fname", str(folder / "nbs")], cwd=folder, check=True)
    return folder / "nbs"


@pytest.mark.parametrize("name", RUNNABLE)
def test_tags_and_kernel_survive_nbdev_clean(name, cleaned):
    copy = cleaned / f"{name}.ipynb"
    nb = nbformat.read(copy, 4)
    assert [c.metadata.get("tags") for c in nb.cells].count(["parameters"]) == 1
    assert {"name": "python3", "language": "python"}.items() <= nb.metadata.kernelspec.items()
    assert copy.read_bytes() == (ROOT / "nbs" / f"{name}.ipynb").read_bytes()


def test_what_colab_reads_survives_nbdev_clean(cleaned):
    "The accelerator that a notebook asks for; the demos for a CPU ask for none."
    asked = {n: nbformat.read(cleaned / f"{n}.ipynb", 4).metadata for n in RUNNABLE if n.startswith("demo_")}
    assert {n: m.get("accelerator") for n, m in asked.items()} == dict(demo_check_my_images=None, demo_cifar10_gpu="GPU")
    assert asked["demo_cifar10_gpu"].colab == dict(gpuType="T4", provenance=[])


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_badge_opens_this_notebook(name):
    head, github = nbformat.read(ROOT / "nbs" / f"{name}.ipynb", 4).cells[1].source, "https://colab.research.google.com/github/collapse-nb/collapse_nb"
    assert head.count("colab-badge.svg") == head.count(f"]({github}/blob/main/nbs/{name}.ipynb)") == 1


@pytest.mark.parametrize("name", RUNNABLE)
def test_no_injected_cell_is_committed(name):
    assert "injected-parameters" not in (ROOT / "nbs" / f"{name}.ipynb").read_text()


@pytest.mark.parametrize("name", RUNNABLE)
def test_outputs_belong_to_the_source(name):
    "docs/stamp.py writes the digest of the code cells beside outputs; a changed cell makes them another code's."
    notebook = json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text())
    assert not stamp.check(notebook), f"python docs/stamp.py nbs/{name}.ipynb after executing it"


def test_outputs_of_other_code_are_noticed(tmp_path):
    notebook = json.loads((ROOT / "nbs" / "fig_study.ipynb").read_text())
    changed = copy.deepcopy(notebook)
    next(c for c in changed["cells"] if c["cell_type"] == "code")["source"].append("\n# changed")
    assert not stamp.check(notebook) and stamp.check(changed) == "has outputs of other code"
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps(changed))
    assert stamp.main("--check", str(path)) == 1 and stamp.main(str(path)) == 0 == stamp.main("--check", str(path))
    for cell in stamp.code_of(changed):
        cell["outputs"] = []
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="no outputs"):
        stamp.main(str(path))


def test_figures_are_small_executed_and_short():
    lines = 0
    for name in FIGURES:
        path = ROOT / "nbs" / f"{name}.ipynb"
        cells = nbformat.read(path, 4).cells
        code = [c for c in cells if c.cell_type == "code"]
        said = [len(c.source.split()) for c in cells if c.cell_type == "markdown"]
        assert path.stat().st_size < 300_000 and any(c.outputs for c in code) and max(said) <= 120, name
        rows = [row for c in code for row in c.source.splitlines() if row.strip()]
        assert max(map(len, rows[4:])) <= 110, name
        lines += len(rows)
    assert lines <= 36 * len(FIGURES)  # on average


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [
    dict(strategy="greedy"),
    dict(strategy="threshold_decay", paradigm="replace", seed=3, n_train=24, iterations=3, space="classifier", more="alpha=0.8")])
def test_run_loop_takes_its_parameters_and_shows_the_figure(execute, tmp_path, parameters):
    nb = execute("run_loop", preset="smoke", out_dir=str(tmp_path / "run"), figures_dir=str(tmp_path / "figures"), **parameters)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    expected = {k: v for k, v in parameters.items() if k != "more"} | ({"alpha": 0.8} if "more" in parameters else {})
    assert expected.items() <= config.items() and config["preset"] == "smoke"
    pictures = [o.data["image/png"] for c in nb.cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 2 and all(base64.b64decode(p)[:4] == b"\x89PNG" for p in pictures)
    drawn = {f"loop-run{kind}.{end}" for kind in ("", "-provenance") for end in ("json", "png", "svg")}
    assert {p.name for p in (tmp_path / "figures").iterdir()} == drawn
    assert f"(GS), iteration {config['iterations']} after iteration 1: {parameters['strategy']} " in text_of(nb)
    assert "accuracy 0.9" in text_of(nb)


@pytest.mark.slow
@pytest.mark.parametrize("parameters, words", [
    (dict(stratgy="entropy"), "stratgy = 'entropy': no such parameter"), (dict(strategy="entorpy"), "entorpy.*threshold_decay"),
    (dict(preset="dmeo"), "dmeo.*demo"),
    (dict(seed=-1), "seed = -1"), (dict(n_train=5000), "n_train = 5000.*1000"), (dict(more="alpha"), "key=value"),
    (dict(more="seed=2", seed=1), "seed: given as a parameter and in more")])
@pytest.mark.filterwarnings("ignore::papermill.exceptions.PapermillWarning", "ignore:Passed unknown parameter")
def test_run_loop_refuses_a_mistake_before_training(execute, tmp_path, parameters, words):
    with pytest.raises(papermill.PapermillExecutionError, match=words):
        execute("run_loop", **dict(preset="smoke", out_dir=str(tmp_path / "run"), figures_dir=str(tmp_path / "figures")) | parameters)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_sweep_then_comparison(execute, tmp_path):
    nb = execute("run_sweep", study="smoke", out_dir=str(tmp_path / "runs"), records_dir=str(tmp_path / "records"),
                 figures_dir=str(tmp_path / "local"))
    assert len(list((tmp_path / "runs").glob("smoke-*/metrics.csv"))) == 2
    assert "vanilla" in str(nb.cells[-2].outputs) and not nb.cells[-1].outputs
    nb = execute("fig_demo", records=str(tmp_path / "records" / "smoke.csv"), out_dir=str(tmp_path / "figures"))
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["smoke.json", "smoke.png", "smoke.svg"]
    assert re.search(r"\(GS\), iteration 2 after iteration 1: vanilla \d+ after \d+ \(\d+%\), greedy ", text_of(nb))


def run_cells(name, **parameters):
    "A notebook's code, in this process: what papermill and a kernel do is tested above, once, and takes longer than to draw."
    space = {}
    for cell in nbformat.read(ROOT / "nbs" / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code": exec(compile(cell.source, f"{name}.ipynb", "exec"), space)
        if cell.metadata.get("tags") == ["parameters"]: space.update(parameters)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_figures_draw_from_the_committed_records(tmp_path, monkeypatch, name):
    monkeypatch.chdir(ROOT)
    run_cells(name, out_dir=str(tmp_path))
    stem = name.removeprefix("fig_")
    for suffix in (".png", ".svg", ".json"):
        assert (tmp_path / f"{stem}{suffix}").stat().st_size > 0 and (ROOT / "figures" / f"{stem}{suffix}").exists()
    committed, drawn = (json.loads((p / f"{stem}.json").read_text()) for p in (ROOT / "figures", tmp_path))
    for said in (committed, drawn):  # other versions of the libraries draw other bits
        said.pop("drawn_with", None)
        said.get("sha256", {}).pop("pictures", None)
    assert committed == drawn, "the committed figure was drawn from other records"


@pytest.mark.slow
def test_the_ledger_is_what_the_records_say(execute, tmp_path):
    tables = "ledger.csv", "expected.csv", "rule.csv"
    execute("ledger", **{name: str(tmp_path / file) for name, file in zip(("out", "expected", "rule"), tables)})
    for name in tables:
        committed, again = (pd.read_csv(p / name) for p in (ROOT / "figures" / "records", tmp_path))
        pd.testing.assert_frame_equal(committed, again, rtol=1e-4)
    ledger = pd.read_csv(ROOT / "figures" / "records" / "ledger.csv")
    assert set(ledger.verdict) <= set(VERDICTS)
    decided = ledger[ledger.verdict.isin(VERDICTS[:2])]
    assert decided.low.notna().all() and (decided.seeds > 1).all()


@pytest.mark.slow
def test_a_figure_without_its_records_fails_and_says_what_makes_them(execute, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="run_sweep.*-p study"):
        execute("fig_gs", records=str(tmp_path), out_dir=str(tmp_path / "figures"))
    assert not (tmp_path / "figures").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name, parameters", [
    ("fig_gs", dict(studies="digits-regime")), ("fig_study", dict(records="figures/records/digits-regime.csv", by="train_steps")),
    ("fig_study", dict(study="digits-sizes", by="n_train"))])
def test_a_sweep_is_drawn(execute, tmp_path, name, parameters):
    execute(name, out_dir=str(tmp_path / "figures"), **parameters)
    stem = name.removeprefix("fig_")
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {f"{stem}{end}" for end in (".json", ".png", ".svg")}


@pytest.mark.slow
def test_selectors_compared_on_real_images(execute, tmp_path):
    about = dict(pool=200, sizes="40", seeds="0, 1", strategies="vanilla, greedy, max_entropy", records=str(tmp_path / "records.csv"))
    nb = execute("run_selection", **about)
    table = pd.read_csv(tmp_path / "records.csv")
    assert len(table) == 6 and set(table.strategy) == {"vanilla", "greedy", "max_entropy"} and (table.n == 40).all() and (table.pool == 200).all()
    best = table.pivot(index="seed", columns="strategy", values="entropy")
    assert (best.vanilla < best.greedy).all() and (best.greedy < best.max_entropy).all()
    said, again = ([line for line in text_of(b).splitlines() if "max_entropy - greedy" in line] for b in (nb, execute("run_selection", **about)))
    assert len(pd.read_csv(tmp_path / "records.csv")) == 6 and said == again and len(said) == 2


@pytest.mark.slow
def test_solvers_compared_and_resumed(execute, tmp_path):
    about = dict(preset="smoke", seeds="0, 1", n=64, evaluations="4, 5", reference_steps=20, samplers="dpm++, heun",
                 records=str(tmp_path / "samplers.csv"), models=str(tmp_path / "models"))
    said = text_of(execute("run_samplers", **about))
    table = pd.read_csv(tmp_path / "samplers.csv")
    assert len(table) == 10 and set(table.steps) == {20, 4, 5} and (table.frechet > table.frechet_train).all()
    assert len(list((tmp_path / "models").iterdir())) == 2
    assert table[(table.sampler == "heun")].evaluations.tolist() == [3, 5] * 2
    table[table.seed == 0].to_csv(tmp_path / "samplers.csv", index=False)  # as after a kill
    again = text_of(execute("run_samplers", **about))
    both = pd.read_csv(tmp_path / "samplers.csv")
    assert both.frechet.tolist() == pytest.approx(table.frechet.tolist(), rel=1e-3) and both.seconds[:5].tolist() == table.seconds[:5].tolist()
    assert [line for line in said.splitlines() if "ratio" in line] == [line for line in again.splitlines() if "ratio" in line]


@pytest.mark.slow
def test_real_sets_over_n(execute, tmp_path):
    nb = execute("run_real_sizes", sizes="64, 256", seeds="0, 1", records=str(tmp_path / "sizes.csv"))
    execute("run_real_sizes", sizes="64", seeds="0", side=4, records=str(tmp_path / "sizes.csv"))
    table = pd.read_csv(tmp_path / "sizes.csv")
    assert table.groupby("dataset").size().to_dict() == {"digits": 20, "digits-4px": 5} and "gs_unseen" in str(nb.cells[-3].outputs)
    mean = table[table.dataset == "digits"].pivot_table("value", "metric", "n_train")
    assert mean.loc["mnnd", 64] > mean.loc["mnnd", 256] and mean.loc["gs_unseen", 64] > mean.loc["gs_unseen", 256] > 0


def shown(nb):
    "The report that the notebook shows: its text, its HTML, and how many pictures are in it."
    (data,) = [o.data for c in nb.cells if c.cell_type == "code" for o in c.outputs if "text/html" in o.get("data", {})]
    return data["text/plain"], data["text/html"], data["text/html"].count("data:image/png;base64,")


@pytest.mark.slow
def test_check_my_images_without_any_images(execute, tmp_path):
    nb = execute("demo_check_my_images", preset="smoke", out_dir=str(tmp_path / "run"), save_to=str(tmp_path / "numbers.json"))
    text, html, pictures = shown(nb)
    assert "a model of the preset smoke, trained on 32 real images" in text_of(nb) and pictures == 1 + 8 * 2 + 8
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert (tmp_path / "run" / "iteration-001").is_dir()
    sizes = numbers["sizes"]
    assert sizes | dict(reference=0) == dict(generated=32, train=32, reference=0, draw=32) and numbers["space"] == "pixel"
    assert 700 < sizes["reference"] <= 797, "less near-duplicates of training images"
    assert all(f"{v['name']}? " in text and v["name"] in html for v in numbers["verdicts"]) and len(numbers["verdicts"]) == 4


@pytest.mark.slow
def test_check_my_images_on_folders(execute, tmp_path):
    train, heldout = load_images("digits"), load_images("digits", split="heldout")
    for name, x in dict(made=train[:40], train=train[:60], new=heldout[:80]).items(): export_images(x, tmp_path / name)
    named = dict(generated=str(tmp_path / "made"), train=f"folder:{tmp_path / 'train'}", n=30, side=6)
    text, _, pictures = shown(execute("demo_check_my_images", **named, reference=str(tmp_path / "new")))
    assert "generated 30, train 60, reference" in text and "memorizing? yes" in text and pictures == 1 + 8 * 2 + 8
    assert "not measured without a reference" in shown(execute("demo_check_my_images", **named))[0]


@pytest.mark.slow
@pytest.mark.parametrize("parameters, words", [
    (dict(generated="digits"), "generated = 'digits', train = None.*both or neither"), (dict(reference="digits"), "both or neither"),
    (dict(generated="nowhere/at/all", train="digits"), "nowhere/at/all"), (dict(generated="digits", train="digits", space="dino"), "dino.*dinov2"),
    (dict(genrated="digits"), "genrated = 'digits': no such parameter")])
@pytest.mark.filterwarnings("ignore::papermill.exceptions.PapermillWarning", "ignore:Passed unknown parameter")
def test_check_my_images_refuses_a_mistake(execute, parameters, words):
    with pytest.raises(papermill.PapermillExecutionError, match=words): execute("demo_check_my_images", **parameters)
