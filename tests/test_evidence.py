"""Intervals by seed and by run, predictions of what the fit has not seen, verdicts; collecting a study piece by piece."""

import math

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats

from collapse_nb.config import images_label, load_study
from collapse_nb.curves import lines
from collapse_nb.evidence import (
    ablation,
    change,
    difference_text,
    metric_columns,
    over_sizes,
    paired,
    read_records,
    read_smallest,
    study_names,
    study_pictures,
    verdict_of,
)
from collapse_nb.loop import run_loop
from collapse_nb.metrics import t_interval
from collapse_nb.predictors import correlation, leave_one_out, points, within
from collapse_nb.sizes import forecast
from collapse_nb.sweep import collect, collect_named_study, read_table, recorded_iterations, run_named_study

KEY = ["config", "iteration", "set", "metric", "space", "source", "label", "stage"]  # what a number is


def table(rows):
    "Records of made-up numbers."
    about = dict(study="s", dataset="made up", paradigm="replace", strategy="vanilla", n_train=8, seed=0, iteration=1, set="G_n", metric="gs",
                 space="pixel", source=pd.NA, label=pd.NA, stage=pd.NA, value=1.0, commit="c")
    t = pd.DataFrame([about | dict(arm=r.get("strategy", "vanilla")) | r for r in rows])
    return t.assign(config=t.strategy + t.arm + t.n_train.astype(str) + "s" + t.seed.astype(str))


def test_t_interval_is_students():
    x = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(.9, 6, x.mean(), stats.sem(x))
    assert t_interval(x, .9) == pytest.approx((x.mean(), low, high))
    assert t_interval([2.0])[0] == 2 and all(map(math.isnan, t_interval([2.0])[1:]))
    for values, level in (([], .95), ([1, math.nan], .95), ([[1, 2]], .95), ([1, 2], 1)):
        with pytest.raises(ValueError, match="allowed"): t_interval(values, level)


def test_equal_differences_are_no_certainty():
    t = table([dict(strategy=s, seed=k, value=k + (s == "greedy") / 64) for s in ("vanilla", "greedy") for k in range(2)])
    pair = paired(t, "gs", "pixel", "greedy")
    assert pair["difference"] == 1 / 64 and verdict_of(pair, 1) == "inconclusive" and difference_text(pair).endswith("(the same in 2 seeds, no interval)")
    rounded = t.assign(value=[0.390625, 0.382812, 0.53125, 0.523438])  # twice 18 of 128 images, in six digits
    assert math.isnan(paired(rounded, "gs", "pixel", "greedy")["low"])
    none = paired(t.assign(value=t.seed), "gs", "pixel", "greedy")
    assert (none["low"], none["high"]) == (0, 0) and verdict_of(none, 1) == "inconclusive" and "holds zero" in difference_text(none)


def test_a_difference_is_paired_by_seed():
    t = table([dict(strategy=s, seed=k, value=10 * k + (k + 1) * (s == "greedy")) for s in ("vanilla", "greedy") for k in range(4)])
    pair = paired(t, "gs", "pixel", "greedy")
    expected = stats.ttest_rel(*(t[t.strategy == s].sort_values("seed").value for s in ("greedy", "vanilla"))).confidence_interval()
    assert (pair["low"], pair["high"]) == pytest.approx(tuple(expected)) and pair["seeds"] == 4 and pair["difference"] == 2.5
    half = t[(t.strategy == "vanilla") | (t.seed < 2)]  # seeds without a partner do not count
    assert paired(half, "gs", "pixel", "greedy")["seeds"] == 2
    one = paired(t[t.seed == 1], "gs", "pixel", "greedy")
    assert one["difference"] == 2 and math.isnan(one["low"]) and "one seed, no interval" in difference_text(one)
    longer = pd.concat([t, t[t.strategy == "vanilla"].assign(iteration=2, value=99)])  # vanilla went on, greedy did not
    assert paired(longer, "gs", "pixel", "greedy") == pair
    ratio = paired(t[t.seed > 0], "gs", "pixel", "greedy", ratio=True)
    assert ratio["difference"] == pytest.approx(stats.gmean([12 / 10, 23 / 20, 34 / 30]))


@pytest.mark.parametrize("column, value", [("n_train", 9), ("paradigm", "accumulate"), ("dataset", "other")])
def test_settings_are_not_mixed(column, value):
    t = table([dict(strategy=s, **{column: v} if v else {}) for s in ("vanilla", "greedy") for v in (None, value)])
    with pytest.raises(ValueError, match=f"mix {column}"): paired(t, "gs", "pixel", "greedy")
    with pytest.raises(ValueError, match="allowed: one"): change(t, "gs", "pixel")
    with pytest.raises(ValueError, match="no seed has"): paired(t[t.strategy == "vanilla"].drop_duplicates("strategy"), "gs", "pixel", "greedy")


def test_an_ablation_is_paired_over_arms():
    t = table([dict(arm=arm, seed=k, value=k + (arm != "vanilla")) for arm in ("vanilla", "vanilla, train_factor=2") for k in range(3)])
    assert paired(t, "gs", "pixel", "vanilla, train_factor=2")["difference"] == 1
    with pytest.raises(ValueError, match="mix arm = vanilla, vanilla, train_factor=2"): change(t, "gs", "pixel")
    with pytest.raises(ValueError, match="mix configs of one strategy and seed"): paired(t, "gs", "pixel", "greedy", by="strategy")


def test_change_and_slope_over_sizes():
    t = table([dict(n_train=n, seed=k, iteration=i, value=math.log2(n) * 3 - i) for n in (4, 8, 16) for k in range(2) for i in (1, 2, 5)])
    moved = change(t[t.n_train == 8].eval("value = value + seed * (iteration - 5)"), "gs", "pixel")
    low, high = stats.t.interval(.95, 1, -2, stats.sem([-4, 0]))
    assert moved["difference"] == -2 and moved["iteration"] == 5 and moved["seeds"] == 2
    assert (moved["low"], moved["high"]) == pytest.approx((low, high))
    slope = over_sizes(t, "gs", "pixel")
    assert slope["difference"] == pytest.approx(3) and slope["seeds"] == 6 and slope["low"] == pytest.approx(3, abs=1e-6)
    with pytest.raises(ValueError, match="at least 3 sizes"): over_sizes(t[t.n_train > 4], "gs", "pixel")


@pytest.mark.parametrize("low, high, sign, verdict", [
    (1, 2, 1, "same direction"), (-2, -1, 1, "opposite"), (-1, 2, 1, "inconclusive"), (0, 2, 1, "inconclusive"),
    (1, 2, -1, "opposite"), (-2, -1, -1, "same direction"), (math.nan, math.nan, -1, "one seed"),
    (-1, 2, 0, "same direction"), (-1, 4, 0, "inconclusive"), (4, 5, 0, "opposite")])
def test_a_verdict_is_the_intervals(low, high, sign, verdict):
    assert verdict_of(dict(difference=(low + high) / 2, low=low, high=high, seeds=1), sign, None if sign else 3) == verdict


@pytest.mark.parametrize("sign, margin", [(2, None), (0, None), (0, 0), (0, -1)])
def test_a_claim_needs_a_direction_or_a_margin(sign, margin):
    with pytest.raises(ValueError, match="sign"): verdict_of(dict(low=0, high=1), sign, margin)


def cloud(runs=6, n=8, slope=2.0, noise=0.0):
    rng = np.random.default_rng(0)
    def one(k):
        x = rng.normal(size=n) + k
        return pd.DataFrame(dict(dataset="d", n_train=10 * (k % 3), config=str(k), x=x, y=slope * x + noise * rng.normal(size=n)))
    return pd.concat(map(one, range(runs)), ignore_index=True)


def test_correlation_is_pearsons_and_its_interval_is_over_runs():
    found = cloud(noise=3)
    c = correlation(found)
    assert c["r"] == pytest.approx(stats.pearsonr(found.x, found.y).statistic)
    assert c["low"] < c["r"] < c["high"] and (c["runs"], c["points"]) == (6, 48)
    assert correlation(found) == c and correlation(found, seed=1)["low"] != c["low"]
    twice = correlation(pd.concat([found, found]))  # more points of the same runs are not more evidence
    assert (twice["low"], twice["high"]) == pytest.approx((c["low"], c["high"]))
    assert math.isnan(correlation(found[found.config < "2"])["low"])
    with pytest.raises(ValueError, match="2 points"): correlation(found[:2])


def test_a_left_out_size_is_not_in_the_fit():
    found = cloud()
    out = leave_one_out(found)
    assert np.allclose(out.error, 0, atol=1e-9) and (out.mean_error > .1).all() and out.points.sum() == len(found)
    bent = found.assign(y=found.y.where(found.n_train != 20, 7))  # one size off the line: its error is large, the others' fit is not perfect any more
    assert leave_one_out(bent).loc[20, "error"] == pytest.approx(np.sqrt(np.mean((7 - found[found.n_train == 20].y) ** 2)), rel=1e-6)
    with pytest.raises(ValueError, match="at least 3"): leave_one_out(found[found.n_train < 20])
    with pytest.raises(ValueError, match="allowed: one"): leave_one_out(pd.concat([found, found.assign(dataset="e")]))


def test_within_takes_each_datasets_scale_away():
    found = pd.concat([cloud(), cloud(slope=.1).assign(dataset="e", x=lambda t: t.x * 100)])
    assert correlation(within(found))["r"] == pytest.approx(1) and correlation(found)["r"] < .9


def test_points_take_logarithms_of_distances_only():
    t = table([dict(iteration=i, metric=m, value=v * i) for i in (1, 2, 3) for m, v in (("gs", 2.0), ("entropy", 5.0), ("mnnd", 3.0))])
    assert np.allclose(points(t, "entropy").x, [5, 10, 15]) and np.allclose(points(t, "mnnd").x, np.log([3, 6, 9]))
    assert np.allclose(points(t, "mnnd").y, np.log([2, 4, 6]))
    with pytest.raises(ValueError, match="x = 'gs'.*entropy"): points(t, "gs")
    with pytest.raises(ValueError, match="dinov2.*pixel"): metric_columns(t, "dinov2")


def test_an_arm_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="arm = 'gredy', 'vanila'.*there are: "): paired(table([{}]), "gs", "pixel", "gredy", "vanila")


def test_the_last_iteration_is_foretold_from_the_other_sizes():
    gs = {8: [8, 4, 3, 2], 16: [8, 8, 4, 4], 32: [9, 6, 6, 1.5]}
    t = table([dict(n_train=n, iteration=i + 1, metric="gs", value=v) for n, values in gs.items() for i, v in enumerate(values)])
    found = forecast(t).reset_index().set_index("n_train")
    assert found.measured.to_dict() == pytest.approx({8: 2, 16: 4, 32: 1.5}) and found.stays.to_dict() == pytest.approx({8: 4, 16: 8, 32: 6})
    assert found.factor.to_dict() == pytest.approx({8: 1, 16: 8, 32: 6 * (2 / 3) ** 2})
    assert found.course.to_dict() == pytest.approx({8: 4 * (1 / 2 * 1 / 4) ** .5, 16: 8 * (1 / 2 * 1 / 4) ** .5, 32: 6 * 1 / 2})


def test_with_one_size_no_course_is_known():
    t = table([dict(n_train=8, iteration=i + 1, metric="gs", value=v) for i, v in enumerate([1, .8, .4])])
    (one,) = forecast(t).itertuples()
    assert math.isnan(one.course) and one.factor == pytest.approx(.64) and one.measured == pytest.approx(.4)


@pytest.mark.parametrize("fields, kept", [
    ((), "AB"), (("alpha",), "ABC"), (("alpha", "train_factor"), "ABCE"), (("selected_in",), "ABF"), (("factor",), "AB")])
def test_an_ablation_keeps_the_presets_own_runs_and_one_changed_field(fields, kept):
    arms = dict(A="vanilla", B="threshold_decay", C="threshold_decay, alpha=0.8", D="threshold_decay, train_factor=2, alpha=0.5",
                E="vanilla, train_factor=2", F="greedy, selected_in=classifier")
    found = ablation(table([dict(arm=v, strategy=v.split(", ")[0]) for v in arms.values()]), *fields)
    assert found.arm.tolist() == [arms[k] for k in kept]


def test_studies_may_stand_in_one_text():
    assert study_names("a, b", "c") == ["a", "b", "c"]
    assert read_records("digits, ablations").equals(read_records("digits", "ablations"))
    smallest = read_smallest("ablations, digits", strategy="vanilla", paradigm="accumulate")
    assert set(smallest.n_train) == {128, 256} and not smallest.duplicated(KEY).any()


def test_lines_say_which_arm_lacks_a_metric():
    import matplotlib.pyplot as plt
    t = table([dict(strategy="vanilla"), dict(strategy="greedy", arm="greedy, fresh=0.1", metric="novelty")])
    with pytest.raises(KeyError, match="no gs.*greedy, fresh=0.1"): lines(plt.figure().add_subplot(), t, "gs", "pixel")
    plt.close("all")


def test_records_name_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="run_sweep.*-p study nothing"): read_records("nothing", folder=tmp_path)
    with pytest.raises(ValueError, match="paradigm = 'mixing'.*replace"): read_records("digits", paradigm="mixing")
    both = read_records("digits", "ablations", "digits")
    assert not both.duplicated(KEY).any() and set(both.study) == {"digits", "ablations"}


def test_a_digest_that_looks_like_a_number_stays_a_text(tmp_path):
    rows = table([dict(seed=0), dict(seed=1)]).assign(config=["45e52868", "00000012"], commit="123456789012")
    rows.to_csv(tmp_path / "s.csv", index=False)
    assert read_records("s", folder=tmp_path).config.tolist() == ["45e52868", "00000012"]


def test_records_of_an_older_kind_are_refused(tmp_path):
    rows = table([dict(seed=0), dict(seed=1)])
    rows.to_csv(tmp_path / "new.csv", index=False)
    rows.drop(columns="arm").assign(variant="none").to_csv(tmp_path / "old.csv", index=False)
    assert read_table(tmp_path / "new.csv")[["source", "label", "stage"]].dtypes.map(str).tolist() == ["Int64", "Int64", "string"]
    for read in (lambda: read_table(tmp_path / "old.csv"), lambda: recorded_iterations(tmp_path / "old.csv"), lambda: read_records("old", folder=tmp_path),
                 lambda: collect([], "old", tmp_path)):
        with pytest.raises(ValueError, match=r"old\.csv holds records of an older kind: it has no column arm .*move it away"): read()


def test_images_are_called_without_their_path():
    assert images_label("folder:/data/my pets/", 16) == "my-pets-16px" and images_label("digits") == "digits"
    assert images_label("npz:x/y.npz") == "y.npz" and images_label("cifar10", 16) == "cifar10-16px"


def test_committed_records_belong_to_the_studies():
    "Every run in a table is a cell of its study's grid: a changed preset makes new runs, and old rows must not stay."
    for file in sorted((ROOT / "figures" / "records").rglob("*.csv")):
        if not {"config", "study"} <= set(pd.read_csv(file, nrows=1).columns): continue
        found = read_table(file)
        assert set(found.config) <= {c.digest for c in load_study(file.stem)}, file.name
        assert not found.duplicated(KEY).any() and (found.study == file.stem).all()
        assert found.commit.notna().all() and not found.dataset.str.contains("[/:]").any()


@pytest.mark.slow
def test_a_study_is_collected_piece_by_piece(tmp_path, monkeypatch):
    (tmp_path / "ini").write_text((ROOT / "settings.ini").read_text() + "\n[study:tiny]\npreset = smoke\nn_train = 16\niterations = 2\n"
                                  "train_steps = 6\nwarmup_steps = 2\nsample_steps = 3\nguidance = 2\ntau = 60\nseed = 0, 1\n")
    monkeypatch.setenv("COLLAPSE_NB_SETTINGS", str(tmp_path / "ini"))
    a, b = load_study("tiny")
    about = dict(out_dir=tmp_path / "runs", records_dir=tmp_path / "records")
    for config in (a, b): list(run_loop(config, tmp_path / "runs" / config.name))
    both = collect_named_study("tiny", **about)
    assert list(both.config.unique()) == [a.digest, b.digest] and "class_share" not in set(both.metric)
    pictures = study_pictures("tiny", folder=tmp_path / "records")
    kept = {f"{k}-{n}" for k in ("generated", "nearest", "distance") for n in (1, 2)} | {"cloud-real", "cloud-1", "cloud-2", "cloud-share"}
    assert set(pictures) == {a.digest} and set(pictures[a.digest]) == kept
    assert pictures[a.digest]["nearest-2"].shape == (8, 1, 8, 8) and pictures[a.digest]["cloud-2"].shape == (16, 3)
    assert pictures[a.digest]["cloud-real"].shape == (16, 3) and np.allclose(pictures[a.digest]["cloud-real"].mean(0), 0, atol=1e-3)
    before = (tmp_path / "records" / "tiny.csv").read_bytes()
    (tmp_path / "runs" / a.name).rename(tmp_path / "elsewhere")  # another machine, which has only the other run
    again = collect_named_study("tiny", **about)
    assert (tmp_path / "records" / "tiny.csv").read_bytes() == before and set(study_pictures("tiny", folder=tmp_path / "records")) == {a.digest}
    pd.testing.assert_frame_equal(both, again)
    alone = collect([tmp_path / "runs" / b.name], "tiny", tmp_path / "records")  # asked for one run: what is recorded of the other stays
    assert (tmp_path / "records" / "tiny.csv").read_bytes() == before and (alone.guidance == "2").all() and (alone.tau == "60").all()
    pd.testing.assert_frame_equal(collect([], "tiny", tmp_path / "records", order=[a.digest, b.digest]), both)
    (tmp_path / "records" / "tiny-pictures.npz").unlink()  # a table may stand alone
    assert set(collect([tmp_path / "runs" / b.name], "tiny", tmp_path / "records").config) == {a.digest, b.digest}
    assert recorded_iterations(tmp_path / "records" / "tiny.csv") == {a.digest: 2, b.digest: 2} and recorded_iterations(tmp_path / "records" / "none.csv") == {}
    table = run_named_study("tiny", **about | dict(out_dir=tmp_path / "nowhere"), progress=False)  # all of it is in the records: nothing to run
    assert (tmp_path / "records" / "tiny.csv").read_bytes() == before and not (tmp_path / "nowhere").exists() and len(table) == len(both)
    collect([tmp_path / "runs" / b.name], "tiny", tmp_path / "records", iterations=1)  # cuts what it collects, nothing else
    assert recorded_iterations(tmp_path / "records" / "tiny.csv") == {a.digest: 2, b.digest: 1}
    collect([tmp_path / "runs" / b.name], "other", tmp_path / "records")
    assert set(study_pictures("other", folder=tmp_path / "records")) == {b.digest}
    collect([tmp_path / "elsewhere"], "other", tmp_path / "records")  # a smaller seed: the album is its own
    assert set(study_pictures("other", folder=tmp_path / "records")) == {a.digest}
    with pytest.raises(ValueError, match="unknown"): collect_named_study("none such", **about)
