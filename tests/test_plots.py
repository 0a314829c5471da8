import itertools
import re

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from matplotlib.colors import to_rgb
from PIL import Image

from collapse_nb.curves import STYLE, line_style, lines, pick, size_style, usual_space
from collapse_nb.evidence import read_records
from collapse_nb.metrics import METRICS
from collapse_nb.panels import CLAIMED, arm_looks, panel_words, strategy_panels, study_figure
from collapse_nb.plots import in_words, pictures_of, setting
from collapse_nb.predictors import DATASET_LOOKS
from collapse_nb.saving import describe, save_figure, show
from collapse_nb.sweep import read_table


@pytest.fixture
def table():
    return read_table(ROOT / "figures" / "records" / "demo.csv")


@pytest.mark.parametrize("column", ["paradigm", "n_train", "config"])
def test_settings_are_not_mixed(table, column):
    other = table.copy()
    other[column] = 64 if column == "n_train" else "another"
    with pytest.raises(ValueError, match=f"the records mix {column}"):
        setting(pd.concat([table, other]))


def test_words_are_the_numbers(table):
    words = in_words(table)
    for strategy in ("vanilla", "greedy"):
        gs, h = (pick(table, metric, "pixel", strategy=strategy).value for metric in ("gs", "entropy"))
        assert f"{strategy} {gs.iloc[-1]:.0f} after {gs.iloc[0]:.0f} ({gs.iloc[-1] / gs.iloc[0]:.0%})" in words
        assert f"{strategy} {h.iloc[-1]:.0f} after {h.iloc[0]:.0f}" in words
    swapped = table.assign(strategy=table.strategy.map({"vanilla": "greedy", "greedy": "vanilla"}))
    assert re.sub("vanilla|greedy", lambda m: dict(vanilla="greedy", greedy="vanilla")[m[0]], words) == in_words(swapped)


def test_without_classifier_space(table):
    assert "Frechet distance to unseen real images, pixels 0..255" in in_words(table[table.space != "classifier"])


def test_missing_numbers_are_named(table):
    with pytest.raises(KeyError, match=r"fid\[pixel\]"):
        pick(table, "fid", "pixel")


def test_pictures_belong_to_the_runs(table):
    with np.load(ROOT / "figures" / "records" / "demo-pictures.npz") as z: kept = pictures_of(dict(z), table)
    assert set(kept) == {"vanilla", "greedy"}
    assert (kept["vanilla"]["generated-1"] == kept["greedy"]["generated-1"]).all()  # one seed, one first iteration
    assert not (kept["vanilla"]["generated-5"] == kept["greedy"]["generated-5"]).all()


# Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as seen without one kind of cone.
BLIND = dict(
    protan=[[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    deutan=[[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    tritan=[[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]])


def lab(color, cones=None):
    "CIELAB (D65) of a colour, perhaps as a colour-blind reader sees it."
    c = np.array(to_rgb(color))
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    if cones: linear = np.clip(np.array(BLIND[cones]) @ linear, 0, 1)
    xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]) @ linear
    t = xyz / [0.95047, 1, 1.08883]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


PALETTES = dict(
    strategies=[line_style(s)["color"] for s in STYLE],
    sizes=[size_style(n, [64, 128, 256, 512, 1000])["color"] for n in (64, 128, 256, 512, 1000)],
    datasets=[color for color, _ in DATASET_LOOKS])


@pytest.mark.parametrize("cones", [None, *BLIND])
@pytest.mark.parametrize("palette", PALETTES)
def test_colours_stay_apart_for_colour_blind_readers(palette, cones):
    "Ten units of CIELAB are more than four times what is just noticeable."
    seen = [lab(c, cones) for c in PALETTES[palette]]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 10
    assert all(abs(s[0] - 100) > 12 for s in seen), "pale on white"


def test_red_and_green_would_not_do():
    assert np.linalg.norm(lab("#a55300", "deutan") - lab("#667700", "deutan")) < 10 < np.linalg.norm(lab("#a55300") - lab("#667700"))


def test_nothing_is_told_by_colour_alone():
    for looks in ([line_style(s) for s in STYLE], [size_style(n, range(4)) for n in range(4)]):
        for key in ("marker", "ls", "color"): assert len({str(look[key]) for look in looks}) == len(looks), key
    assert len({m for _, m in DATASET_LOOKS}) == len(DATASET_LOOKS)


@pytest.mark.parametrize("strategy", STYLE)
def test_arms_of_one_strategy_stay_apart(strategy):
    looks = arm_looks([strategy, *(f"{strategy}, alpha=0.{k}" for k in range(1, 5))])
    assert list(looks)[0] == strategy and looks[strategy] == line_style(strategy)
    assert len({(look["marker"], str(look["ls"])) for look in looks.values()}) == len(looks)
    assert all(lab(look["color"])[0] < 88 for look in looks.values()), "pale on white"


@pytest.fixture(scope="module")
def swept():
    "Two strategies, each with two numbers of steps, three seeds."
    return read_records("digits-regime", strategy=["vanilla", "greedy"])


def test_several_configs_under_one_line_are_refused_by_name(swept):
    ax = plt.figure().add_subplot()
    words = "strategy = (vanilla|greedy) holds several configs of one seed.*train_steps = 450 and 900"
    with pytest.raises(ValueError, match=words):
        lines(ax, swept, "gs", "pixel", by="strategy")
    with pytest.raises(ValueError, match=words):
        study_figure(swept, by="strategy")
    lines(ax, swept, "gs", "pixel")
    assert len([line for line in ax.lines if not line.get_label().startswith("_")]) == swept.arm.nunique() == 4
    plt.close("all")


def test_the_papers_panels_draw_a_sweep(swept):
    ax = strategy_panels(swept, "gs", "pixel", "gs_unseen", "unseen samples").axes[0]
    drawn = [line.get_label() for line in ax.lines if not line.get_label().startswith("_")]
    assert set(drawn) == set(swept.arm)
    words = panel_words(swept, "gs").splitlines()
    assert len(words) == 2 and all("greedy, train_steps=" in w and "over vanilla, train_steps=" in w for w in words)
    plt.close("all")


@pytest.mark.parametrize("by", ["arm", "train_steps", "n_train"])
def test_any_study_is_drawn(swept, by):
    some = read_records("digits-sizes") if by == "n_train" else swept
    fig = study_figure(some, by)
    values = some[some.strategy == "vanilla"][by].unique()
    blocks = 1 if by != "train_steps" else 2
    assert len(fig.axes) == 4 * blocks
    for ax in fig.axes[:4]:
        shown = {line.get_label() for line in ax.lines} & {str(v) for v in values}
        assert len(shown) == len(values) and ax.get_xlabel() == "iteration n" and ax.collections
    with pytest.raises(ValueError, match="by = 'fesh'.*allowed"):
        study_figure(some, "fesh")
    plt.close("all")


def test_titles_and_letters_stand_in_one_place():
    assert all(METRICS[k].title for k in CLAIMED) and plt.rcParams["axes.labelsize"] == plt.rcParams["axes.titlesize"] == 8


def test_a_metric_has_a_usual_space(table):
    assert usual_space("frechet", table) == "classifier" and usual_space("gs", table) == "pixel"


def test_a_figure_says_what_it_shows(tmp_path):
    fig, (left, right) = plt.subplots(1, 2)
    left.plot([1, 2], [3, 4], label="vanilla"); left.set(title="digits, $N$ = 64", xlabel="iteration n", ylabel="GS\n(pixels 0..255)"); left.legend()
    right.imshow(np.zeros((4, 4))); right.set_title("samples")
    words = "digits, N = 64; samples. Vertical: GS (pixels 0..255). Horizontal: iteration n. Legend: vanilla. Pictures: 1"
    assert describe(fig) == words
    saved = save_figure(fig, "one", {}, tmp_path)
    assert Image.open(saved).info["Description"] == words and f"<dc:description>{words}</dc:description>" in saved.with_suffix(".svg").read_text()
    assert show(fig) is fig and fig.number not in plt.get_fignums()


@pytest.mark.parametrize("path", sorted(p for k in ("fig_*", "demo_*", "ledger*") for p in (ROOT / "nbs").glob(f"{k}.ipynb")), ids=lambda p: p.stem)
def test_pictures_in_notebooks_have_alternative_texts(path):
    outputs = [o for c in nbformat.read(path, 4).cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})]
    assert outputs or not path.stem.startswith("fig_")
    assert all(len(o.metadata.get("image/png", {}).get("alt", "")) > 20 for o in outputs)


def test_pictures_of_the_readme_and_the_findings_have_alternative_texts():
    texts = [(ROOT / name).read_text() for name in ("README.md", "docs/findings.md")]
    found = [re.findall(r"!\[([^\]]*)\]\((?:\.\./)?(figures/[^)]+)\)", text) for text in texts]
    assert [len(f) for f in found] == [1, 6]
    assert all(len(words) > 20 and (ROOT / file).with_suffix(".svg").exists() for words, file in sum(found, []))
