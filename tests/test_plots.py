import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from collapse_nb.plots import in_words, pick, pictures_of, setting


@pytest.fixture
def table():
    return pd.read_csv(ROOT / "figures" / "records" / "demo.csv", dtype={"space": str})


@pytest.mark.parametrize("column", ["paradigm", "n_train", "config"])
def test_settings_are_not_mixed(table, column):
    other = table.copy()
    other[column] = 64 if column == "n_train" else "another"
    with pytest.raises(ValueError, match=f"the records mix {column}"):
        setting(pd.concat([table, other]))


def test_words_are_the_numbers(table):
    words = in_words(table)
    for strategy in ("vanilla", "entropy"):
        gs = pick(table, "gs", "pixel", strategy=strategy).value
        assert f"generalization score went from {gs.iloc[0]:.0f} to {gs.iloc[-1]:.0f}" in words
    swapped = table.assign(strategy=table.strategy.map({"vanilla": "entropy", "entropy": "vanilla"}))
    assert ("a higher generalization score" in words) != ("a higher generalization score" in in_words(swapped))


def test_without_classifier_space(table):
    assert "Frechet distances in pixel space" in in_words(table[table.space != "classifier"])


def test_missing_numbers_are_named(table):
    with pytest.raises(KeyError, match=r"fid\[pixel\]"):
        pick(table, "fid", "pixel")


def test_pictures_belong_to_the_runs(table):
    with np.load(ROOT / "figures" / "records" / "demo-pictures.npz") as z: kept = pictures_of(dict(z), table)
    assert set(kept) == {"vanilla", "entropy"}
    assert (kept["vanilla"]["generated-1"] == kept["entropy"]["generated-1"]).all()  # one seed, one first iteration
    assert not (kept["vanilla"]["generated-5"] == kept["entropy"]["generated-5"]).all()
