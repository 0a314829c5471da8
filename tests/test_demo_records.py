"""What the committed demo must show (the effect, not noise), read from its records."""

import pytest
from conftest import ROOT

from collapse_nb.config import load_study
from collapse_nb.plots import pick
from collapse_nb.sweep import read_table


@pytest.fixture(scope="module")
def table():
    return read_table(ROOT / "figures" / "records" / "demo.csv")


def last(table, metric, space, strategy):
    return pick(table, metric, space, strategy=strategy).value.iloc[-1]


def test_records_belong_to_the_preset(table):
    assert set(table.config) == {c.digest for c in load_study("demo")}
    assert table.iteration.max() == load_study("demo")[0].iterations >= 5


def test_vanilla_slides_and_selection_slows_it(table):
    gs = pick(table, "gs", "pixel", strategy="vanilla").value
    assert gs.iloc[-1] < 0.8 * gs.iloc[0]
    for metric in ("gs", "entropy"):
        assert last(table, metric, "pixel", "greedy") > last(table, metric, "pixel", "vanilla")
