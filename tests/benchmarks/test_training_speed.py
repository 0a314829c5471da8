"""Training images per second, as ratios against a plain script in the style of diffusers' unconditional training: `make bench`.

Baseline: a folder of PNG files, decoded by Pillow and turned into tensors in a DataLoader; default memory format; AdamW as it comes; the
DDPM scheduler's own add_noise. Ours: the same network, batch, objective and optimizer settings through `train`. Nothing here asserts a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_speed import ratio

from collapse_nb.config import load_preset
from collapse_nb.data import Images, load_images
from collapse_nb.denoiser import Denoiser, build_unet
from collapse_nb.diffusion import train
from collapse_nb.features import torch_threads


class Folder(torch.utils.data.Dataset):
    def __init__(self, path):
        from torchvision import transforms as T
        self.files = sorted(path.glob("*.png"))
        self.transform = T.Compose([T.Resize(32), T.CenterCrop(32), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize([0.5], [0.5])])

    def __len__(self): return len(self.files)

    def __getitem__(self, i):
        from PIL import Image
        return self.transform(Image.open(self.files[i]).convert("RGB"))


def plain_script(path, batch, steps, seed=0):
    "What one writes first; returns a function that takes `steps` steps."
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_cosine_schedule_with_warmup
    unet = build_unet("UNet48", (3, 32, 32), seed).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    schedule, noiser = get_cosine_schedule_with_warmup(optimizer, 500, 100_000), DDPMScheduler(num_train_timesteps=1000)
    loader = torch.utils.data.DataLoader(Folder(path), batch_size=batch, shuffle=True)

    def go():
        for _, clean in zip(range(steps), loader):
            noise = torch.randn_like(clean)
            t = torch.randint(0, 1000, (len(clean),))
            loss = F.mse_loss(unet(noiser.add_noise(clean, noise, t), t).sample, noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step(); schedule.step(); optimizer.zero_grad()
            loss.item()
    return go


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("batch", [16, 128])
def test_unet48_against_a_plain_script(benchmark, tmp_path, batch, channels_last):
    from PIL import Image
    steps = 2 if batch == 16 else 1
    pixels = np.random.default_rng(0).integers(0, 256, (batch * steps, 32, 32, 3), dtype=np.uint8)
    for i, p in enumerate(pixels): Image.fromarray(p).save(tmp_path / f"{i:05d}.png")
    images = Images(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    config = load_preset("ddpm-digits", network="UNet48", batch_size=batch, train_steps=steps, warmup_steps=0, channels_last=channels_last, flip=True)
    model = Denoiser.fresh("UNet48", "ddpm", images, 0)
    with torch_threads(2):
        ratio(benchmark, lambda: list(train(model, images, config, 1)), plain_script(tmp_path, batch, steps),
              f"UNet48 at 3x32x32, batch {batch}, two threads, {'channels_last' if channels_last else 'contiguous'}", rounds=3)
    print(f"{batch * steps / benchmark.stats.stats.median:.1f} training images per second")


@pytest.mark.parametrize("threads", [1, 2])
def test_the_demos_network(benchmark, threads):
    "The goal is 2,500 training images a second on two cores."
    config, images = load_preset("demo", train_steps=60), load_images("digits", n=128)
    model = Denoiser.fresh(config.network, config.objective, images, 0)
    with torch_threads(threads):
        benchmark.pedantic(lambda: list(train(model, images, config, 1)), rounds=3, warmup_rounds=1)
    print(f"\ndemo preset, {threads} threads: {config.batch_size * config.train_steps / benchmark.stats.stats.median:.0f} training images per second")
