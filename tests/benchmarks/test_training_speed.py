"""Training images per second, as ratios against `gpu_speed.plain_training`, a script in the style of diffusers' unconditional training:
`make bench`. Ours: the same network, batch and objective through `train`. Nothing here asserts a time."""

import numpy as np
import pytest

from collapse_nb.config import load_preset
from collapse_nb.data import Images, load_images
from collapse_nb.denoiser import Denoiser
from collapse_nb.diffusion import train
from collapse_nb.features import torch_threads
from collapse_nb.gpu_speed import plain_training


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("batch", [16, 128])
def test_unet48_against_a_plain_script(benchmark, batch, channels_last):
    steps = 2 if batch == 16 else 1
    pixels = np.random.default_rng(0).integers(0, 256, (batch * steps, 3, 32, 32), dtype=np.uint8)
    config = load_preset("ddpm-digits", network="UNet48", batch_size=batch, train_steps=steps, warmup_steps=0, channels_last=channels_last, flip=True)
    model = Denoiser.fresh("UNet48", "ddpm", images := Images(pixels), 0)
    with torch_threads(2):
        benchmark.pedantic(lambda: list(train(model, images, config, 1)), rounds=3, warmup_rounds=1)
        plain = plain_training("UNet48", (3, 32, 32), batch, 4, "cpu", workers=0)
    ours = batch * steps / benchmark.stats.stats.median
    print(f"\nUNet48 at 3x32x32, batch {batch}, two threads, {'channels_last' if channels_last else 'contiguous'}: "
          f"{ours:.1f} training images per second, {ours / plain:.2f} times the plain script's")


@pytest.mark.parametrize("threads", [1, 2])
def test_the_demos_network(benchmark, threads):
    "The goal is 2,500 training images a second on two cores."
    config, images = load_preset("demo", train_steps=60), load_images("digits", n=128)
    model = Denoiser.fresh(config.network, config.objective, images, 0)
    with torch_threads(threads):
        benchmark.pedantic(lambda: list(train(model, images, config, 1)), rounds=3, warmup_rounds=1)
    print(f"\ndemo preset, {threads} threads: {config.batch_size * config.train_steps / benchmark.stats.stats.median:.0f} training images per second")
