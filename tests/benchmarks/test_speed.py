"""Ratios against stated baselines, measured in one run: `make bench`. Nothing here asserts a time."""

import numpy as np
import torch

from collapse_nb.config import load_preset
from collapse_nb.data import load_images
from collapse_nb.denoiser import Denoiser
from collapse_nb.diffusion import train
from collapse_nb.features import torch_threads
from collapse_nb.sampling import SAMPLERS, sample


def ratio(benchmark, ours, baseline, name, rounds=5):
    "The median of `ours` by pytest-benchmark, and its ratio to the baseline's, interleaved in the same run."
    import time
    times = []

    def both():
        start = time.perf_counter(); baseline(); times.append(time.perf_counter() - start)

    ours(), baseline()
    benchmark.pedantic(ours, setup=both, rounds=rounds)
    print(f"\n{name}: {np.median(times) / benchmark.stats.stats.median:.2f} times the speed of the baseline")


def test_training_against_the_bare_network(benchmark):
    "Baseline: forward and backward of the demo's network on one batch, without data, objective or optimizer."
    config, images = load_preset("demo", train_steps=20, warmup_steps=5), load_images("digits", n=128)
    model = Denoiser.fresh(config.network, config.objective, images, 0)
    x, t = torch.randn(config.batch_size, *images.shape), torch.rand(config.batch_size)

    def baseline():
        for _ in range(config.train_steps):
            model.unet.zero_grad(); (model.unet(x, t).sample ** 2).mean().backward()

    with torch_threads(1):
        ratio(benchmark, lambda: list(train(model, images, config, 1)), baseline, "training, demo preset, one thread")


def test_sampling_against_the_bare_network(benchmark):
    "Baseline: as many forward passes of the demo's network on a batch of the same size."
    config, images = load_preset("demo"), load_images("digits", n=128)
    model = Denoiser.fresh(config.network, config.objective, images, 0)
    x, t = torch.randn(256, *images.shape), torch.rand(256)

    @torch.no_grad()
    def baseline():
        for _ in range(config.sample_steps): model.unet(x, t)

    assert config.sampler in SAMPLERS
    with torch_threads(1):
        ratio(benchmark, lambda: sample(model, 256, sampler=config.sampler, steps=config.sample_steps, seed=0), baseline,
              "sampling 256 images, demo preset, one thread")
