"""Studies: a grid of executed notebooks, on threads of this machine or on dask's workers; what failed is kept, what is missing is run."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from conftest import ROOT, text_of
from papermill.cli import _resolve_type
from PIL import Image

from collapse_nb import config as configs
from collapse_nb import project
from collapse_nb.config import load_preset, named_config
from collapse_nb.evidence import read_records
from collapse_nb.selection import STRATEGIES
from collapse_nb.sweep import (
    collect,
    collect_named_study,
    complete_iterations,
    executor_for,
    notebook_parameters,
    raise_failures,
    read_study,
    run_named_study,
    run_study,
    summary,
)

SMOKE = dict(train_steps=6, warmup_steps=2, sample_steps=3)
TINY = "train_steps=6; warmup_steps=2; sample_steps=3; spaces=pixel"
MINE = """
from collapse_nb.selection import STRATEGIES

@STRATEGIES.register("first_n")
def first_n(points, n): return list(range(n))

@STRATEGIES.register("broken")
def broken(points, n): raise ArithmeticError("nothing to choose")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    "A plugin, which the process forgets afterwards."
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    monkeypatch.setenv("COLLAPSE_NB_PLUGINS", "")
    monkeypatch.setitem(configs.NAMES, "strategy", list(configs.NAMES["strategy"]))
    yield str(file)
    project.PLUGINS.pop(str(file), None)
    for name in ("first_n", "broken"):
        STRATEGIES.pop(name, None)


@pytest.mark.slow
def test_a_study_runs_what_is_missing_keeps_failures_apart_and_collects(tmp_path, warm_processes):
    good = load_preset("smoke", **SMOKE, iterations=1)
    bad = dataclasses.replace(good, n_train=900, network="UNet48")
    assert notebook_parameters(bad)["more"] == "network=UNet48; train_steps=6; warmup_steps=2; sample_steps=3"
    pool, quiet = ThreadPoolExecutor(2), dict(figures_dir=tmp_path / "figures", progress=False)
    with pytest.raises(ValueError, match="twice"):
        run_study([good, dataclasses.replace(good, iterations=2)], tmp_path, executor=pool)
    assert summary([bad, good], tmp_path).state.tolist() == ["missing", "missing"]
    table = run_study([bad, good], tmp_path, executor=pool, **quiet)
    assert table.state.tolist() == ["failed", "complete"] and table.done.tolist() == ["0 of 1", "1 of 1"]
    assert table.loc[good.name, "minutes"] >= 0 and table.loc[good.name, "error"] == "" and "UNet48" in table.loc[bad.name, "error"]
    assert {"n_train", "network"} <= set(table.columns) and "seed" not in table.columns, "what varies, and nothing else"
    failed = nbformat.read(table.loc[bad.name, "notebook"], 4)
    assert any(o.output_type == "error" for c in failed.cells if c.cell_type == "code" for o in c.outputs)
    with pytest.raises(RuntimeError, match=r"1 of 2 runs failed(.|\n)*UNet48(.|\n)*failed.ipynb"): raise_failures(table)
    path, notebook = tmp_path / good.name, tmp_path / good.name / "run_loop.ipynb"
    assert (path / "metrics.csv").exists() and str(notebook) == table.loc[good.name, "notebook"]
    stamp = notebook.stat().st_mtime_ns
    assert run_study([good], tmp_path, executor=pool, **quiet).state.tolist() == ["complete"] and notebook.stat().st_mtime_ns == stamp
    collected = collect([path], "s", tmp_path / "records")
    assert (tmp_path / "records" / "s.csv").exists() and set(collected.config) == {good.digest}
    with np.load(tmp_path / "records" / "s-pictures.npz") as z:
        assert any(k.endswith("/generated-1") for k in z)


@pytest.mark.slow
def test_a_study_on_two_workers_of_a_cluster(tmp_path, mine, capfd, warm):
    "Each worker is a process of its own, without this one's plugins and presets; the numbers are those of one process."
    distributed = pytest.importorskip("distributed")
    about = dict(out_dir=tmp_path / "runs", records_dir=tmp_path / "records", figures_dir=tmp_path / "figures", progress=False,
                 more=f"strategy=vanilla, first_n, broken; seed=1; {TINY}", plugins=mine)
    where = dict(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", local_directory=str(tmp_path / "dask"))
    os.environ["COLLAPSE_NB_PLUGINS"] = ""
    with distributed.LocalCluster(**where) as cluster:
        with distributed.Client(cluster) as client: client.run(setattr, sys, "executable", warm)
        with pytest.raises(RuntimeError, match="1 of 3 runs failed(.|\n)*broken-N32-s1(.|\n)*ArithmeticError: nothing to choose"):
            run_named_study("smoke", scheduler=cluster.scheduler_address, **about)
        with distributed.Client(cluster) as client:
            done = client.run(lambda dask_worker: dask_worker.state.executed_count)
        assert len(done) == 2 and all(done.values()), "both workers had something to do"
    name, grid = read_study("smoke", about["more"], mine)
    table = read_records(name, folder=tmp_path / "records")
    assert set(table.strategy) == {"vanilla", "first_n"} and table.config.nunique() == 2 and set(table.study) == {"smoke"}
    stands = summary(grid, tmp_path / "runs")
    assert stands.state.tolist() == ["complete", "complete", "failed"]
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*/run_loop.ipynb")}
    again = dict(about, more=f"strategy=vanilla, first_n; seed=1; {TINY}")
    assert run_named_study("smoke", **again).config.nunique() == 2  # here, nothing is missing
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps} and len(stamps) == 2
    from collapse_nb.loop import run_loop
    one = list(run_loop(grid[0], tmp_path / "one", progress=False))
    with np.load(tmp_path / "runs" / grid[0].name / "iteration-002" / "generated.npz") as z:
        np.testing.assert_array_equal(z["pixels"], one[1].generated.pixels)


@pytest.mark.slow
def test_a_run_that_missed_its_data_goes_on_when_they_are_there(tmp_path, warm_processes):
    config = load_preset("smoke", **SMOKE, iterations=1, dataset="folder:pictures", data_root=str(tmp_path), side=8, n_train=16)
    about = dict(figures_dir=tmp_path / "figures", progress=False)
    with executor_for(1) as executor:
        table = run_study([config], tmp_path / "runs", executor=executor, **about)
        assert table.state.tolist() == ["failed"] and "pictures" in table.error.iloc[0] and "not on this machine" in table.error.iloc[0]
        rng = np.random.default_rng(0)
        for split in "train", "test":
            for k in range(80):
                file = tmp_path / "pictures" / split / f"class-{k % 2}" / f"{k}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
        table = run_study([config], tmp_path / "runs", executor=executor, **about)
    assert table.state.tolist() == ["complete"] and not (tmp_path / "runs" / config.name / "failed.ipynb").exists()


@pytest.mark.slow
def test_an_interrupted_study_stops_its_notebooks_and_goes_on_later(tmp_path, warm):
    (grid,) = read_study("smoke", f"strategy=vanilla; iterations=40; {TINY}")[1:]
    about = dict(out_dir=str(tmp_path / "runs"), records_dir=str(tmp_path), figures_dir=str(tmp_path), workers=1)
    code = ("from collapse_nb.sweep import run_named_study\n"
            f"run_named_study('smoke', more='strategy=vanilla; iterations=40; {TINY}', **{about})")
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # also where the tests themselves run in the background, which ignores it
    process = subprocess.Popen([warm, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    path = tmp_path / "runs" / grid[0].name
    try:
        while not (path / "iteration-002").is_dir():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    finally: process.kill()
    assert process.returncode and "KeyboardInterrupt" in said
    here = lambda: [p for p in (f"/proc/{i}/cmdline" for i in os.listdir("/proc") if i.isdigit()) if str(tmp_path) in _text(p)]
    for _ in range(300):
        if not here(): break
        time.sleep(0.1)
    done = complete_iterations(grid[0], path)
    assert not here() and 2 <= done < 40, "the notebook of the run went on"
    (few,) = read_study("smoke", f"strategy=vanilla; iterations={done + 1}; {TINY}")[1]
    assert few.name == grid[0].name and summary([few], tmp_path / "runs").state.iloc[0] in ("begun", "failed")
    with executor_for(1) as executor: table = run_study([few], tmp_path / "runs", executor=executor, figures_dir=tmp_path, progress=False)
    assert table.state.tolist() == ["complete"] and not (path / "failed.ipynb").exists()


def _text(file):
    try:
        with open(file) as f: return f.read()
    except OSError: return ""


@pytest.mark.parametrize("change, words", [
    (dict(workers=0), "workers = 0"), (dict(workers=True), "workers = True"), (dict(workers=2.5), "workers = 2.5"),
    (dict(scheduler=8786), "scheduler = 8786.*tcp://HOST:8786"), (dict(more="strategy=entorpy"), "entorpy.*threshold_decay"),
    (dict(more="strategy"), "not key=value"), (dict(plugins="nowhere.py"), "nowhere.py.*is not there"), (dict(name="smoek"), "smoek.*smoke")])
def test_a_study_refuses_a_mistake_before_it_starts(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        run_named_study(**dict(name="smoke", out_dir=tmp_path / "runs", records_dir=tmp_path / "records") | change)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("study", [s.removeprefix("study:") for s in configs.read_settings(configs.settings_path()) if s.startswith("study:")])
def test_the_parameters_of_a_study_name_its_runs_and_no_others(study):
    "Also where a cell switches off what its preset switches on: papermill turns the text None into nothing given."
    for config in read_study(study)[1]:
        given = {k: _resolve_type(str(v)) for k, v in notebook_parameters(config).items()}
        assert named_config(**given) == config


class Noted(Executor):
    "Runs nothing; knows what it was asked for."

    def __init__(self): self.asked = []

    def submit(self, function, notebook, out, parameters, environment):
        self.asked.append(parameters.get("strategy", "vanilla"))
        (nothing := Future()).set_result(None)
        return nothing


@pytest.mark.parametrize("iterations, skipped", [
    ({}, []), (dict(greedy=1), []), (dict(greedy=2), ["greedy"]), (dict(vanilla=3, greedy=1), ["vanilla"]),
    (dict(vanilla=2, greedy=2), ["vanilla", "greedy"])])
def test_what_the_records_hold_whole_is_not_run(tmp_path, iterations, skipped):
    "And what they hold in part is. The state tells which runs stand in the records alone."
    grid, executor = [load_preset("smoke", strategy=s, **SMOKE) for s in ("vanilla", "greedy")], Noted()
    done = {c.digest: iterations[c.strategy] for c in grid if c.strategy in iterations}
    table = run_study(grid, tmp_path, executor=executor, done=done, progress=False)
    assert executor.asked == [s for s in ("vanilla", "greedy") if s not in skipped]
    assert table.state.tolist() == ["recorded" if c.strategy in skipped else "missing" for c in grid]
    raise_failures(table)


def test_a_directory_that_holds_another_run_is_neither_run_nor_collected(tmp_path):
    asked, got = load_preset("smoke", strategy="greedy"), load_preset("smoke")
    path = tmp_path / asked.name
    for n in range(asked.iterations): (path / f"iteration-{n + 1:03d}").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(dataclasses.asdict(got)))
    with executor_for(1) as executor, pytest.raises(ValueError, match="another run: strategy = 'vanilla' there, 'greedy' here"):
        run_study([asked], tmp_path, executor=executor, progress=False)
    with pytest.raises(ValueError, match="another run: strategy = 'vanilla' there, 'greedy' here"):
        collect_named_study("smoke", tmp_path, tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_a_changed_study_has_a_table_of_its_own():
    assert read_study("smoke")[0] == "smoke" and [c.strategy for c in read_study("smoke")[1]] == ["vanilla", "greedy"]
    name, grid = read_study("smoke", "strategy=max_entropy; seed=3, 4")
    assert name == "smoke-strategy-max_entropy-seed-3-4" and [(c.strategy, c.seed) for c in grid] == [("max_entropy", 3), ("max_entropy", 4)]


@pytest.mark.slow
def test_a_sweep_with_a_selector_of_ones_own_keeps_what_failed(execute, tmp_path, mine):
    about = dict(study="smoke", more=f"strategy=first_n, broken; {TINY}", plugins=mine, out_dir=str(tmp_path / "runs"),
                 records_dir=str(tmp_path / "records"), figures_dir=str(tmp_path / "local"))
    with pytest.raises(papermill.PapermillExecutionError, match="1 of 2 runs failed(.|\n)*nothing to choose"): execute("run_sweep", **about)
    nb = nbformat.read(tmp_path / "run_sweep-out.ipynb", 4)
    tables = [o.data["text/plain"] for c in nb.cells if c.cell_type == "code" for o in c.outputs if "text/html" in o.get("data", {})]
    assert tables[0].count("missing") == 2 and "complete" in tables[1] and "failed" in tables[1]
    (records,) = (tmp_path / "records").glob("*.csv")
    assert records.stem.startswith("smoke-strategy-first_n-broken") and set(pd.read_csv(records).strategy) == {"first_n"}
    assert records.name in text_of(nb)
    (failed,) = (tmp_path / "runs").glob("*/failed.ipynb")
    assert "nothing to choose" in failed.read_text() and json.loads((failed.parent / "config.json").read_text())["strategy"] == "broken"
