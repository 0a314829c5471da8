"""Where output goes, and who reads it: each fault that was met, with the right value."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from collapse_nb import cli_options as O
from collapse_nb import cli_run
from collapse_nb.cli import main
from collapse_nb.data import load_images


@pytest.fixture
def sets(tmp_path, monkeypatch):
    "Three files of digits in the working directory."
    monkeypatch.chdir(tmp_path)
    digits = load_images("digits", n=300)
    for name, x in dict(made=digits[:60], train=digits[60:200], unseen=digits[200:]).items(): x.save(f"{name}.npz")
    return "made.npz", "train.npz", "unseen.npz"


def test_a_file_is_no_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("k.npy", "k.zip", "K.ZIP", "k.tar", "k.png"):
        with pytest.raises(ValueError, match=f"out = '{name}': a .* file is not written here .allowed: a name ending in .npz, or a directory"):
            O.check_out(O.place(name), False)
    for name in ("K.NPZ", "kept", "kept.v2"): O.check_out(O.place(name), False)
    (tmp_path / "K.NPZ").write_bytes(b"")
    with pytest.raises(ValueError, match="K.NPZ' exists"): O.check_out(O.place("K.NPZ"), False)


def test_home_and_nothing_as_an_option(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert O.place("~/k.npz") == tmp_path / "k.npz" and O.place("/a/b.json").is_absolute()
    for wrong, words in (("", "is empty"), ("~nobody-of-this-name/x", "nobody knows this home")):
        with pytest.raises(O.argparse.ArgumentTypeError, match=words): O.place(wrong)


def test_files_go_home_and_paths_may_not_be_empty(sets, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["report", *sets, "--n", "50", "--json=~/h.json", "--html=H.HTML"]) == 0
    assert json.loads((tmp_path / "home" / "h.json").read_text())["sizes"]["train"] == 140 and (tmp_path / "H.HTML").is_file()
    assert not (tmp_path / "~").exists()
    said = capsys.readouterr().out
    assert said.startswith("Health:") and said.splitlines()[-2:] == [f"written: {tmp_path / 'home' / 'h.json'}", "written: H.HTML"]
    assert main(["report", "", *sets[1:]]) == 2 and "generated = '' is empty" in capsys.readouterr().err
    with pytest.raises(SystemExit): main(["report", *sets, "--json", ""])
    assert "--json: path = '' is empty" in capsys.readouterr().err


def test_the_report_tells_what_was_left_out(tmp_path, monkeypatch, capsys):
    from PIL import Image
    monkeypatch.chdir(tmp_path)
    digits = load_images("digits", n=200)
    for name, x in dict(gen=digits[:50], train=digits[:100], test=digits[100:]).items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i, p in enumerate(x.pixels[:, 0]): Image.fromarray(p).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "photos" / "list.txt").write_text("x")
    ask = ["report", "photos/gen", "photos", "photos/test", "--json", "h.json", "--draws", "2"]
    assert main(ask) == 2 and "'list.txt' is no picture" in capsys.readouterr().err
    assert main([*ask, "--skip-other"]) == 0
    said = capsys.readouterr().out
    assert "memorizing? yes" in said and "left out: 1 files of train that are no pictures to be read" in said
    assert "left out: 150 pictures of train in the folder of generated or reference" in said
    assert len(json.loads((tmp_path / "h.json").read_text())["notes"]) == 3


def test_a_picture_behind_which_is_white(tmp_path, capsys):
    from PIL import Image
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(12): Image.fromarray(rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    ask = ["report", str(tmp_path / "a"), str(tmp_path / "b"), "--draws", "1"]
    assert main(ask) == 2 and "--background white" in capsys.readouterr().err
    assert main([*ask, "--background", "white"]) == 0
    assert main([*ask, "--background", "wite"]) == 2 and "background = 'wite'" in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["before", "after a line"])
def test_nobody_reads(sets, tmp_path, closed):
    "As with `| head -1`: the result is there, and no word of it on stderr."
    command = [sys.executable, "-m", "collapse_nb.cli", "report", *sets, "--n", "50", "--draws", "2", "--json", "h.json"]
    reader = [sys.executable, "-c", "" if closed == "before" else "import sys; sys.stdin.readline()"]
    env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    with subprocess.Popen(reader, stdin=subprocess.PIPE) as other:
        done = subprocess.run(command, stdout=other.stdin, stderr=subprocess.PIPE, env=env, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == b""
    assert "verdicts" in json.loads((tmp_path / "h.json").read_text())


def test_help_is_not_read_to_its_end():
    read, write = os.pipe()
    os.close(read)
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-m", "collapse_nb.cli", "report", "--help"], stdout=write, stderr=subprocess.PIPE, env=env)
    os.close(write)
    assert done.stderr == b""


def test_a_loop_goes_on_when_nobody_reads(monkeypatch):
    said, hushed = [], []
    def broken(text): said.append(text); raise BrokenPipeError
    monkeypatch.setattr(O, "hush", lambda: hushed.append(1))
    O.say("one", broken)
    assert said == ["one"] and hushed == [1]


def test_a_name_that_the_encoding_lacks(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    O.speak_anyhow()
    O.say("written: b\u00e4r-\u732b-\udcff.json")
    assert raw.getvalue() == b"written: b\\xe4r-\\u732b-\\udcff.json\n"


def test_relative_paths_start_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_run, "project_root", lambda: ROOT)
    given = cli_run.from_here(dict(out_dir="runs/a", figures_dir="none", data_root="/data", seed="1", fork_from="runs/b:2"))
    assert given == dict(out_dir=str(tmp_path / "runs/a"), figures_dir="none", data_root="/data", seed="1", fork_from=str(tmp_path / "runs/b:2"))
    monkeypatch.setattr(cli_run, "project_root", lambda: tmp_path)
    assert cli_run.from_here(dict(fork_from="runs/b:2")) == dict(fork_from="runs/b:2")  # a run is known by what it was told
    with pytest.raises(ValueError, match="out_dir = '' is empty"): cli_run.from_here(dict(out_dir=""))
