"""Two processes on the CPU do what one does: the same weights, the same images, each made once."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from collapse_nb.config import load_preset
from collapse_nb.data import load_images
from collapse_nb.denoiser import Denoiser
from collapse_nb.diffusion import train
from collapse_nb.parallel import all_reduce, all_gather, is_main, init_processes, processes, rank_slice, barrier
from collapse_nb.sampling import sample

# What each process does: train (an odd batch, in parts; from a checkpoint where there is one), sample, write what it has.
WORK = """
import os, sys, numpy as np, torch
from pathlib import Path
from collapse_nb.config import load_preset
from collapse_nb.data import load_images
from collapse_nb.denoiser import Denoiser
from collapse_nb.diffusion import train
from collapse_nb import sampling
from collapse_nb.parallel import barrier, processes

def work(folder, steps, stop=None):
    torch.set_num_threads(1)
    c = load_preset("smoke", train_steps=steps, warmup_steps=2, batch_size=13, accumulate_steps=3, flip=True, checkpoint_steps=2)
    digits, made, inner = load_images("digits", n=32), [], sampling.sample_batch
    model = Denoiser.fresh(c.network, c.objective, digits, seed=1, num_classes=10)
    losses = []
    for state in train(model, digits, c, 1, checkpoint=folder / "training.safetensors"):
        losses.append(state.loss)
        if state.step == stop: return
    def counted(model, scheduler, steps, generators, *rest):
        made.extend(g.initial_seed() for g in generators)
        return inner(model, scheduler, steps, generators, *rest)
    sampling.sample_batch = counted
    images = sampling.sample(model, 10, sampler="ancestral", steps=4, seed=5, batch_size=3, guidance=2.0)
    sampling.sample_batch = inner
    w = torch.cat([p.detach().flatten() for p in model.unet.parameters()]).numpy()
    barrier()
    np.savez(folder / f"done-{processes()[0]}.npz", weights=w, losses=losses, pixels=images.pixels, labels=images.labels, made=made)

def differ():
    c, digits = load_preset("smoke"), load_images("digits", n=32, seed=processes()[0])
    try: next(train(Denoiser.fresh(c.network, c.objective, digits, seed=1), digits, c, 1))
    except ValueError as e: os.write(1, f"[{e}]\\n".encode())
"""
EARLY = """
import atexit, os
from pathlib import Path

def left():
    names = [(t / "comm").read_text() for t in Path("/proc/self/task").iterdir()] if Path("/proc/self/task").exists() else []
    said = f"communication threads at the end: {sum('gloo' in n for n in names)}\\n"
    os.write(1, said.encode())  # at once: both processes write to one pipe

atexit.register(left)  # the first registered runs last
from collapse_nb.parallel import init_processes
init_processes("cpu")  # before anything has imported diffusers
"""
STEPS = 6


def launch(tmp_path, script, count=2):
    "Run a script in `count` processes, as a user would."
    path = tmp_path / "script.py"
    path.write_text(script)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(count), "--num_machines", "1",
               "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", str(path)]
    environment = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)  # only against a hang


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    "What one process gives, and two; their folder, and what they printed."
    pytest.importorskip("accelerate")
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    space, threads = {}, torch.get_num_threads()
    exec(WORK, space)
    space["work"](one, STEPS)
    torch.set_num_threads(threads)
    run = launch(two, EARLY + WORK + f"\nwork(Path({str(two)!r}), {STEPS}); differ()\n")
    assert run.returncode == 0, run.stderr
    return np.load(one / "done-0.npz"), [np.load(two / f"done-{r}.npz") for r in range(2)], two, run.stdout


@pytest.mark.slow
def test_two_processes_train_to_the_same_weights(both):
    alone, ranks, *_ = both
    assert np.array_equal(ranks[0]["weights"], ranks[1]["weights"])
    assert np.allclose(ranks[0]["losses"], alone["losses"], rtol=1e-4) and len(alone["losses"]) == STEPS
    assert np.abs(ranks[0]["weights"] - alone["weights"]).max() < 1e-4  # rounding, through Adam's division by small numbers
    assert np.linalg.norm(ranks[0]["weights"] - alone["weights"]) < 1e-5 * np.linalg.norm(alone["weights"])


@pytest.mark.slow
def test_two_processes_make_each_image_once(both):
    alone, ranks, *_ = both
    assert len(alone["made"]) == len(set(alone["made"])) == 10
    assert [*ranks[0]["made"], *ranks[1]["made"]] == alone["made"].tolist() and min(len(r["made"]) for r in ranks) > 3
    assert len(np.unique(ranks[0]["pixels"].reshape(10, -1), axis=0)) == 10
    for r in ranks:
        assert np.array_equal(r["labels"], alone["labels"])
        assert np.abs(r["pixels"].astype(int) - alone["pixels"]).max() <= 1  # their weights differ by rounding


@pytest.mark.slow
def test_equal_weights_give_equal_images_and_a_checkpoint_serves_any_number_of_processes(both):
    "One process continues from the checkpoint that two have left after their last step: nothing but sampling is done anew."
    _, ranks, two, _ = both
    c = load_preset("smoke", train_steps=STEPS, warmup_steps=2, batch_size=13, accumulate_steps=3, flip=True, checkpoint_steps=2)
    digits = load_images("digits", n=32)
    model = Denoiser.fresh(c.network, c.objective, digits, seed=1, num_classes=10)
    states = list(train(model, digits, c, 1, checkpoint=two / "training.safetensors"))
    assert [s.loss for s in states] == ranks[0]["losses"].tolist()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    images = sample(model, 10, sampler="ancestral", steps=4, seed=5, batch_size=3, guidance=2.0)
    torch.set_num_threads(threads)
    assert np.array_equal(images.pixels, ranks[0]["pixels"]) and np.array_equal(images.pixels, ranks[1]["pixels"])


@pytest.mark.slow
def test_processes_that_train_on_different_images_are_refused(both):
    assert both[3].count("differs between the 2 processes (allowed: the same in each)]") == 2


@pytest.mark.slow
def test_no_thread_of_the_communication_outlives_the_group(both):
    "One that does may abort the interpreter while it ends, after all the work is done."
    assert both[3].count("communication threads at the end: 0") == 2


def test_shares_are_a_partition(monkeypatch):
    for count in (1, 2, 3, 7):
        monkeypatch.setenv("WORLD_SIZE", str(count))
        for n in (0, 1, 6, 10, 128):
            parts = []
            for rank in range(count):
                monkeypatch.setenv("RANK", str(rank))
                parts.append(list(range(n))[rank_slice(n)])
            assert sum(parts, []) == list(range(n)) and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_is_left_alone():
    x = torch.arange(3.0)
    all_reduce([x]); all_gather(x, "cpu"); init_processes("cpu"); barrier()
    assert processes() == (0, 1) and is_main() and torch.equal(x, torch.arange(3.0)) and not torch.distributed.is_initialized()
    code = "import sys, collapse_nb.sampling, collapse_nb.diffusion; print('accelerate' in sys.modules)"
    environment = os.environ | dict(PYTHONPATH=str(ROOT))
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_what_cannot_be_shared_is_refused_before_any_work(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    c, digits = load_preset("smoke", batch_size=2), load_images("digits", n=8)
    with pytest.raises(ValueError, match="batch_size = 2 with 3 processes"):
        next(train(Denoiser.fresh(c.network, c.objective, digits, seed=1), digits, c, 1))
    with pytest.raises(ValueError, match="'cuda:1' with 3 processes"): init_processes("cuda:1")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ValueError, match="3 processes need accelerate"): init_processes("cpu")


@pytest.mark.slow
def test_the_loop_in_two_processes(tmp_path):
    "One run directory, whole, whose numbers are those of one process up to rounding."
    fields = dict(preset="smoke", strategy="greedy", paradigm="replace", train_steps=6, warmup_steps=2, sample_steps=3, sample_batch=16)
    arguments = ["run", "-p", "figures_dir", "none", *(a for k, v in fields.items() for a in ("-p", k, str(v)))]
    two = [*arguments, "-p", "out_dir", str(tmp_path / "two")]
    script = f"import sys\nfrom collapse_nb.cli import main\nsys.exit(main({two!r}))\n"
    out = launch(tmp_path, script)
    assert out.returncode == 0, out.stderr
    assert out.stdout.count("iteration 2/2") == 1  # the main process alone speaks
    from collapse_nb.cli import main
    assert main([*arguments, "-p", "out_dir", str(tmp_path / "one")]) == 0
    one, two = (pd.read_csv(tmp_path / n / "metrics.csv") for n in ("one", "two"))
    assert len(one) == len(two) == 2 and not list((tmp_path / "two").glob("*.partial"))
    for column in ("loss", "gs[pixel]", "entropy[pixel]"):
        np.testing.assert_allclose(two[column][:1], one[column][:1], rtol=1e-3)
    for file, count in (("generated", 64), ("eval", 64)):
        pixels = [np.load(tmp_path / n / f"iteration-001/{file}.npz")["pixels"].astype(int) for n in ("one", "two")]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1 and len(pixels[1]) == count
    assert json.loads((tmp_path / "two/environment.json").read_text())[0]["processes"] == 2
