"""What the ledger says of records: negative controls first, then its arithmetic."""

import dataclasses
import math
import re
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats

from collapse_nb import cli
from collapse_nb.claims import CLAIMS, Question, RealShare, novelty_at_one, question_text, regimes
from collapse_nb.config import load_preset
from collapse_nb.evidence import holm, paired, read_records, recorded_studies, verdict_of
from collapse_nb.expected import check_run, expected_numbers, prediction_interval
from collapse_nb.ledger import count_verdicts, ledger_lines, make_ledger, published_numbers, size_text
from collapse_nb.loop import run_loop
from collapse_nb.names import NAMES
from collapse_nb.predictors import correlation
from collapse_nb.records import records
from collapse_nb.selection import STRATEGIES
from collapse_nb.sweep import collect
from collapse_nb.sizes import forecast, records_by_size

SELECTION = tuple(c for c in CLAIMS if c.number in (8, 9, 10))  # an arm against vanilla


@pytest.fixture(scope="module")
def digits():
    return read_records("digits", folder=ROOT / "figures" / "records")


@pytest.fixture(scope="module")
def ledger(digits):
    return make_ledger(digits)


def verdicts(ledger):
    "Verdict and difference of each comparison."
    return ledger[ledger.reading == "last"].set_index(["regime", "arm", "metric", "space"])[["difference", "verdict"]]


# negative controls


def test_swapped_arms_turn_every_verdict_of_selection_around(digits):
    swapped = digits.replace(dict(arm=dict(vanilla="greedy", greedy="vanilla"), strategy=dict(vanilla="greedy", greedy="vanilla")))
    ours = make_ledger(digits, SELECTION)
    theirs = make_ledger(swapped, SELECTION)
    assert not theirs.equals(ours)
    for (_, a), (_, b) in zip(ours[ours.arm == "greedy"].iterrows(), theirs[theirs.arm == "greedy"].iterrows()):
        assert (a.metric, a.space, a.reading) == (b.metric, b.space, b.reading)
        assert b.difference == pytest.approx(-a.difference) and b.p == pytest.approx(a.p)
        around = {"same direction": "opposite", "opposite": "same direction"}
        assert b.verdict == around.get(a.verdict, a.verdict)
    assert (ours.verdict == "same direction").sum() > 5


def test_vanilla_against_vanilla_is_found_different_no_more_often_than_by_chance():
    """Forty seeds of one loop (tests/records/null.csv, study `null`): three pairs of different seeds, as if one of each pair were another arm.
    95% intervals over three pairs may miss zero in 5% of the draws."""
    table = read_records("null", folder=ROOT / "tests" / "records")
    seeds, rng = np.array(sorted(table.seed.unique())), np.random.default_rng(0)
    assert len(seeds) == 40 and set(table.arm) == {"vanilla"}
    last = table[table.iteration == table.iteration.max()].pivot_table("value", "seed", ["metric", "space"])
    names = [("entropy", "pixel"), ("gs", "pixel"), ("novelty", "pixel"), ("memorized", "pixel"), ("frechet", "classifier"), ("frechet", "pixel"),
             ("recall", "classifier"), ("precision", "classifier")]
    draws = np.array([rng.permutation(seeds)[:6] for _ in range(4000)])
    half = stats.t.ppf(.975, 2) / math.sqrt(3)
    for name in names:
        values = last[name].reindex(seeds).to_numpy()[draws]
        differences = values[:, :3] - values[:, 3:]
        found = np.abs(differences.mean(1)) > half * differences.std(1, ddof=1)
        assert found.mean() < 0.065, name
    pairs = draws[0]  # the same arithmetic as a finding's
    some = table[(table.metric == "gs") & (table.space == "pixel")]
    as_arms = pd.concat([some[some.seed == s].assign(seed=k % 3, arm="vanilla" if k > 2 else "other") for k, s in enumerate(pairs)])
    found = paired(as_arms, "gs", "pixel", "other")
    values = last["gs", "pixel"].reindex(pairs).to_numpy()
    expected = stats.ttest_rel(values[:3], values[3:])
    assert found["p"] == pytest.approx(expected.pvalue) and (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval()))


def clones(points, n, *, seed=None, return_info=False):
    "On purpose the worst choice: the images that crowd together most."
    from collapse_nb.data import Images
    from collapse_nb.neighbors import nearest
    from collapse_nb.selection import SelectionInfo
    x = points.flat() if isinstance(points, Images) else points
    index = np.argsort(nearest(x, x, exclude_self=True)[0][:, 0], kind="stable")[:n]
    return (index, SelectionInfo(np.full(n, np.nan))) if return_info else index


@pytest.mark.slow
def test_a_selector_of_duplicates_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setitem(NAMES, "strategy", [*NAMES["strategy"], "clones"])
    monkeypatch.setitem(STRATEGIES, "clones", clones)
    paths = []
    for seed in range(3):
        for strategy in ("vanilla", "clones"):
            config = load_preset("smoke", seed=seed, strategy=strategy, train_steps=5, warmup_steps=1, sample_steps=3)
            for _ in run_loop(config, tmp_path / config.name, progress=False): pass
            paths.append(tmp_path / config.name)
    table = collect(paths, "clones", tmp_path / "records")
    table = table.assign(arm=table.strategy)  # whose presets differ in the same way
    found = Question("entropy", "pixel", 1, "clones", "vanilla").find(table)
    assert verdict_of(found, 1) == "opposite" and found["p"] < 0.05
    real = RealShare("share", "none", 1, "clones").find(table)
    assert 0 <= real["value"] <= 1 and real["base"] == pytest.approx(0.5)


# the ledger's arithmetic


def test_the_ledger_agrees_with_scipy(digits, ledger):
    some = digits[(digits.paradigm == "accumulate") & (digits.metric == "frechet") & (digits.space == "pixel") & (digits.iteration == 8)]
    values = np.log(some.pivot_table("value", "seed", "arm"))
    expected = stats.ttest_rel(values.greedy, values.vanilla)
    row = ledger[(ledger.claim == 10) & (ledger.paradigm == "accumulate") & (ledger.arm == "greedy") & (ledger.space == "pixel")
                 & (ledger.reading == "last")].squeeze()
    assert row.p == pytest.approx(expected.pvalue) and (row.low, row.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert row.scale == "log ratio" and row.seeds == len(values) and size_text(row).startswith(f"{math.exp(row.difference):.2f} times")
    three = digits[(digits.paradigm == "accumulate") & (digits.metric == "frechet") & (digits.space == "pixel") & digits.iteration.between(6, 8)]
    means = np.log(three.pivot_table("value", "seed", "arm"))
    row = ledger[(ledger.claim == 10) & (ledger.paradigm == "accumulate") & (ledger.arm == "greedy") & (ledger.space == "pixel")
                 & (ledger.reading == "last three")].squeeze()
    assert row.difference == pytest.approx((means.greedy - means.vanilla).mean())


def test_every_claim_is_there_and_what_was_not_run_says_so(ledger):
    assert set(ledger.claim) == {c.number for c in CLAIMS} == set(range(1, 20))
    untested = ledger[ledger.verdict == "not tested"]
    assert set(untested.claim) >= {12, 13, 14, 17, 18, 19} and untested.low.isna().all() and untested.regime.str.startswith("preset paper-").all()
    close = (ledger.reading == "last") & (ledger.novelty <= 0.75)
    assert (ledger[close].holm.notna() == ledger[close].p.notna()).all() and ledger[~close & ledger.novelty.notna()].holm.isna().all()
    assert (ledger.holm.dropna() >= ledger.p[ledger.holm.notna()]).all()
    lines = ledger_lines(ledger)
    assert len(lines) == 2 + sum(q.headline for c in CLAIMS for q in c.questions) and all(line.count(" | ") == 4 for line in lines[2:])
    assert f"{len(ledger[ledger.reading == 'last'])} comparisons" in count_verdicts(ledger)
    assert len({question_text(q) for c in CLAIMS for q in c.questions}) == len([q for c in CLAIMS for q in c.questions])


def test_one_seed_has_no_interval_and_no_verdict(digits):
    one = make_ledger(digits[digits.seed == 0], SELECTION)
    assert set(one[one.arm == "greedy"].verdict) == {"one seed"} and one.p.isna().all()


def test_every_published_number_has_its_claim(ledger):
    published = pd.read_csv(ROOT / "figures" / "records" / "paper_claims.csv")
    table = published_numbers(published, ledger)
    assert len(table) == len(published) == 82
    none = set(table[table.claim.astype(str).str.startswith("none")].id)
    assert none == {"fid-ffhq-it1", "fid-cifar-it1", "gs-ffhq-it1", "gs-cifar-it1"}
    by_id = table.set_index("id")
    assert set(by_id.index[by_id.claim.str.endswith("against it")]) == {"fid-ffhq-rep-gre", "fid-ffhq-rep-tdf"}
    assert by_id.loc["fid-cifar-rep-tdf", "ours, as close"] == "not run"  # of digits there is only the other selector
    close = ledger[(ledger.claim == 10) & (ledger.reading == "last") & (ledger.novelty <= 0.75)]
    counted = by_id.loc["fid-cifar-rep-gre", "ours, as close"]
    assert sum(map(int, re.findall(r"\d+", counted))) == len(close)


def test_regimes_are_steps_and_the_novelty_that_they_make():
    table = read_records("digits", "digits-regime", folder=ROOT / "figures" / "records")
    found = {(about["paradigm"], about["train_steps"]): (about["novelty"], set(rows.arm)) for about, rows in regimes(table)}
    assert found["accumulate", 450][0] > 1 > 0.75 > found["accumulate", 1800][0]
    assert all("train_steps" not in arm for _, arms in found.values() for arm in arms)
    some = table[(table.metric == "novelty") & (table.space == "pixel") & (table.iteration == 1) & (table.arm == "vanilla")]
    assert novelty_at_one(table[table.arm == "vanilla"]) == pytest.approx(some.value.mean())


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm([math.nan, 0.5])[0]) and holm([math.nan, 0.5])[1] == 0.5 and holm([0.9, 0.8]).tolist() == [1, 1]


def test_a_partial_correlation_is_that_of_the_residuals():
    rng = np.random.default_rng(0)
    z = rng.normal(size=60)
    points = pd.DataFrame(dict(dataset="d", n_train=1, config=np.repeat(list("abc"), 20), x=z + rng.normal(size=60), y=-2 * z + rng.normal(size=60), z1=z, z2=3 - z))
    rest = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (points.x, points.y)]
    assert correlation(points)["r"] == pytest.approx(np.corrcoef(*rest)[0, 1])
    assert correlation(points.drop(columns=["z1", "z2"]))["r"] == pytest.approx(np.corrcoef(points.x, points.y)[0, 1])


# expected numbers


def test_expected_numbers_are_the_records():
    folder = ROOT / "figures" / "records"
    expected = expected_numbers(folder)
    table = read_records(*recorded_studies(folder), folder=folder)
    row = expected[(expected.metric == "gs") & (expected.seeds == 3)].iloc[0]
    value = table[(table.config == row.config) & (table.iteration == row.iteration) & (table.metric == "gs") & (table.space == row.space)].value.iloc[0]
    assert row.value == value and row.low < row.value < row.high
    committed = pd.read_csv(folder / "expected.csv", dtype=dict(family=str, config=str))
    pd.testing.assert_frame_equal(committed, expected, rtol=1e-4, check_dtype=False)


def test_a_prediction_interval_holds_95_of_100():
    draws = np.random.default_rng(0).normal(size=(4000, 4))
    inside = [low <= x <= high for *seeds, x in draws for low, high in [prediction_interval(seeds)]]
    assert 0.94 < np.mean(inside) < 0.96
    low, high = prediction_interval([1, 2, 4], logarithmic=True)
    assert 0 < low < 1 and low * high == pytest.approx(4)


@pytest.mark.slow
def test_a_run_is_checked(tmp_path, capsys, monkeypatch):
    config = load_preset("smoke")
    for _ in run_loop(config, tmp_path / "runs" / "mine", progress=False): pass
    table = records(tmp_path / "runs" / "mine")
    row = table[(table.metric == "gs") & (table.space == "pixel") & (table.iteration == 2)].iloc[0]
    about = dict(family=config.digest, config=config.digest, seed=0, dataset="digits", n_train=32, paradigm="accumulate", arm="vanilla",
                 iteration=2, metric="gs", space="pixel", value=row.value, low=row.value - 1, high=row.value + 1, seeds=3)
    def state(**change):
        return check_run(tmp_path / "runs" / "mine", pd.DataFrame([about | change])).state.tolist()
    assert state() == ["the same"] and state(value=row.value + .5) == ["within"] and state(value=0, low=0, high=1) == ["outside"]
    assert state(value=0, low=math.nan, high=math.nan, seeds=1) == ["one seed"] and state(family="another") == []
    assert state(config="of another seed") == ["within"]
    assert dataclasses.replace(config, seed=1).digest != config.digest
    pd.DataFrame([about]).to_csv(tmp_path / "expected.csv", index=False)
    assert cli.main(["check", str(tmp_path / "runs"), "--expected", str(tmp_path / "expected.csv")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mine\n") and "1 numbers: 1 the same" in out
    assert cli.main(["check", str(tmp_path / "nothing")]) == 2 and "no run" in capsys.readouterr().err
    assert cli.main(["check", str(tmp_path / "runs"), "--expected", str(tmp_path / "none.csv")]) == 2


# numbers in the text


def test_numbers_in_readme_and_findings_are_the_ledgers(ledger):
    sys.path.insert(0, str(ROOT / "docs"))
    import ledger_numbers
    committed = ledger_numbers.read_ledger()
    for name in ledger_numbers.FILES:
        text = (ROOT / name).read_text()
        assert len(ledger_numbers.PLACE.findall(text)) > 5, name
        assert ledger_numbers.fill(text, committed) == text, f"{name}: python docs/ledger_numbers.py writes the numbers anew"
    place = '<!-- claim=10 n_train=256 paradigm=accumulate arm=greedy space=pixel says="{}" -->0.1 times<!-- / -->'
    filled = ledger_numbers.fill(place.format("same direction"), ledger)
    row = ledger[(ledger.claim == 10) & (ledger.paradigm == "accumulate") & (ledger.arm == "greedy") & (ledger.space == "pixel")]
    assert f"-->{size_text(row[row.reading == 'last'].iloc[0])}<!--" in filled
    for wrong, words in ((place.format("opposite"), "write the words around it anew"), ("<!-- claim=10 -->1<!-- / -->", "rows of the ledger")):
        with pytest.raises(ValueError, match=words): ledger_numbers.fill(wrong, ledger)
    for p, sure in ((0.01, "no"), (0.2, "yes"), (float("nan"), "yes")):  # Holm's p, and what a text must not say of it
        with pytest.raises(ValueError, match="after Holm's correction"):
            ledger_numbers.fill(place.format(f'same direction" sure="{sure}'), ledger.assign(holm=p))


def test_the_table_of_the_text_is_the_ledgers():
    "The committed table read back says what the one in memory says: an empty base is no number."
    sys.path.insert(0, str(ROOT / "docs"))
    import ledger_numbers
    committed = ledger_numbers.read_ledger()
    table = read_records(*recorded_studies(ROOT / "figures" / "records"), folder=ROOT / "figures" / "records")
    again = make_ledger(table)
    assert ledger_lines(committed) == ledger_lines(again)
    assert ledger_lines(again)[2].count("same direction") >= 3


def test_the_forecasts_of_the_text_are_those_of_the_records():
    table, _ = records_by_size("digits, digits-sizes", ROOT / "figures" / "records")
    text = " ".join((ROOT / "docs" / "findings.md").read_text().split())

    def missed(metric, rule):
        found = forecast(table, metric)
        return np.exp((np.log(found[rule] / found.measured) ** 2).groupby("n_train").mean() ** .5)
    course, stays = missed("frechet", "course"), missed("frechet", "stays")
    assert f"{course.min():.2f} to {course.max():.2f}, whichever N is left out" in text and f"by {stays.min():.1f} to {stays.max():.1f}." in text
    assert (missed("gs", "course") < missed("gs", "stays")).to_dict() == {64: False, 128: True, 256: True, 512: True}
    assert all((missed("novelty", rule) >= missed("novelty", "stays")).any() for rule in ("course", "factor"))
