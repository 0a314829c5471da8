"""Where each training image comes from, of which class it is, and the unseen images that novelty is measured by."""

import dataclasses
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest

from collapse_nb.config import load_preset
from collapse_nb.data import load_images
from collapse_nb.features import load_classifier, probabilities
from collapse_nb.loop import run_loop
from collapse_nb.metrics import METRICS, generalization_score
from collapse_nb.pictures import most_copied
from collapse_nb.plots import provenance_figure
from collapse_nb.provenance import provenance
from collapse_nb.records import records
from collapse_nb.runs import load_run
from collapse_nb.unseen import proportional_sizes, unseen_images

SMOKE = dict(train_steps=6, warmup_steps=2, sample_steps=3)


def run(path, **change):
    return list(run_loop(load_preset("smoke", **SMOKE | change), path, progress=False))


@pytest.fixture(scope="module")
def greedy(tmp_path_factory):
    "Three iterations of greedy selection: the run, its directory, its generations."
    path = tmp_path_factory.mktemp("runs") / "greedy"
    generations = run(path, strategy="greedy", iterations=3, eval_samples=20)
    return load_run(path), path, generations


def bytes_of(images):
    return {p.tobytes() for p in images.pixels}


@pytest.mark.parametrize("counts, available, expected", [
    ([11, 11, 10], [100, 32, 32], [32, 32, 29]),  # m = 93, the smallest of 100*32//11, 32*32//11, 32*32//10
    ([1, 0, 3], [5, 0, 5], [2, 0, 4]), ([32], [7], [7]), ([1, 1], [0, 9], [0, 0]), ([3, 1], [100, 1], [3, 1]), ([1, 1, 1], [9, 9, 1], [1, 1, 1])])
def test_shares_by_the_largest_remainder(counts, available, expected):
    sizes = proportional_sizes(counts, available)
    assert sizes.tolist() == expected and (np.abs(sizes - sizes.sum() * np.array(counts) / sum(counts)) < 1).all()


def test_no_counts_are_refused():
    with pytest.raises(ValueError, match=r"counts = \[0, 0\]"):
        proportional_sizes([0, 0], [3, 3])


def test_the_unseen_set_has_the_shares_of_the_training_set_and_is_in_no_pool(greedy):
    run, _, generations = greedy
    heldout, pool = load_images("digits", split="heldout"), bytes_of(load_images("digits"))
    first = run.before(1)
    assert unseen_images(first, generations[0].train) is first.heldout and bytes_of(first.heldout) == bytes_of(heldout)
    for g in generations: pool |= bytes_of(g.generated)
    for n in (2, 3):
        d, before = generations[n - 1].train, run.before(n)
        unseen = unseen_images(before, d)
        shares, wanted = (np.bincount(x.source, minlength=n) / len(x) for x in (unseen, d))
        assert (np.abs(shares - wanted) <= 1 / len(unseen)).all()
        assert not bytes_of(unseen) & pool and len(bytes_of(unseen)) == len(unseen)
        assert bytes_of(unseen[unseen.source == 0]) <= bytes_of(heldout)
        for k in range(1, n): assert bytes_of(unseen[unseen.source == k]) <= bytes_of(generations[k - 1].eval)
        assert not bytes_of(unseen) & bytes_of(generations[n - 1].eval)  # E_n is not a source of D_n
        again = unseen_images(before, d)
        assert (again.pixels == unseen.pixels).all()
        assert generations[n - 1].metrics["gs_unseen[pixel]"] == pytest.approx(generalization_score(unseen, d))
    replaced = dataclasses.replace(generations[2].train, source=np.full(32, 2))  # as under replace: of iteration 2 alone, so E_2 says it all
    assert bytes_of(unseen_images(run.before(3), replaced)) == bytes_of(generations[1].eval)


def test_samples_to_measure_with_change_no_image_and_no_choice(tmp_path):
    many, few = (run(tmp_path / str(e), strategy="threshold_decay", eval_samples=e, iterations=3) for e in (24, 12))
    of_others = {k for k in METRICS if METRICS[k].of not in ("G_n", "D_n") or k.startswith("novelty")}
    for a, b in zip(many, few, strict=True):
        assert (a.train.pixels == b.train.pixels).all() and (a.generated.pixels == b.generated.pixels).all() and (a.index == b.index).all()
        assert (len(a.eval), len(b.eval)) == (24, 12) and all((g.eval.source == g.iteration).all() for g in (a, b))
        assert not bytes_of(a.eval) & bytes_of(a.generated)  # another seed
        shared = [k for k in b.metrics if k.split("[")[0] not in of_others | {"seconds"}]
        assert len(shared) > 20 and [a.metrics[k] for k in shared] == [b.metrics[k] for k in shared]
        assert all("novelty[pixel]" in g.metrics for g in (a, b)) and a.metrics["frechet[pixel]"] != b.metrics["frechet[pixel]"]
    config = load_run(tmp_path / "24").config
    assert config.eval_samples == 24 and config.digest != load_run(tmp_path / "12").config.digest  # another experiment, another directory
    with pytest.raises(ValueError, match="eval_samples = 24 there, 12 here"): run(tmp_path / "24", strategy="threshold_decay", eval_samples=12)


@pytest.mark.parametrize("many", [6, 7.5, None, True, "auto"])
def test_too_few_samples_to_measure_with_are_refused_before_work(tmp_path, many):
    "Seven: precision to coverage look at a fifth neighbour, novelty's interval at two images of each source."
    config = load_preset("smoke", **SMOKE)
    with pytest.raises(ValueError, match=f"eval_samples = {many!r} is (out of range .allowed: at least 7|not a whole number)"):
        list(run_loop(dataclasses.replace(config, eval_samples=many), tmp_path / "r"))
    assert not (tmp_path / "r").exists()


def test_a_fork_takes_samples_and_classes_along(tmp_path, greedy):
    _, path, source = greedy
    shutil.copytree(path, tmp_path / "a")
    about = dict(strategy="vanilla", iterations=3, fork_from=f"{tmp_path / 'a'}:2")
    fork = run(tmp_path / "b", eval_samples=20, **about)
    assert all((a.eval.pixels == b.eval.pixels).all() for a, b in zip(source[:2], fork)) and len(fork[2].eval) == 20
    for file in ("iteration-001/eval.npz", "iteration-002/eval.npz"): assert (path / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (source[0].label == fork[0].label).all() and len(fork[1].label) == 32 and "novelty[pixel]" in fork[2].metrics
    with pytest.raises(ValueError, match="is another experiment: eval_samples = 20 there, 64 here"): run(tmp_path / "c", **about)
    assert not (tmp_path / "c").exists()


def test_every_training_image_has_a_source_and_a_class(greedy):
    run, _, generations = greedy
    table, real = provenance(run), load_images("digits")
    truth, classifier = dict(zip((p.tobytes() for p in real.pixels), real.labels)), load_classifier("digits")
    for g in generations:
        rows = table[table.iteration == g.iteration]
        assert rows.source.tolist() == g.train.source.tolist() and rows.image.tolist() == list(range(32))
        is_real = g.train.source == 0
        assert rows.label[is_real].tolist() == [truth[p.tobytes()] for p in g.train.pixels[is_real]]
        if (~is_real).any(): assert rows.label[~is_real].tolist() == probabilities(classifier.model, g.train[~is_real]).argmax(1).tolist()
        assert (rows.label_source == np.where(is_real, "dataset", "predicted")).all() and g.metrics["predicted_labels"] == (~is_real).mean()
        shares = {k: v for k, v in g.metrics.items() if k.startswith("class_share")}
        assert sum(shares.values()) == pytest.approx(1)
        assert shares == {f"class_share[{k}]": v for k, v in rows.label.value_counts(normalize=True).items()}


def test_a_class_that_was_asked_for_is_the_class(tmp_path):
    generations = run(tmp_path / "r", guidance=1, iterations=2, eval_samples=32)
    table, last = provenance(load_run(tmp_path / "r")), generations[1]
    rows = table[table.iteration == 2]
    assert rows.label.tolist() == last.train.labels.tolist() and set(rows.label_source) == {"dataset", "conditioning"} and last.metrics["predicted_labels"] == 0
    first = generations[0]
    assert sorted(np.bincount(first.eval.labels, minlength=10)) == sorted(np.bincount(first.generated.labels, minlength=10))


def test_images_without_labels_have_sources_alone(tmp_path):
    np.savez(tmp_path / "mine.npz", pixels=load_images("digits", n=100).pixels)
    generations = run(tmp_path / "r", dataset=f"npz:{tmp_path / 'mine.npz'}", spaces="pixel", paradigm="replace")
    table = provenance(load_run(tmp_path / "r"))
    assert (table.label == -1).all() and (table.label_source == "none").all() and set(table.source) == {0, 1}
    assert not any(k.startswith("class_share") for k in generations[1].metrics) and "novelty[pixel]" in generations[1].metrics
    figure = provenance_figure(records(tmp_path / "r"), [most_copied(generations[-1])])
    assert [ax.get_ylabel() for ax in figure.axes[:2]] == ["share of $D_n$", "novelty of $G_n$\n(pixels 0..255)"]
    plt.close(figure)


def test_the_most_copied_are_the_nearest(greedy):
    _, _, generations = greedy
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


def test_the_figure_shows_the_records(greedy):
    _, path, generations = greedy
    table = records(path, "s")
    assert set(table[table.metric.isin(["class_share", "predicted_labels", "share", "gs_unseen", "novelty"])].set) == {"D_n", "G_n", "unseen"}
    assert set(table[table.metric.isin(["class_share", "predicted_labels"])].set) == {"D_n"}
    figure = provenance_figure(table, [most_copied(generations[0], 6), most_copied(generations[-1], 6, "classifier")])
    sources, classes, novelty, first, last = figure.axes
    real = {round(p.get_x() + p.get_width() / 2): p.get_height() for p in sources.patches[:3]}
    assert real == pytest.approx({g.iteration: g.metrics["share[0]"] for g in generations})
    (curve,) = [line for line in sources.lines if line.get_label() == "equal shares, 1/n"]
    assert curve.get_ydata() == pytest.approx([1, 1 / 2, 1 / 3])
    assert "predicted" in classes.get_ylabel() and len(classes.texts) == 3 * table[table.metric == "class_share"].label.nunique()
    assert novelty.lines[0].get_ydata() == pytest.approx([g.metrics["novelty[pixel]"] for g in generations])
    assert "pixels 0..255" in first.get_title("left") and "classifier features" in last.get_title("left")
    assert len(first.get_xticklabels()) == 6
    plt.close(figure)
