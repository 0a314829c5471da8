import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from collapse_nb import diffusion, loop, objectives
from collapse_nb.config import load_preset
from collapse_nb.data import load_images
from collapse_nb.loop import run_loop
from collapse_nb.metrics import METRICS
from collapse_nb.records import FIELDS, RUN_FIELDS, arm_of, records
from collapse_nb.runs import load_run, open_run

SMOKE = dict(train_steps=6, warmup_steps=2, sample_steps=3)


def run(path, **change):
    return list(run_loop(load_preset("smoke", **SMOKE | change), path, progress=False))


def numbers(path):
    "metrics.csv without the columns that measure time, as text."
    table = pd.read_csv(path / "metrics.csv", dtype=str)
    return table[[c for c in table if not c.startswith("seconds[")]].to_csv(index=False)


def test_the_chain_of_sets(tmp_path):
    "D_1 is real; D_{n+1} is what iteration n chose; no image of the held-out split is ever trained on."
    generations = run(tmp_path / "r", strategy="greedy", iterations=3)
    heldout = {p.tobytes() for p in load_images("digits", split="heldout").pixels}
    for g, after in zip(generations, generations[1:]):
        pool = [generations[0].train.pixels] + [x.generated.pixels for x in generations[:g.iteration]]
        assert (np.concatenate(pool)[g.index] == after.train.pixels).all()
        assert len(after.train) == 32 and len(g.generated) == 32 and len(g.index) == len(set(g.index))
        assert {p.tobytes() for p in g.eval.pixels}.isdisjoint(p.tobytes() for p in np.concatenate(pool))  # E_n is in no pool
    assert (generations[0].train.source == 0).all()
    assert not any(p.tobytes() in heldout for p, s in zip(generations[-1].train.pixels, generations[-1].train.source) if s == 0)
    assert [g.metrics["real_in_pool"] for g in generations] == pytest.approx([1, 1 / 2, 1 / 3])  # the authors' 1/n
    m = generations[-1].metrics
    assert sum(m[f"share[{s}]"] for s in range(3)) == pytest.approx(1)
    assert [m[f"share[{s}]"] for s in range(3)] == [float((generations[-1].train.source == s).mean()) for s in range(3)]


def test_vanilla_accumulates_equal_shares_and_replaces_all(tmp_path):
    last = run(tmp_path / "a", iterations=3)[-1]
    assert np.bincount(last.train.source).tolist() == [11, 11, 10] and len(last.generated) == 32
    last = run(tmp_path / "b", iterations=3, paradigm="replace")[-1]
    assert (last.train.source == 2).all()


def test_strategies_with_one_seed_share_the_first_iteration(tmp_path):
    a, b, c = (run(tmp_path / s, strategy=s, iterations=1, paradigm="replace")[0] for s in ("vanilla", "greedy", "threshold_decay"))
    assert (a.generated.pixels == b.generated.pixels[:32]).all() and (b.generated.pixels == c.generated.pixels).all()
    assert [len(x.generated) for x in (a, b, c)] == [32, 64, 64]  # under replace a selector is offered 2N
    assert (a.eval.pixels == b.eval.pixels).all() and (b.eval.pixels == c.eval.pixels).all() and len(a.eval) == 64
    assert (a.eval.pixels[:32] != a.generated.pixels).any()  # another seed
    same = ("gs[pixel]", "entropy[pixel]", "frechet[classifier]", "kernel[pixel]", "novelty[pixel]", "loss")
    assert [a.metrics[k] for k in same] == [b.metrics[k] for k in same] == [c.metrics[k] for k in same]


def test_two_runs_agree_to_the_byte_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, strategy="threshold_decay", paradigm="replace", seed=seed)
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b") != numbers(tmp_path / "c")
    for file in ("iteration-002/generated.npz", "iteration-002/eval.npz", "iteration-002/selected.npz"):
        a, b = (np.load(tmp_path / n / file) for n in "ab")
        assert all((a[k] == b[k]).all() or k == "distance" for k in a)


def kill(process):
    "SIGKILL to the process that has told its id (it was started by another), which is gone afterwards."
    os.kill(int(process.stdout.readline()), signal.SIGKILL)
    process.communicate()


def test_killed_in_iteration_3_and_continued(tmp_path, warm):
    "SIGKILL in mid-training; the result is that of an uninterrupted run."
    change = dict(strategy="greedy", iterations=4, train_steps=20)
    code = ("import os, sys; print(os.getpid(), flush=True); from collapse_nb.config import load_preset; from collapse_nb.loop import run_loop\n"
            f"for g in run_loop(load_preset('smoke', **{SMOKE | change!r}), sys.argv[1], progress=False): pass")
    killed = tmp_path / "killed"
    process = subprocess.Popen([warm, "-c", code, str(killed)], stdout=subprocess.PIPE)
    try:
        deadline = time.time() + 120
        while not (killed / "iteration-003.partial").exists():
            assert process.poll() is None and time.time() < deadline, "the run ended before it could be killed"
            time.sleep(0.005)
        time.sleep(0.2)
    finally:
        kill(process)
    assert not (killed / "iteration-003").exists(), "killed too late to test anything"
    kept = {p: p.stat().st_mtime_ns for n in (1, 2) for p in (killed / f"iteration-00{n}").rglob("*") if p.is_file()}
    run(killed, **change)
    assert kept == {p: p.stat().st_mtime_ns for p in kept}
    run(tmp_path / "whole", **change)
    assert numbers(killed) == numbers(tmp_path / "whole")
    assert not list(killed.glob("*.partial"))


def test_killed_in_mid_training_and_continued_from_the_checkpoint(tmp_path, warm):
    "The iteration's work up to the checkpoint is not done again, and the result is the same."
    change = dict(iterations=1, train_steps=60, checkpoint_steps=10)
    code = ("import os, sys; print(os.getpid(), flush=True); from collapse_nb.config import load_preset; from collapse_nb.loop import run_loop\n"
            f"for g in run_loop(load_preset('smoke', **{SMOKE | change!r}), sys.argv[1], progress=False): pass")
    killed = tmp_path / "killed"
    process = subprocess.Popen([warm, "-c", code, str(killed)], stdout=subprocess.PIPE)
    file = killed / "iteration-001.partial" / "training.safetensors"
    try:
        deadline = time.time() + 120
        while not file.exists():
            assert process.poll() is None and time.time() < deadline, "the run ended before it could be killed"
            time.sleep(0.002)
    finally:
        kill(process)
    assert file.exists() and not (killed / "iteration-001").exists(), "killed too late to test anything"
    done, step = [], diffusion.train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "train_step", lambda *a: done.append(1) or step(*a))
        run(killed, **change)
    assert len(done) <= 50
    run(tmp_path / "whole", **change)
    assert numbers(killed) == numbers(tmp_path / "whole") and not list(killed.rglob("training.safetensors"))


@pytest.fixture
def sabotaged(monkeypatch):
    "An objective whose targets are spoiled in chosen trainings of six steps, counted from 1 over the whole run; returns calls, {training: factor}."
    calls, spoiled = [], {}
    def question(*about):
        x, t, target = objectives.edm_question(*about)
        calls.append(1)
        factor = spoiled.get((len(calls) - 1) // 6 + 1, 1)
        if isinstance(factor, BaseException) and len(calls) % 6 == 4: raise factor
        return x, t, target * (1 if isinstance(factor, BaseException) else factor)
    monkeypatch.setitem(diffusion.OBJECTIVES, "edm", objectives.Objective(objectives.edm_levels, question))
    return calls, spoiled


@pytest.mark.parametrize("factor, words", [
    (10., r"^the training of iteration 2 diverged: its loss is [\d.]+, [\d.]+ in the iteration before \(learning_rate = 0\.008: try a smaller one"),
    (float("nan"), r"^the loss of step 1 is nan \(learning_rate = 0\.008")])
def test_a_training_that_diverges_is_an_error(tmp_path, sabotaged, factor, words):
    "The iterations before it stay, nothing is trained again by itself, and the lock is free."
    calls, spoiled = sabotaged
    spoiled[2] = factor
    with pytest.raises(diffusion.Diverged, match=words): run(tmp_path / "r", iterations=3)
    assert len(calls) == (12 if factor == 10 else 7)
    assert [p.name for p in sorted((tmp_path / "r").glob("iteration-*"))] == ["iteration-001", "iteration-002.partial"]
    assert len(load_run(tmp_path / "r").generations) == len(pd.read_csv(tmp_path / "r" / "metrics.csv")) == 1
    with pytest.raises(diffusion.Diverged, match=words.replace("step 1", r"step \d")): run(tmp_path / "r")  # the same again
    assert isinstance(diffusion.Diverged(), ValueError)


def test_diverged_is_measured_against_the_iteration_before(tmp_path, sabotaged, monkeypatch):
    calls, spoiled = sabotaged
    spoiled |= {1: 10., 2: 10.}  # a high loss, but not twice that of the iteration before; the first has none before it
    first, second, third = (g.metrics["loss"] for g in run(tmp_path / "r", iterations=3))
    assert second < loop.DIVERGED * first and third < second / 10 and len(calls) == 18  # a loss that falls is none
    for limit in (1.001, 0.999):
        monkeypatch.setattr(loop, "DIVERGED", limit * second / first)
        about = dict(path=tmp_path / str(limit), iterations=2)
        calls.clear()
        if limit > 1: assert run(**about)[1].metrics["loss"] == second
        else:
            with pytest.raises(diffusion.Diverged): run(**about)


def test_interrupted_in_training(tmp_path, sabotaged):
    "What a checkpoint holds is not done again, the result is that of an uninterrupted run, and the lock is free, though the traceback lives."
    calls, spoiled = sabotaged
    about = dict(checkpoint_steps=2)
    spoiled[2] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as kept: run(tmp_path / "r", **about)
    assert len(calls) == 6 + 4
    spoiled.clear()
    run(tmp_path / "r", **about)
    assert len(calls) == 10 + 4 and kept.tb  # two of its six steps had been kept
    run(tmp_path / "whole", **about)
    assert numbers(tmp_path / "r") == numbers(tmp_path / "whole")


def test_interrupted_while_sampling(tmp_path, monkeypatch):
    "Neither the training nor a finished batch is done again; nothing of it stays."
    from collapse_nb import sampling
    drawn, steps, one, step = [], [], sampling.sample_batch, diffusion.train_step
    def draw(m, s, k, generators, *more):
        drawn.append(len(generators))
        if len(drawn) == 5: raise KeyboardInterrupt
        return one(m, s, k, generators, *more)
    monkeypatch.setattr(sampling, "sample_batch", draw)
    monkeypatch.setattr(diffusion, "train_step", lambda *a: steps.append(1) or step(*a))
    about = dict(strategy="greedy", iterations=1, sample_batch=16)  # 32 images, and 64 to measure with: six batches
    with pytest.raises(KeyboardInterrupt): run(tmp_path / "r", **about)
    assert len(list((tmp_path / "r").rglob("sampled/*/*.npy"))) == 4 and len(list((tmp_path / "r").rglob("sampled/*"))) == 2
    run(tmp_path / "r", **about)
    assert len(drawn) == 7 and len(steps) == 6 and not list((tmp_path / "r").rglob("sampled"))
    run(tmp_path / "whole", **about)
    assert numbers(tmp_path / "r") == numbers(tmp_path / "whole")
    run(tmp_path / "none", checkpoint_steps=0, iterations=1)
    assert not list((tmp_path / "none").rglob("sampled"))


@pytest.mark.parametrize("strategy, paradigm, generated", [("vanilla", "replace", 48), ("greedy", "accumulate", 48)])
def test_larger_training_sets_for_the_same_steps(tmp_path, strategy, paradigm, generated):
    "train_factor: all sets but the first; metrics of G_n still use its first N images."
    generations = run(tmp_path / "r", strategy=strategy, paradigm=paradigm, train_factor=3, n_train=16, iterations=2)
    assert [len(g.train) for g in generations] == [16, 48] and [len(g.generated) for g in generations] == [generated] * 2
    again = run(tmp_path / "s", strategy=strategy, paradigm=paradigm, n_train=16, iterations=1)
    shared = {k for k in again[0].metrics if not k.startswith("seconds") and k != "n_generated"}
    assert {k: generations[0].metrics[k] for k in shared} == {k: again[0].metrics[k] for k in shared}
    told = records(tmp_path / "r")
    assert told.arm.str.fullmatch(rf"{strategy}, train_factor=3, .*").all() and (told.train_factor == 3).all()


@pytest.mark.parametrize("paradigm", ["replace", "accumulate"])
def test_fresh_images_are_new_and_always_taken(tmp_path, paradigm):
    generations = run(tmp_path / "r", strategy="greedy", paradigm=paradigm, fresh=0.25, iterations=3)
    real = load_images("digits")
    known, seen = {p.tobytes() for p in real.pixels}, {p.tobytes() for p in generations[0].train.pixels}
    for before, g in zip(generations, generations[1:]):
        new = [p.tobytes() for p in g.train.pixels[-8:]]
        assert len(g.train) == 32 and set(new) <= known and not set(new) & seen and (g.train.source[-8:] == 0).all()
        assert (g.train.source[:24] == before.iteration).all() or paradigm == "accumulate"
        seen |= set(new)
    loaded = load_run(tmp_path / "r")
    assert all((a.train.pixels == b.train.pixels).all() for a, b in zip(generations, loaded.generations, strict=True))
    with pytest.raises(ValueError, match="fresh = 0.5: 200 iterations need 3232 real images, digits has 1000"):
        run_loop(load_preset("smoke", fresh=0.5, iterations=200), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("theirs, ours, offered", [
    (dict(paradigm="accumulate"), dict(strategy="vanilla", paradigm="replace"), 32),
    (dict(paradigm="replace"), dict(strategy="greedy", paradigm="accumulate"), 32),
    (dict(paradigm="accumulate"), dict(strategy="greedy", paradigm="replace"), 64)])
def test_a_fork_continues_under_other_rules_and_damages_nothing(tmp_path, theirs, ours, offered):
    "From its first own choice on its pool is made by its own paradigm, of as many images an iteration as that offers."
    source = run(tmp_path / "a", strategy="greedy", iterations=2, **theirs)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*") if p.is_file() and p.name != ".lock"}
    change = ours | dict(iterations=3, fork_from=f"{tmp_path / 'a'}:2")
    fork = run(tmp_path / "b", **change)
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}
    for a, b in zip(source, fork):
        assert (a.train.pixels == b.train.pixels).all() and (a.generated.pixels == b.generated.pixels).all() and a.metrics == b.metrics
        assert (a.eval.pixels == b.eval.pixels).all()
    assert source[1].index.tolist() != fork[1].index.tolist() and fork[0].paradigm == source[0].paradigm
    assert (fork[1].paradigm, fork[1].offered, len(fork[2].generated)) == (ours["paradigm"], offered, offered)
    if ours["paradigm"] == "replace":
        assert (fork[2].train.pixels == source[1].generated[fork[1].index].pixels).all() and (fork[2].train.source == 2).all()
        assert fork[2].metrics["real_in_pool"] == 0
    else:
        pool = np.concatenate([source[0].train.pixels, *(g.generated.pixels[:32] for g in source)])  # they had made 64 each
        assert (fork[2].train.pixels == pool[fork[1].index]).all() and fork[2].metrics["real_in_pool"] == pytest.approx(1 / 3)
    shutil.rmtree(tmp_path / "a")
    again = run(tmp_path / "b2", **change | dict(fork_from=f"{tmp_path / 'b'}:2"))  # a fork of the fork, its origin gone
    assert numbers(tmp_path / "b2") == numbers(tmp_path / "b") and (again[2].train.pixels == fork[2].train.pixels).all()


def test_a_fork_of_another_dose_is_not_called_diverged(tmp_path):
    "Its first own training has a loss of its own kind; from then on it is compared."
    run(tmp_path / "long", iterations=1, train_steps=300)
    short = run(tmp_path / "short", train_steps=20, fork_from=f"{tmp_path / 'long'}:1")
    assert short[1].metrics["loss"] > loop.DIVERGED * short[0].metrics["loss"]


def test_a_fork_from_nowhere_is_refused(tmp_path):
    run(tmp_path / "a", iterations=1)
    for fork, more, words in (("a", {}, "RUN:ITERATION"), (f"{tmp_path / 'x'}:1", {}, "names no run"),
                              (f"{tmp_path / 'a'}:2", {}, "2 is missing.*1 to 1"),
                              (f"{tmp_path / 'a'}:1", dict(seed=4), "seed = 0 there, 4 here"), (f"{tmp_path / 'a'}:0", {}, "from 1"),
                              (f"{tmp_path / 'a'}:1", dict(eval_samples=9), "eval_samples = 64 there, 9 here"),
                              (f"{tmp_path / 'a'}:1", dict(train_factor=2), "train_factor = 1 there, 2 here")):
        with pytest.raises(ValueError, match=words):
            run_loop(load_preset("smoke", **SMOKE, fork_from=fork, **more), tmp_path / "b")
        assert not (tmp_path / "b").exists()


def test_a_run_can_be_taken_further_but_not_changed(tmp_path):
    path = tmp_path / "r"
    run(path, iterations=1)
    assert len(run(path, iterations=2)) == 2
    assert len(run(path, iterations=1)) == 1 and json.loads((path / "config.json").read_text())["iterations"] == 2
    before = (path / "metrics.csv").read_text()
    with pytest.raises(ValueError, match=r"another run: strategy = 'vanilla' there, 'greedy' here; .*seed = 0 there, 1 here; .*eval_samples = 64"):
        run(path, strategy="greedy", seed=1, eval_samples=63)
    assert (path / "metrics.csv").read_text() == before
    run(tmp_path / "whole", iterations=2)
    assert numbers(path) == numbers(tmp_path / "whole")


def test_bad_directories_are_refused_before_anything_is_trained(tmp_path):
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("x"); other.mkdir(); (other / "thesis.tex").write_text("x")
    config = load_preset("smoke")
    with pytest.raises(ValueError, match="is a file"):
        run_loop(config, file)
    with pytest.raises(ValueError, match="not writable"):
        run_loop(config, file / "below")
    with pytest.raises(ValueError, match="holds other files"):
        run_loop(config, other)
    assert [p.name for p in other.iterdir()] == ["thesis.tex"]


def test_bad_values_are_refused_before_a_directory_is_made(tmp_path):
    for change, words in ((dict(n_train=1001), "n_train = 1001.*1000"), (dict(device="cuda:9"), "device = 'cuda:9'"), (dict(device="gpu"), "'gpu'"),
                          (dict(network="UNet48"), "UNet48")):
        with pytest.raises(ValueError, match=words):
            run_loop(load_preset("smoke", **change), tmp_path / "r")
        assert not (tmp_path / "r").exists()


def test_one_process_at_a_time(tmp_path):
    config = load_preset("smoke", **SMOKE)
    first = run_loop(config, tmp_path / "r", progress=False)
    next(first)
    with pytest.raises(ValueError, match="another process"):
        run_loop(config, tmp_path / "r", progress=False)
    first.close()
    assert len(list(run_loop(config, tmp_path / "r", progress=False))) == 2


def test_selection_in_another_space_is_another_selection(tmp_path):
    a, b = (run(tmp_path / s, strategy="greedy", paradigm="replace", space=s, iterations=1)[0] for s in ("pixel", "classifier"))
    assert (a.generated.pixels == b.generated.pixels).all() and set(a.index) != set(b.index)


def test_records_are_the_numbers_of_metrics_csv(tmp_path):
    run(tmp_path / "r", strategy="entropy", space="classifier")
    wide, tidy = pd.read_csv(tmp_path / "r" / "metrics.csv"), records(tmp_path / "r", "s")
    for metric, inside, part in (("gs", "space", "pixel"), ("entropy", "space", "classifier"), ("loss", "space", "none"), ("share", "source", 1),
                                 ("class_share", "label", 3), ("seconds", "stage", "eval"), ("frechet_real", "space", "pixel")):
        column = metric if part == "none" else f"{metric}[{part}]"
        rows = tidy[(tidy.metric == metric) & (tidy[inside] == part)].sort_values("iteration")
        assert rows.value.tolist() == wide[column].tolist()
    changed = ["train_steps", "warmup_steps", "sample_steps"]
    assert list(tidy) == ["study", "arm", *RUN_FIELDS, *FIELDS, *(c for c in changed if c not in FIELDS),
                          "iteration", "set", "metric", "space", "source", "label", "stage", "value", "config", "commit"]
    about = dict(arm="greedy, selected_in=classifier, train_steps=6, warmup_steps=2, sample_steps=3", strategy="greedy", study="s", dataset="digits",
                 selected_in="classifier", pool_factor="1", alpha=0.8, tau="none", guidance="none", fresh=0, train_factor=1, train_steps=6)
    assert {k: tidy[k].unique().tolist() for k in about} == {k: [v] for k, v in about.items()}
    assert tidy[["source", "label", "stage"]].dtypes.map(str).tolist() == ["Int64", "Int64", "string"]
    for metric, inside in dict(share="source", class_share="label", seconds="stage").items():
        assert tidy[inside].notna().equals(tidy.metric == metric) and (tidy[tidy.metric == metric].space == "none").all()
    sets = tidy.drop_duplicates("metric").set_index("metric")["set"].to_dict()
    assert {k: v for k, v in sets.items() if k in METRICS} == {k: METRICS[k].of for k in sets if k in METRICS}
    assert {k for k, v in sets.items() if v == "none"} == {"n_train", "n_generated", "loss", "seconds"}


@pytest.mark.parametrize("preset, change, arm", [
    ("smoke", {}, "vanilla"),
    ("smoke", dict(n_train=9, seed=3, iterations=5, paradigm="replace", dataset="mnist", side=8, strategy="greedy"), "greedy"),
    ("smoke", dict(space="classifier", strategy="entropy"), "greedy, selected_in=classifier"),
    ("smoke", dict(alpha=0.8, strategy="threshold_decay", fork_from="runs/x:1", checkpoint_steps=7), "threshold_decay, alpha=0.8"),
    ("smoke", dict(train_factor=2, guidance=2), "vanilla, train_factor=2, guidance=2"), ("smoke", dict(spaces="pixel"), "vanilla, spaces=pixel"),
    ("paper-mnist", dict(spaces=("pixel", "dinov2")), "vanilla, spaces=pixel+dinov2"),
    ("paper-mnist-cfg", dict(guidance="none"), "vanilla, guidance=none"), ("paper-mnist-cfg", {}, "vanilla")])
def test_an_arm_is_the_strategy_and_what_a_preset_does_not_say(preset, change, arm):
    assert arm_of(load_preset(preset, **change)) == arm


def test_a_run_of_an_older_kind_is_refused_by_name(tmp_path):
    "Its config.json has no eval_samples: its samples and pools were others. Nothing of it is touched."
    old, config = tmp_path / "old", load_preset("smoke", **SMOKE)
    (old / "iteration-001").mkdir(parents=True)
    (old / "config.json").write_text(json.dumps({k: v for k, v in vars(config).items() if k != "eval_samples"} | dict(surplus=32, retries=2)))
    before = {p: p.stat().st_mtime_ns for p in old.rglob("*")}
    for act in (lambda: run_loop(config, old), lambda: load_run(old), lambda: records(old),
                lambda: run_loop(replace(config, fork_from=f"{old}:1"), tmp_path / "new")):
        with pytest.raises(ValueError, match=rf"{old} holds a run of an older kind: .*no eval_samples .*move the directory away and run the loop"):
            act()
    assert before == {p: p.stat().st_mtime_ns for p in old.rglob("*")} and not (tmp_path / "new").exists()


def test_load_run_gives_what_run_loop_gave(tmp_path):
    generations = run(tmp_path / "r", strategy="threshold_decay")
    loaded = load_run(tmp_path / "r")
    assert loaded.config == load_preset("smoke", **SMOKE, strategy="threshold_decay")
    for a, b in zip(generations, loaded.generations, strict=True):
        assert (a.train.pixels == b.train.pixels).all() and (a.index == b.index).all() and a.metrics == b.metrics
    with pytest.raises(FileNotFoundError, match="holds no run"):
        load_run(tmp_path)


def test_a_run_continued_by_other_versions_says_so(tmp_path):
    run(tmp_path / "r", iterations=1)
    file = tmp_path / "r" / "environment.json"
    old = json.loads(file.read_text())
    old[0]["torch"] = "0.0"; file.write_text(json.dumps(old))
    run(tmp_path / "r", iterations=2)
    assert [e["from_iteration"] for e in json.loads(file.read_text())] == [1, 2]


def test_open_run_leaves_no_half_written_config(tmp_path):
    (tmp_path / "r").mkdir(); (tmp_path / "r" / "config.json.part").write_text("{")  # killed while writing
    open_run(load_preset("smoke"), tmp_path / "r").release()
    assert {p.name for p in (tmp_path / "r").iterdir()} <= {"config.json", ".lock"}


def test_a_table_that_missed_an_iteration_is_made_whole(tmp_path):
    "A kill between the renaming of an iteration and the writing of metrics.csv."
    run(tmp_path / "r")
    whole = (tmp_path / "r" / "metrics.csv").read_text()
    (tmp_path / "r" / "metrics.csv").unlink()
    run(tmp_path / "r")
    assert (tmp_path / "r" / "metrics.csv").read_text() == whole
