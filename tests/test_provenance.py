"""Where each training image comes from, of which class it is, and the unseen images that novelty is measured by."""

import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from collapse_nb.config import load_preset
from collapse_nb.data import load_images
from collapse_nb.features import load_classifier, probabilities
from collapse_nb.loop import in_shares, load_run, most_copied, provenance, records, run_loop, unseen_images
from collapse_nb.metrics import generalization_score
from collapse_nb.plots import provenance_figure

SMOKE = dict(train_steps=6, warmup_steps=2, sample_steps=3)


def run(path, **change):
    return list(run_loop(load_preset("smoke", **SMOKE | change), path, progress=False))


@pytest.fixture(scope="module")
def entropy(tmp_path_factory):
    "Three iterations of entropy selection: config, directory, generations."
    path = tmp_path_factory.mktemp("runs") / "entropy"
    generations = run(path, strategy="entropy", iterations=3, surplus=20)
    return load_run(path)[0], path, generations


def bytes_of(images):
    return {p.tobytes() for p in images.pixels}


@pytest.mark.parametrize("counts, available, expected", [
    ([11, 11, 10], [100, 32, 32], [32, 32, 29]),  # m = 93, the smallest of 100*32//11, 32*32//11, 32*32//10
    ([1, 0, 3], [5, 0, 5], [2, 0, 4]), ([32], [7], [7]), ([1, 1], [0, 9], [0, 0]), ([3, 1], [100, 1], [3, 1]), ([1, 1, 1], [9, 9, 1], [1, 1, 1])])
def test_shares_by_the_largest_remainder(counts, available, expected):
    sizes = in_shares(counts, available)
    assert sizes.tolist() == expected and (np.abs(sizes - sizes.sum() * np.array(counts) / sum(counts)) < 1).all()


def test_no_counts_are_refused():
    with pytest.raises(ValueError, match=r"counts = \[0, 0\]"):
        in_shares([0, 0], [3, 3])


def test_the_unseen_set_has_the_shares_of_the_training_set_and_is_in_no_pool(entropy):
    config, _, generations = entropy
    heldout, pool = load_images("digits", split="heldout"), bytes_of(load_images("digits"))
    assert unseen_images(config, generations[0].train, heldout, []) is heldout
    for g in generations: pool |= bytes_of(g.generated)
    for n in (2, 3):
        d, before = generations[n - 1].train, generations[:n - 1]
        unseen = unseen_images(config, d, heldout, before)
        shares, wanted = (np.bincount(x.source, minlength=n) / len(x) for x in (unseen, d))
        assert (np.abs(shares - wanted) <= 1 / len(unseen)).all()
        assert not bytes_of(unseen) & pool and len(bytes_of(unseen)) == len(unseen)
        assert bytes_of(unseen[unseen.source == 0]) <= bytes_of(heldout)
        for k in range(1, n): assert bytes_of(unseen[unseen.source == k]) <= bytes_of(generations[k - 1].surplus)
        again = unseen_images(config, d, heldout, before)
        assert (again.pixels == unseen.pixels).all()
        assert generations[n - 1].metrics["gs_unseen[pixel]"] == pytest.approx(generalization_score(unseen, d))


def test_a_surplus_changes_no_image_and_no_choice(tmp_path):
    with_, without = (run(tmp_path / str(s), strategy="threshold_decay", surplus=s, iterations=3) for s in (24, 0))
    for a, b in zip(with_, without, strict=True):
        assert (a.train.pixels == b.train.pixels).all() and (a.generated.pixels == b.generated.pixels).all() and (a.index == b.index).all()
        assert len(a.surplus) == 24 and (a.surplus.source == a.iteration).all() and b.surplus is None
        shared = [k for k in b.metrics if not k.startswith(("seconds", "gs_unseen", "index"))]
        assert [a.metrics[k] for k in shared] == [b.metrics[k] for k in shared]
    tables = [pd.read_csv(tmp_path / s / "metrics.csv") for s in ("24", "0")]
    assert [t["index[pixel]"].notna().tolist() for t in tables] == [[True] * 3, [True, False, False]]
    a, b = (load_run(tmp_path / s)[0] for s in ("24", "0"))
    assert a.digest == b.digest and (a.surplus, b.surplus) == (24, 0)


def as_before(path: Path):
    "A run directory as it was written before surpluses, classes and the config's field existed."
    config = json.loads((path / "config.json").read_text()); del config["surplus"]
    (path / "config.json").write_text(json.dumps(config))
    for folder in path.glob("iteration-*"):
        (folder / "surplus.npz").unlink(missing_ok=True)
        with np.load(folder / "selected.npz") as z: old = {k: z[k] for k in z if k not in ("label", "known")}
        np.savez_compressed(folder / "selected.npz", **old)
        row = json.loads((folder / "metrics.json").read_text())
        row = {k: v for k, v in row.items() if not k.startswith(("gs_unseen", "index", "class_share", "believed", "seconds[surplus]"))}
        (folder / "metrics.json").write_text(json.dumps(row))


def test_an_older_run_is_continued(tmp_path):
    change = dict(strategy="entropy", iterations=3)
    whole = run(tmp_path / "whole", **change)
    run(tmp_path / "old", **change | dict(iterations=1))
    as_before(tmp_path / "old")
    generations = run(tmp_path / "old", **change)
    for a, b in zip(whole, generations, strict=True):
        assert (a.train.pixels == b.train.pixels).all() and (a.generated.pixels == b.generated.pixels).all() and (a.index == b.index).all()
    assert [g.surplus is None for g in generations] == [True, False, False]
    table = pd.read_csv(tmp_path / "old" / "metrics.csv")
    assert "index[pixel]" not in table  # it was not measured at n = 1, and n = 2 and 3 need iteration 1's surplus
    assert table["class_share[0]"].isna().tolist() == [True, False, False] == table["believed"].isna().tolist()
    pd.testing.assert_frame_equal(provenance(load_run(tmp_path / "old")[0], generations), provenance(load_run(tmp_path / "whole")[0], whole))
    drawn = provenance_figure(records(tmp_path / "old"), [most_copied(generations[-1])]); plt.close(drawn)


def test_a_source_that_left_nothing_is_no_matter_where_it_gave_nothing(tmp_path):
    "Replacing, D_3 holds G_2 alone: iteration 1's missing surplus hides iteration 2's index, not iteration 3's."
    run(tmp_path / "r", paradigm="replace", iterations=1, surplus=0)
    last = run(tmp_path / "r", paradigm="replace", iterations=3, surplus=9)
    assert ["index[pixel]" in g.metrics for g in last] == [True, False, True]
    assert json.loads((tmp_path / "r" / "config.json").read_text())["surplus"] == 9


def test_a_fork_takes_surplus_and_classes_along(tmp_path, entropy):
    _, path, source = entropy
    shutil.copytree(path, tmp_path / "a")
    fork = run(tmp_path / "b", strategy="vanilla", iterations=3, surplus=5, fork_from=f"{tmp_path / 'a'}:2")
    assert all((a.surplus.pixels == b.surplus.pixels).all() for a, b in zip(source[:2], fork)) and len(fork[2].surplus) == 5
    assert (source[0].label == fork[0].label).all() and len(fork[1].label) == 32 and "index[pixel]" in fork[2].metrics


def test_every_training_image_has_a_source_and_a_class(entropy):
    config, _, generations = entropy
    table, real = provenance(config, generations), load_images("digits")
    truth, classifier = dict(zip((p.tobytes() for p in real.pixels), real.labels)), load_classifier("digits")
    for g in generations:
        rows = table[table.iteration == g.iteration]
        assert rows.source.tolist() == g.train.source.tolist() and rows.image.tolist() == list(range(32))
        is_real = g.train.source == 0
        assert rows.label[is_real].tolist() == [truth[p.tobytes()] for p in g.train.pixels[is_real]]
        if (~is_real).any(): assert rows.label[~is_real].tolist() == probabilities(classifier.model, g.train[~is_real]).argmax(1).tolist()
        assert (rows.known == np.where(is_real, "given", "believed")).all() and g.metrics["believed"] == (~is_real).mean()
        shares = {k: v for k, v in g.metrics.items() if k.startswith("class_share")}
        assert sum(shares.values()) == pytest.approx(1)
        assert shares == {f"class_share[{k}]": v for k, v in rows.label.value_counts(normalize=True).items()}


def test_a_class_that_was_asked_for_is_the_class(tmp_path):
    generations = run(tmp_path / "r", guidance=1, iterations=2)
    table, last = provenance(load_run(tmp_path / "r")[0], generations), generations[1]
    rows = table[table.iteration == 2]
    assert rows.label.tolist() == last.train.labels.tolist() and set(rows.known) == {"given", "asked"} and last.metrics["believed"] == 0
    first = generations[0]
    assert sorted(np.bincount(first.surplus.labels, minlength=10)) == sorted(np.bincount(first.generated.labels, minlength=10))


def test_images_without_labels_have_sources_alone(tmp_path):
    np.savez(tmp_path / "mine.npz", pixels=load_images("digits", n=100).pixels)
    generations = run(tmp_path / "r", dataset=f"npz:{tmp_path / 'mine.npz'}", spaces="pixel", paradigm="replace")
    table = provenance(load_run(tmp_path / "r")[0], generations)
    assert (table.label == -1).all() and (table.known == "unknown").all() and set(table.source) == {0, 1}
    assert not any(k.startswith("class_share") for k in generations[1].metrics) and "index[pixel]" in generations[1].metrics
    figure = provenance_figure(records(tmp_path / "r"), [most_copied(generations[-1])])
    assert [ax.get_ylabel() for ax in figure.axes[:2]] == ["share of $D_n$", "generalization index"]
    plt.close(figure)


def test_the_most_copied_are_the_nearest(entropy):
    _, _, generations = entropy
    g = generations[-1]
    pairs = most_copied(g, 5)
    a, b = (x.pixels.reshape(len(x), -1).astype(float) for x in (g.generated[:32], g.train))
    between = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    assert pairs["distance"] == pytest.approx(np.sort(between.min(1))[:5])
    for x, y, d, s in zip(pairs["generated"], pairs["nearest"], pairs["distance"], pairs["source"]):
        assert np.sqrt(((x.astype(float) - y) ** 2).sum()) == pytest.approx(d)
        assert any((y == t).all() and s == k for t, k in zip(g.train.pixels, g.train.source))
    assert most_copied(g, 5, "classifier")["distance"][-1] < pairs["distance"][0]  # another space, another scale
    for wrong in (0, 33, 2.5, True):
        with pytest.raises(ValueError, match="count = .*1 to 32"):
            most_copied(g, wrong)


def test_the_figure_shows_the_records(entropy):
    _, path, generations = entropy
    table = records(path, "s")
    assert set(table[table.metric.isin(["class_share", "believed", "share", "gs_unseen", "index"])].set) <= {"D_n", "G_n", "unseen", "none"}
    assert set(table[table.metric.isin(["class_share", "believed"])].set) == {"D_n"}
    figure = provenance_figure(table, [most_copied(generations[0], 6), most_copied(generations[-1], 6, "classifier")])
    sources, classes, index, first, last = figure.axes
    real = {round(p.get_x() + p.get_width() / 2): p.get_height() for p in sources.patches[:3]}
    assert real == pytest.approx({g.iteration: g.metrics["share[0]"] for g in generations})
    (curve,) = [line for line in sources.lines if line.get_label() == "1/n"]
    assert curve.get_ydata() == pytest.approx([1, 1 / 2, 1 / 3])
    assert "believed" in classes.get_ylabel() and len(classes.texts) == 3 * table[table.metric == "class_share"].space.nunique()
    assert index.lines[0].get_ydata() == pytest.approx([g.metrics["index[pixel]"] for g in generations])
    assert "pixels 0..255" in first.get_title("left") and "classifier features" in last.get_title("left")
    assert len(first.get_xticklabels()) == 6
    plt.close(figure)
