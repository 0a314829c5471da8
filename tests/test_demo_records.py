"""What the committed demo must show (the effect, not noise), read from its records."""

import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats

from collapse_nb.config import load_study
from collapse_nb.plots import pick


@pytest.fixture(scope="module")
def table():
    return pd.read_csv(ROOT / "figures" / "records" / "demo.csv", dtype={"space": str})


def last(table, metric, space, strategy):
    return pick(table, metric, space, strategy=strategy).value.iloc[-1]


def test_records_belong_to_the_preset(table):
    assert set(table.config) == {c.digest for c in load_study("demo")}
    assert table.iteration.max() == load_study("demo")[0].iterations >= 5


def test_vanilla_slides_and_selection_slows_it(table):
    gs = pick(table, "gs", "pixel", strategy="vanilla").value
    assert gs.iloc[-1] < 0.8 * gs.iloc[0]
    for metric in ("gs", "entropy"):
        assert last(table, metric, "pixel", "entropy") > last(table, metric, "pixel", "vanilla")


def test_the_readme_quotes_the_records():
    "Every number of its results table, computed again."
    t = pd.read_csv(ROOT / "figures" / "records" / "demo-seeds.csv", dtype={"space": str})
    assert set(t.config) == {c.digest for c in load_study("demo-seeds")}
    readme = " ".join((ROOT / "README.md").read_text().split())

    def ends(metric, space, strategy):
        rows = pick(t, metric, space, strategy=strategy)
        return [rows[rows.iteration == n].value.mean() for n in (1, 5)]

    def difference(metric, space, digits=0):
        a, b = (pick(t, metric, space, strategy=s).query("iteration == 5").sort_values("seed").value.to_numpy() for s in ("entropy", "vanilla"))
        half = stats.t.ppf(0.975, len(a) - 1) * (a - b).std(ddof=1) / len(a) ** 0.5
        return f"entropy {a.mean():.{digits}f}, vanilla {b.mean():.{digits}f}", f"(+{(a - b).mean():.{digits}f} ± {half:.{digits}f})"

    for strategy, metric, unit in (("vanilla", "gs", ""), ("vanilla", "entropy", " nats")):
        first, final = ends(metric, "pixel", strategy)
        assert f"| vanilla: {first:.0f} to {final:.0f}{unit} |" in readme
    for metric, space in (("gs", "pixel"), ("entropy", "pixel"), ("frechet", "classifier")):
        for part in difference(metric, space): assert part in readme, part
    spacing, variance = (ends(m, "pixel", "vanilla") for m in ("mnnd", "variance"))
    assert f"MNND {spacing[1] / spacing[0] - 1:.0%}, variance {variance[1] / variance[0] - 1:.0%}" in readme
    for part in difference("share", "0", 2): assert part in readme, part
    for strategy in ("vanilla", "entropy"):
        gs, spacing = (pick(t, m, "pixel", strategy=strategy).set_index(["seed", "iteration"]).value for m in ("gs", "mnnd"))
        ratio = (gs / spacing).groupby("iteration").mean()
        assert f"{ratio[1]:.2f} to {ratio[5]:.2f}" in readme
    assert max(max(ends("memorized", "pixel", s)) for s in ("vanilla", "entropy")) < 0.01
    assert f"at most {pick(t, 'memorized', 'pixel').value.max():.0%} in any iteration of any run" in readme
    confidence = [ends("confidence", "none", s)[1] for s in ("vanilla", "entropy")]
    assert f"with {confidence[0]:.0%} mean confidence and entropy selection's with {confidence[1]:.0%}" in readme


def test_it_does_not_come_from_under_training(table):
    first = pick(table, "confidence", "none")
    assert (first[first.iteration == 1].value >= 0.8).all()
