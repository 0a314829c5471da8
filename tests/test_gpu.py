"""The GPU's code: on a GPU where there is one (pytest -m gpu), its logic and the whole command on a CPU."""

import dataclasses
import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from collapse_nb import blocks, diffusion, gpu, gpu_loop, sampling
from collapse_nb.config import load_preset
from collapse_nb.data import load_images
from collapse_nb.denoiser import Denoiser
from collapse_nb.device import full_precision, points_on, reproducible
from collapse_nb.diffusion import train
from collapse_nb.gpu_checks import CHECKS, run_checks
from collapse_nb.metrics import measure_space
from collapse_nb.neighbors import nearest
from collapse_nb.sampling import sample
from collapse_nb.selection import STRATEGIES


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CHECKS)
def test_on_the_gpu(name):
    value, limit = CHECKS[name]("cuda")
    assert value <= limit


# ---- what a GPU does, done by the CPU

@pytest.fixture
def tensors(monkeypatch):
    "Points are handled as those that lie on another device: as tensors."
    monkeypatch.setattr(blocks, "moved", lambda x: torch.from_numpy(np.array(x)) if isinstance(x, np.ndarray) else x)


@pytest.fixture(scope="module")
def two_sets():
    images = load_images("digits", n=600)
    return images[:350], images[350:]


KINDS = [lambda x: x, lambda x: x.flat().astype(np.float32) / 7, lambda x: x.flat().astype(np.float16), lambda x: x.flat().astype(np.int64)]


@pytest.mark.parametrize("kind", KINDS, ids=["images", "float32", "float16", "int64"])
def test_points_on_another_device_have_the_same_neighbours(two_sets, kind, request):
    a, b = map(kind, two_sets)
    here = [nearest(a, b, 3), nearest(a, a, 2, exclude_self=True)]
    request.getfixturevalue("tensors")
    for (distance, index), (theirs, there) in zip(here, [nearest(a, b, 3), nearest(a, a, 2, exclude_self=True)]):
        assert (index == there).all() and (distance == theirs).all()


@pytest.mark.parametrize("kind", KINDS, ids=["images", "float32", "float16", "int64"])
@pytest.mark.parametrize("strategy", ["greedy", "threshold_decay", "guarded", "max_entropy"])
def test_points_on_another_device_are_chosen_alike(two_sets, kind, strategy, request):
    a, b = map(kind, two_sets)
    more = dict(reference=b) if strategy == "guarded" else {}
    here = STRATEGIES[strategy](a, 120, seed=0, **more)
    request.getfixturevalue("tensors")
    assert STRATEGIES[strategy](a, 120, seed=0, **more).tolist() == here.tolist()


def test_points_on_another_device_have_the_same_metrics(two_sets, request):
    a, b = two_sets
    sets = a[:100], b[:100], b[100:], a[100:], a[100:200]
    here = measure_space(*sets)
    request.getfixturevalue("tensors")
    assert measure_space(*sets) == pytest.approx(here, rel=1e-9)


def recording(function, *examples):
    "What a CUDA graph does: fixed places for what goes in and what comes out, the work itself repeated."
    places, output = [x.clone() for x in examples], []
    for _ in range(3): function(*places)
    recording.count += 1

    def replay(*new):
        for place, x in zip(places, new):
            assert place.shape == x.shape and place.dtype == x.dtype  # else a graph would silently compute something else
            place.copy_(x)
        found = function(*places)
        output[:] = output or [found.clone()]
        return output[0].copy_(found)
    return replay


@pytest.mark.parametrize("change", [{}, dict(guidance=2, flip=True), dict(objective="ddpm", precision="bf16", accumulate_steps=2)], ids=str)
def test_a_recorded_step_trains_alike(monkeypatch, change):
    "And losses that are fetched now and then are those of every step."
    images = load_images("digits", n=32)
    c = load_preset("smoke", train_steps=12, warmup_steps=2, batch_size=16, **change)
    found = []
    for recorded in (False, True):
        if recorded:
            recording.count = 0
            monkeypatch.setattr(diffusion, "captured_graph", recording)
            monkeypatch.setattr(diffusion, "fetch_every", lambda device: 5)
        model = Denoiser.fresh(c.network, c.objective, images, 0, 10 if c.conditional else None)
        states = list(train(model, images, c, 1))
        found.append((states[-1].losses, torch.cat([w.flatten() for w in model.unet.parameters()])))
    assert found[0][0] == found[1][0] and len(found[0][0]) == 12 and torch.equal(found[0][1], found[1][1])
    assert recording.count == 1 and len({s.loss for s in states}) == 4 and [s.step for s in states] == [*range(1, 13)]


def test_a_loss_that_is_not_finite_is_found_when_it_is_fetched(monkeypatch):
    images, c = load_images("digits", n=32), load_preset("smoke", train_steps=12, warmup_steps=1, learning_rate=1e30)
    monkeypatch.setattr(diffusion, "fetch_every", lambda device: 5)
    with pytest.raises(diffusion.Diverged, match=r"the loss of step [3-6] is (nan|inf)"):
        list(train(Denoiser.fresh(c.network, c.objective, images, 0), images, c, 1))


@pytest.mark.parametrize("guidance", [None, 2])
@pytest.mark.parametrize("sampler", sampling.SAMPLERS)
@pytest.mark.parametrize("objective", ["edm", "ddpm"])
def test_a_recorded_network_samples_alike(monkeypatch, objective, sampler, guidance):
    images = load_images("digits", n=32)
    model = Denoiser.fresh("unet-16-32", objective, images, 0, guidance and 10)
    about = dict(sampler=sampler, steps=10, seed=0, batch_size=4, guidance=guidance)
    plain, recording.count = sample(model, 10, **about).pixels, 0
    monkeypatch.setattr(sampling, "captured_graph", recording)
    assert (sample(model, 10, **about).pixels == plain).all() and recording.count == 2  # batches of 4, and of 2


def test_precision_and_memory_format_change_samples_by_rounding_alone():
    images = load_images("digits", n=32)
    model, about = Denoiser.fresh("unet-16-32", "edm", images, 0), dict(sampler="dpm++", steps=6, seed=0)
    plain = sample(model, 8, **about).pixels.astype(float)
    for change in (dict(precision="bf16"), dict(channels_last=True)):
        other = sample(model, 8, **about, **change).pixels.astype(float)
        assert 0 < np.abs(other - plain).mean() < 8 if "precision" in change else np.abs(other - plain).mean() < 0.1
    assert all(w.is_contiguous() for w in model.unet.parameters())  # as it was


def test_settings_are_put_back():
    before = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    with points_on("cpu"), reproducible("cpu"), full_precision("cpu"), pytest.raises(KeyError): raise KeyError
    assert (torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()) == before


def test_a_check_that_is_wrong_or_fails_says_so(monkeypatch):
    def failing(device): raise ValueError("it does not fit\nat all")
    monkeypatch.setattr("collapse_nb.gpu_checks.CHECKS", dict(good=lambda d: (0, 0), bad=lambda d: (2, 1), broken=failing, long=None))
    rows = {r["check"]: r for r in run_checks("cpu", lambda name: "no time" if name == "long" else "")}
    assert [r["result"] for r in rows.values()] == ["right", "wrong", "failed", "left out"]
    assert rows["broken"]["about"] == "ValueError: it does not fit" and rows["long"]["about"] == "no time" and rows["bad"]["value"] == 2


# ---- the command

@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_what_runs(tmp_path, warm):
    done = subprocess.run([warm, "-m", "collapse_nb.gpu", "--out", tmp_path / "o"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "o").exists()
    assert "device = 'cuda': torch finds no CUDA GPU here" in done.stderr and "--device cpu" in done.stderr


@pytest.mark.parametrize("change, words", [
    (dict(minutes=0.5), "minutes = 0.5 .allowed: 1 to 1440"), (dict(data="nowhere.tar.xz"), "data = 'nowhere.tar.xz': no such file"),
    (dict(device="cuda:x"), "cuda:x"), (dict(out="full"), "holds an earlier run's results")])
def test_bad_input_is_refused_before_any_work(tmp_path, change, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "log.txt").write_text("")
    about = dict(device="cpu", minutes=3) | change
    with pytest.raises((ValueError, FileNotFoundError, RuntimeError), match=words):
        gpu.run_kit(tmp_path / about.pop("out", "new"), **about)
    assert not (tmp_path / "new").exists()


def test_the_kit_needs_no_notebook_and_no_plotting_package():
    "A bare machine has none of them."
    code = "import sys, collapse_nb.gpu, collapse_nb.cli, collapse_nb.loop; print(*(m for m in sys.modules if '.' not in m))"
    there = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not there & {"papermill", "nbformat", "nbclient", "IPython", "seaborn", "matplotlib", "cleanfid"}


TINY = dataclasses.replace(
    gpu_loop.CPU, sizes=(16,), dose=48, compared=(("unet-16-32", (1, 8, 8), 64),), steps=12, points=(256, 8), iterations=3,
    change=gpu_loop.CPU.change | dict(warmup_steps=2, sample_steps=4, eval_samples=20))


def rows_of(folder, name):
    return pd.read_csv(folder / f"{name}.csv")


@pytest.mark.slow
def test_the_whole_kit_on_a_cpu(tmp_path, monkeypatch, capsys, warm_processes):
    "All four steps write their files; the loop's are records as any study's."
    monkeypatch.setattr(gpu, "CPU", TINY)
    monkeypatch.setattr(gpu_loop, "NOVELTY", (0, 9))  # so few steps have no regime
    chosen = {n: f for n, f in CHECKS.items() if n.startswith(("neighbours", "greedy", "training twice"))}
    monkeypatch.setattr("collapse_nb.gpu_checks.CHECKS", chosen)
    gpu.run_kit(tmp_path / "out", "cpu", 20)  # it ends when all is done
    out, said = tmp_path / "out", capsys.readouterr().out
    assert sorted(f.name for f in out.iterdir()) == sorted(gpu.RESULT_FILES) and (out / "log.txt").read_text() == said
    assert (rows_of(out, "checks").result == "right").all() and len(rows_of(out, "checks")) == len(chosen)
    assert (rows_of(out, "speed").ours > 0).all() and set(rows_of(out, "speed").what) == {"training", "sampling", "greedy", "nearest"}
    loop, about = rows_of(out, "loop"), json.loads((out / "loop.json").read_text())
    assert set(loop.strategy) == {"vanilla", "greedy"} and loop.iteration.max() == 3 and set(loop.study) == {"cpu-digits"}
    assert set(loop.paradigm) == {"replace"} and about["ended"] == "complete" and about["n_train"] == 16
    assert len(about["iteration_seconds"]["greedy"]) == 2 and set(about["prediction_error"]) == {"vanilla", "greedy"}
    assert set(rows_of(out, "more").study) == {"cpu-smoke"} and rows_of(out, "more").config.nunique() == 2
    assert json.loads((out / "environment.json").read_text())["device"] == "cpu"
    with pytest.raises(ValueError, match="earlier run"): gpu.run_kit(out, "cpu", 3)


@pytest.fixture
def kit(tmp_path):
    (tmp_path / "out").mkdir(); (tmp_path / "work" / "runs").mkdir(parents=True)
    made = gpu_loop.Kit("cpu", tmp_path / "out", tmp_path / "work", time.monotonic() + 1200, TINY)
    made.data, _ = gpu.prepare_data(None, made.work)
    made.speeds["unet-16-32", 8] = dict(training=1000.0, sampling=1000.0)
    return made


@pytest.mark.slow
def test_a_novelty_outside_the_regime_asks_for_another_dose_and_time_stops_the_runs(kit, monkeypatch, warm_processes):
    configs = gpu_loop.loop_configs(kit, "unet-16-32", 16, 48)
    monkeypatch.setattr(gpu_loop, "NOVELTY", (9, 10))
    assert gpu_loop.follow_loop(kit, configs, kit.ends, 0.1, True) == "again"
    assert gpu_loop.follow_loop(kit, configs, time.monotonic(), 0.1, True) == "time"
    assert not list(kit.out.glob("*.part")) and len(rows_of(kit.out, "loop").iteration.unique()) >= 1


def test_the_plan_takes_the_best_that_fits(kit):
    kit.scale = dataclasses.replace(gpu_loop.GPU, preset="demo", change=dict(device="cpu"))
    kit.speeds = {("UNet48", 32): dict(training=20_000.0, sampling=40_000.0), ("UNet32", 32): dict(training=50_000.0, sampling=90_000.0),
                  ("unet-16-32-64", 16): dict(training=90_000.0, sampling=200_000.0)}
    plans = [gpu_loop.choose_plan(kit, s) for s in (3600, 500, 250, 120, 5)]
    assert plans[0] == ("UNet48", 1024) and plans[-1] is None
    order = [(n, m) for n in gpu_loop.GPU.shapes for m in gpu_loop.GPU.sizes]
    assert [order.index(p) for p in plans[:-1]] == sorted(order.index(p) for p in plans[:-1])
    assert [gpu_loop.other_dose(v) for v in (0.1, 0.3, 0.55, 0.8, 1.2, float("nan"))] == [0.5, 1, 1, 1, 2, 1]


def test_a_run_that_fails_is_told(kit, warm_processes):
    configs = [dataclasses.replace(c, dataset="npz:gone.npz") for c in gpu_loop.loop_configs(kit, "unet-16-32", 16, 48)]
    gpu_loop.follow_loop(kit, configs, kit.ends, 0.1, False)
    assert "gone.npz" in (kit.work / "runs" / f"{configs[0].name}.log").read_text()
