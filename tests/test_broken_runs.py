"""A run's directory after a full disk, a killed copy or a hand that slipped: the file is named, and what to do."""

import pytest

from collapse_nb.config import load_preset
from collapse_nb.loop import run_loop
from collapse_nb.runs import load_run

FAST = dict(n_train=12, iterations=1, train_steps=4, warmup_steps=1, sample_steps=2, spaces="pixel")


@pytest.fixture
def run(tmp_path):
    config = load_preset("smoke", **FAST)
    list(run_loop(config, tmp_path / "run", progress=False))
    return config, tmp_path / "run"


@pytest.mark.parametrize("damage", ["", "{", "3", "[1]" ])
def test_a_broken_config(run, damage):
    config, path = run
    (path / "config.json").write_text(damage)
    for again in (lambda: run_loop(config, path), lambda: load_run(path)):
        with pytest.raises(ValueError, match="config.json (is (empty|broken)|holds a (int|list)).*move the directory away"): again()


@pytest.mark.parametrize("name", ["metrics.json", "selected.npz", "generated.npz", "eval.npz"])
@pytest.mark.parametrize("keep", [0, 40])
def test_a_cut_file_of_an_iteration(run, name, keep):
    _, path = run
    file = path / "iteration-001" / name
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"iteration-001.*move .* and later iterations away, and the same command makes them anew"): load_run(path)


def test_a_config_of_a_newer_version(run):
    _, path = run
    text = (path / "config.json").read_text()
    (path / "config.json").write_text(text.replace("{", '{"flavour": 1,', 1))
    with pytest.raises(ValueError, match="config.json says flavour, which this version does not know"): load_run(path)
