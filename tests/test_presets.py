"""The presets of settings.ini: the paper's values, its networks built and run a little, and what a run of them costs."""

import re

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
    assert set(preset_names()) >= {"smoke", "demo", "ddpm-digits", "cpu-digits", "cpu-fashion", "cpu-digits-cfg", *PAPER}
    for name in preset_names():
        c = load_preset(name)
        side = c.side or SIDES[c.dataset]
        check_fits(c.network, (1, side, side))
        assert c.device == ("cuda" if name in PAPER else "cpu")


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_values(name):
    c = load_preset(name)
    expected = dict(objective="ddpm", sampler="ancestral", sample_steps=1000, learning_rate=1e-4, beta1=0.95, beta2=0.999, weight_decay=1e-6,
                    warmup_steps=500, grad_clip=1.0, batch_size=128, ema_decay=0, precision="fp16", side=32, n_train=PAPER[name][1],
                    guidance=2.0 if name.endswith("cfg") else None)
    assert {k: getattr(c, k) for k in expected} == expected
    assert c.train_steps == 501 * -(-c.n_train // 128)
    assert ("classifier" in c.spaces) == (c.dataset != "ffhq")  # faces have no labels


@pytest.mark.parametrize("name", PAPER)
def test_what_the_paper_does_not_say_is_marked(name):
    section = re.search(rf"^\[{name}\]\n(.*?)(?=^\[)", (ROOT / "settings.ini").read_text(), re.M | re.S).group(1)
    marked = set(re.findall(r"^(\w+) = [^#\n]*# assumption: \S", section, re.M))
    assert marked >= {"network", "iterations", "pool_factor", "space", "spaces", "ema_decay", "sample_batch"}
    assert not marked & {"n_train", "objective", "train_steps", "batch_size", "learning_rate", "beta1", "beta2", "weight_decay", "grad_clip",
                         "precision", "sampler", "sample_steps", "guidance"}


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
