"""The presets of settings.ini: the paper's values, its networks built and run a little, and what a run of them costs."""

import re

import nbformat
import numpy as np
import pytest
import torch
from conftest import ROOT

from collapse_nb.config import load_preset, preset_names
from collapse_nb.data import Images
from collapse_nb.denoiser import Denoiser, check_fits
from collapse_nb.diffusion import train
from collapse_nb.sampling import sample

PAPER = {"paper-cifar10": (3, 32768), "paper-ffhq": (3, 8192), "paper-mnist": (1, 12000), "paper-mnist-cfg": (1, 12000)}  # channels, N
SIDES = dict(digits=8, fashion_mnist=28, mnist=28, cifar10=32, ffhq=32)


def stand_ins(name, n=4):
    rng = np.random.default_rng(0)
    labels = None if name == "paper-ffhq" else np.arange(n) % 10
    return Images(rng.integers(0, 256, (n, PAPER[name][0], 32, 32), dtype=np.uint8), labels)


def test_all_are_there_and_their_images_fit_their_networks():
    assert set(preset_names()) >= {"smoke", "demo", "ddpm-digits", "cpu-digits", "cpu-fashion", "cpu-cifar10", *PAPER}
    for name in preset_names():
        c = load_preset(name)
        side = c.side or SIDES[c.dataset]
        check_fits(c.network, (1, side, side))
        assert c.device == ("cuda" if name in (*PAPER, "gpu-cifar") else "cpu")


SCRIPT, FIGURE, ASSUMED, OURS = "authors' script", "authors' figure", "assumption", "ours"
CIFAR, OTHERS, CFG = ["paper-cifar10"], ["paper-ffhq", "paper-mnist", "paper-mnist-cfg"], ["paper-mnist-cfg"]
FACTS = [  # presets, key, value, where it comes from: settings.ini says so on the key's line
    *((list(PAPER), key, value, SCRIPT) for key, value in dict(
        network="UNet48", pool_factor="auto", alpha="auto", objective="ddpm", batch_size=128, learning_rate=1e-4, warmup_steps=500, beta1=0.95,
        beta2=0.999, weight_decay=1e-6, grad_clip=1.0, precision="fp16", sampler="ancestral", sample_steps=1000, sample_batch=1024, side=32).items()),
    *(([name], "n_train", n, SCRIPT) for name, (_, n) in PAPER.items()),
    *((presets, key, value, source) for presets, source in ((CIFAR, SCRIPT), (OTHERS, ASSUMED))
      for key, value in dict(train_steps=128_000, space="dinov2", tau=60).items()),
    (list(PAPER), "iterations", 8, ASSUMED), (list(PAPER), "ema_decay", 0, ASSUMED), (CFG, "label_dropout", 0.1, ASSUMED),
    (CIFAR + OTHERS[1:], "spaces", ("pixel", "classifier", "dinov2"), ASSUMED), (["paper-ffhq"], "spaces", ("pixel", "dinov2"), ASSUMED),
    (CFG, "guidance", 2.0, FIGURE), (list(PAPER), "eval_samples", 10_000, OURS)]
UNMARKED = {"dataset", "channels_last", "device", "threads"}  # what the preset is named after; what changes no result, or rounding alone


def marks(name: str) -> dict[str, str]:
    "Key -> where its value comes from: its comment's first words. \"authors' script, as the next nine\" marks the nine lines below, too."
    section = re.search(rf"^\[{name}\]\n(.*?)(?=^\[)", (ROOT / "settings.ini").read_text(), re.M | re.S)[1]
    found, following = {}, 0
    for key, comment in re.findall(r"^(\w+) = [^#\n]*(?:# (.*))?$", section, re.M):
        source = next((s for s in (SCRIPT, FIGURE, ASSUMED, OURS) if comment.startswith(s)), None)
        following, inherited = following - 1, following > 0
        if "as the next nine" in comment: following = 9
        found[key] = source or (SCRIPT if inherited else "")
    return found


@pytest.mark.parametrize("name, key, value, source", [(n, k, v, s) for names, k, v, s in FACTS for n in names], ids=str)
def test_a_fact_of_the_paper_and_where_it_comes_from(name, key, value, source):
    assert getattr(load_preset(name), key) == value and marks(name)[key] == source


@pytest.mark.parametrize("name", PAPER)
def test_every_value_of_a_paper_preset_is_a_fact_above(name):
    assert {k for k, source in marks(name).items() if not source} == UNMARKED
    assert set(marks(name)) - UNMARKED == {k for names, k, *_ in FACTS if name in names}
    assert (load_preset(name).guidance is None) == (name not in CFG)


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("paradigm, alpha, offers", [("replace", 0.95, 2), ("accumulate", 0.80, 1)])
def test_what_auto_stands_for_in_the_paper(name, paradigm, alpha, offers):
    c = load_preset(name, strategy="threshold_decay", paradigm=paradigm)
    assert (c.decay, c.n_generate) == (alpha, offers * c.n_train)
    assert load_preset(name, paradigm=paradigm).n_generate == c.n_train  # vanilla
    assert load_preset(name, paradigm=paradigm, space="pixel", tau=2000).decay == 0.95


def test_501_epochs_are_those_of_the_largest_n():
    "The authors take as many steps at every N: 501 epochs at N = 32,768, 8,000 at 2,048. No text may say 501 of another N, or of all."
    texts = {p: p.read_text() for p in (ROOT / "README.md", ROOT / "settings.ini", *(ROOT / "docs").glob("*.*"))}
    for p in (ROOT / "nbs").glob("*.ipynb"): texts[p] = "\n".join(c.source for c in nbformat.read(p, 4).cells)
    found = [(p.name, text, m) for p, text in texts.items() for m in re.finditer(r"(?<![\d.,])501(?!\d|[.,]\d)", text)]
    said = [(name, text[max(0, m.start() - 30):m.end() + 30]) for name, text, m in found]
    assert said and not [(name, words) for name, words in said if not re.search(r"501 epochs at \$?N\$? = \$?32,768", words)]


@pytest.mark.parametrize("name", [n for n in preset_names() if n not in PAPER and n != "smoke"])
def test_a_cpu_preset_says_its_dose(name):
    "How often each image of D_1 is seen, beside which the novelty of iteration 1 is told."
    section = re.search(rf"^\[{name}\]\n(.*?)(?=^\[)", (ROOT / "settings.ini").read_text(), re.M | re.S)[1]
    c, (dose,) = load_preset(name), re.findall(r"Dose ([\d,]+)", section)
    assert int(dose.rstrip(",").replace(",", "")) == c.train_steps * c.batch_size / c.n_train and "novelty" in section


@pytest.mark.parametrize("name", PAPER)
def test_two_steps_of_training_and_sampling(name):
    c = load_preset(name, batch_size=2, precision="float32", device="cpu", threads=1, train_steps=2, warmup_steps=0, sample_steps=2)
    images = stand_ins(name)
    model = Denoiser.fresh(c.network, c.objective, images, 0, 10 if c.conditional else None)
    count = sum(p.numel() for p in model.unet.parameters())
    assert count == {3: 16_012_419, 1: 16_012_419 - 9 * 48 * 2 * 2 - 2}[images.shape[0]] + (11 * 192 if c.conditional else 0)
    before = [p.detach().clone() for p in model.unet.parameters()]
    states = list(train(model, images, c, 1))
    assert len(states) == 2 and all(np.isfinite(s.loss) and s.loss > 0 for s in states)
    assert sum(not torch.equal(a, b) for a, b in zip(before, model.unet.parameters())) > 0.9 * len(before)
    drawn = sample(model, 2, sampler=c.sampler, steps=c.sample_steps, guidance=c.guidance, seed=0)
    assert drawn.shape == images.shape and drawn.pixels.std() > 0 and (drawn.labels is not None) == c.conditional
