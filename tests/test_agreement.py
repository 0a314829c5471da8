"""run_agreement: how far selections in different spaces agree. Its functions live in the notebook."""

import ast
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, text_of

from collapse_nb.data import Images, load_images
from collapse_nb.metrics import frechet_distance, prdc
from collapse_nb.networks import random_weights
from collapse_nb.selection import select

DIGITS, HELDOUT = load_images("digits"), load_images("digits", split="heldout")
RGB = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)


def functions_of(name: str) -> SimpleNamespace:
    "Imports and functions of a notebook, without running it."
    names = {}
    for cell in nbformat.read(ROOT / "nbs" / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code":
            kept = [n for n in ast.parse(cell.source).body if isinstance(n, ast.Import | ast.ImportFrom | ast.FunctionDef)]
            exec(compile(ast.Module(kept, []), name, "exec"), names)
    return SimpleNamespace(**names)


A = functions_of("run_agreement")


def test_random_features_come_from_their_seed():
    x = DIGITS[:40]
    z = A.random_features(x)
    before = torch.random.get_rng_state()
    assert z.shape == (40, 128) and z.dtype == np.float32 and (A.random_features(x) == z).all() and (torch.random.get_rng_state() == before).all()
    np.testing.assert_allclose(A.random_features(x[7:9]), z[7:9], rtol=1e-5)
    assert not np.allclose(A.random_features(x, seed=1), z) and A.random_features(Images(RGB[:3]), width=5).shape == (3, 20)
    for images, options, words in ((Images(RGB[:3, :, :3]), {}, "3x8"), (x, dict(width=0), "width = 0")):
        with pytest.raises(ValueError, match=words): A.random_features(images, **options)


def test_overlap_by_hand():
    assert A.overlap([0, 1, 2, 3], [2, 3, 4, 5], 8) == dict(jaccard=2 / 6, over_chance=1)
    assert A.overlap([0, 1], [1, 0], 4) == dict(jaccard=1, over_chance=2)
    for a in ([], [0, 0], [8], [-1], [0.5]):
        with pytest.raises(ValueError, match="a: .*allowed: different indices, 0 to 7"): A.overlap(a, [1], 8)


def test_scores_and_ranks():
    z, r = (x.flat().astype(np.float32) for x in (DIGITS[:100], HELDOUT[:100]))
    chosen = {"greedy": select("greedy", z, 40, seed=0)[0], "first": np.arange(40)}
    table = A.scores(chosen, dict(pixel=z), dict(pixel=r))
    assert table.loc["first", ("pixel", "frechet")] == frechet_distance(z[:40], r)
    assert table.loc["first", ("pixel", "recall")] == prdc(r, z[:40])["recall"]
    ranks = A.ranks(table)
    assert ranks.loc["greedy", ("pixel", "entropy")] == 1 and (ranks.sum() == 3).all()
    assert (ranks.loc["first", ("pixel", "frechet")] == 1) == (table.loc["first", ("pixel", "frechet")] < table.loc["greedy", ("pixel", "frechet")])


def test_dinov2_takes_part_only_with_weights(tmp_path, monkeypatch):
    monkeypatch.delenv("COLLAPSE_NB_DINOV2", raising=False)
    monkeypatch.setattr("collapse_nb.networks.candidates", lambda kind: [])
    assert list(A.available_spaces()) == ["pixel", "classifier", "random"]
    pytest.importorskip("timm")
    monkeypatch.setenv("COLLAPSE_NB_DINOV2", str(random_weights("dinov2", tmp_path / "w.safetensors")))
    assert list(A.available_spaces())[-1] == "dinov2"


@pytest.mark.slow
def test_greedy_sets_win_in_their_own_space_and_records_are_tidy(execute, tmp_path):
    about = dict(pool=96, n=48, pools=2, records=str(tmp_path / "agreement.csv"))
    said = text_of(execute("run_agreement", **about))
    table = pd.read_csv(tmp_path / "agreement.csv")
    sets = {"pixel", "classifier", "random", "chance"}
    assert sets <= set(table.chosen_in) and set(table.metric) == {"entropy", "frechet", "recall", "over_chance"}
    entropy = table[table.metric == "entropy"].pivot_table("value", ["seed", "space"], "chosen_in")
    assert all(entropy.loc[(seed, space)].idxmax() == space for seed, space in entropy.index) and len(entropy) >= 6
    overlaps = table[table.metric == "over_chance"]
    assert (overlaps[overlaps.space != "chance"].groupby("chosen_in").value.mean() > 1.05).all() and "times chance" in said
    execute("run_agreement", **about)
    assert len(pd.read_csv(tmp_path / "agreement.csv")) == len(table)
