"""Embedding against the bare network on inputs that are ready, in one run: `make bench`. Nothing here asserts a time."""

import numpy as np
import pytest
import torch

from collapse_nb.data import Images
from collapse_nb.features import embed, torch_threads
from collapse_nb.dinov2 import dinov2_input, load_dinov2
from safetensors.torch import save_file
from test_speed import ratio

IMAGES = Images(np.random.default_rng(0).integers(0, 256, (16, 3, 32, 32), dtype=np.uint8))


def test_dinov2_against_the_bare_network(benchmark, tmp_path):
    "Baseline: DINOv2-small, at its real size with random weights, on 16 images of 224x224 already prepared, in batches of the same size."
    timm = pytest.importorskip("timm")
    save_file(timm.create_model("vit_small_patch14_dinov2", num_classes=0).state_dict(), tmp_path / "random.safetensors")
    model, x = load_dinov2(tmp_path / "random.safetensors"), dinov2_input(torch.from_numpy(IMAGES.pixels))

    @torch.inference_mode()
    def baseline():
        for batch in x.split(8): model(batch)

    with torch_threads(1):
        ratio(benchmark, lambda: embed(IMAGES, "dinov2", weights=tmp_path / "random.safetensors", batch_size=8, cache=False), baseline,
              "dinov2, 16 images of 3x32x32, one thread", rounds=5)


def test_inception_against_the_bare_network(benchmark, tmp_path):
    "Baseline: Inception, at its real size with random weights, on 16 images of 299x299 already prepared, in batches of the same size."
    torchvision = pytest.importorskip("torchvision")
    pytest.importorskip("cleanfid")

    class Script(torch.nn.Module):
        "Called as the real file is; its layers are torchvision's Inception, which costs what the real one does."
        def __init__(self):
            super().__init__()
            net = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
            net.fc = torch.nn.Identity()
            self.layers = torch.jit.trace(net.eval(), torch.zeros(2, 3, 299, 299))

        def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor: return self.layers(x)

    path = tmp_path / "inception.pt"
    torch.jit.script(Script().eval()).save(str(path))
    net, x = torch.jit.load(str(path)).eval(), torch.rand(16, 3, 299, 299)

    @torch.inference_mode()
    def baseline():
        for batch in x.split(8): net.layers(batch)

    with torch_threads(1):
        ratio(benchmark, lambda: embed(IMAGES, "inception", weights=path, batch_size=8, cache=False), baseline,
              "inception clean, 16 images of 3x32x32, one thread", rounds=5)
