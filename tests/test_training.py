"""Training: options, checkpoints, a kill, what is refused."""

import dataclasses
import os
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from collapse_nb.config import load_preset
from collapse_nb.data import Images, load_images
from collapse_nb.denoiser import Denoiser
from collapse_nb.diffusion import Training, backward, batch_of, draw_batch, train


def config(**change):
    return load_preset("smoke", **dict(train_steps=8, warmup_steps=2, batch_size=16, checkpoint_steps=3) | change)


def fresh(c, images, classes=None):
    return Denoiser.fresh(c.network, c.objective, images, seed=1, num_classes=classes)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.unet.parameters()])


def trained(c, images, classes=None, **more):
    model = fresh(c, images, classes)
    states = list(train(model, images, c, 1, **more))
    return weights(model), states


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", n=32)


def test_a_batch_is_the_float_image_and_its_mirror(digits):
    data, generator = (torch.from_numpy(digits.pixels), None), torch.Generator()
    plain, flipped = (draw_batch(32, digits.shape, config(batch_size=400, flip=f), generator.manual_seed(0)) for f in (False, True))
    y, z = batch_of(data, plain)[0], batch_of(data, flipped)[0]
    index = plain["index"]
    assert torch.equal(y, torch.from_numpy(digits.unit())[index]) and len(index.unique()) == 32  # larger than the data, drawn with replacement
    mirrored = ~(z == y).flatten(1).all(1)
    assert torch.equal(index, flipped["index"]) and torch.equal(z[mirrored], y[mirrored].flip(3)) and 150 < mirrored.sum() < 250


def test_labels_are_dropped_at_the_given_rate():
    data = torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10)
    for share in (0.25, 0.0):
        drawn = draw_batch(10, (1, 8, 8), config(batch_size=10_000, label_dropout=share), torch.Generator().manual_seed(0), labelled=True)
        told = batch_of(data, drawn, null=10)[1]
        assert torch.equal(told[told != 10], drawn["index"][told != 10])
        assert (told == 10).float().mean().item() == pytest.approx(share, abs=0.02 * bool(share))


def test_the_null_class_is_trained_by_dropped_labels_alone(digits):
    rows = {}
    for dropout in (0.0, 0.5):
        c = config(guidance=1, label_dropout=dropout, weight_decay=0)
        model = fresh(c, digits, 10)
        before = model.unet.class_embedding.weight.detach().clone()
        for _ in train(model, digits, c, 1): pass
        rows[dropout] = ((model.unet.class_embedding.weight - before).abs().amax(1) > 0).tolist()
    assert rows[0.0] == [True] * 10 + [False] and rows[0.5] == [True] * 11


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_a_batch_in_parts_has_the_same_loss_and_gradient(digits, parts):
    found = []
    for p in (1, parts):
        c = config(accumulate_steps=p, guidance=1)
        model = fresh(c, digits, 10)
        training, data = Training.start(model.unet, c), (torch.from_numpy(digits.pixels), torch.from_numpy(digits.labels))
        drawn = draw_batch(len(digits), digits.shape, c, torch.Generator().manual_seed(0), labelled=True)
        loss = backward(training, model, data, drawn, c)
        found.append((float(loss), torch.cat([w.grad.flatten() for w in model.unet.parameters()])))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("change, tolerance", [(dict(channels_last=True), 1e-3), (dict(precision="bf16"), 0.03), (dict(precision="fp16"), 0.03)])
def test_options_of_arithmetic_change_the_loss_by_rounding_alone(digits, change, tolerance):
    _, plain = trained(config(learning_rate=1e-3), digits)
    w, states = trained(config(learning_rate=1e-3, **change), digits)
    assert [s.loss for s in states] == pytest.approx([s.loss for s in plain], rel=tolerance)
    assert [s.loss for s in states] != [s.loss for s in plain]  # the option did something
    assert w.dtype == torch.float32


def test_channels_last_leaves_weights_that_can_be_saved(digits, tmp_path):
    c = config(channels_last=True)
    model = fresh(c, digits)
    for _ in train(model, digits, c, 1, checkpoint=tmp_path / "c.safetensors"): pass
    model.save(tmp_path)
    assert torch.equal(weights(Denoiser.load(tmp_path)), weights(model))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_network_trains_alike(digits):
    from diffusers import UNet2DModel
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
                           add_attention=False, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
        model = Denoiser(unet, "edm", 0.7, digits.shape)
        found.append([s.loss for s in train(model, digits, config(train_steps=4, compile=compiled), 1)])
        assert all("_orig_mod" not in k for k in model.unet.state_dict())  # the weights stay the network's own
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize("change", [{}, dict(ema_decay=0.0), dict(channels_last=True), dict(precision="fp16", batch_size=4), dict(guidance=2, objective="ddpm"),
                                    dict(flip=True, accumulate_steps=2)], ids=str)
def test_stopped_and_continued_is_the_same_to_the_last_bit(digits, tmp_path, change):
    c, file = config(**change), tmp_path / "training.safetensors"
    classes = 10 if c.conditional else None
    whole, states = trained(c, digits, classes)
    for state in train(fresh(c, digits, classes), digits, c, 1, checkpoint=file):
        if state.step == 5: break
    torch.manual_seed(123)  # nothing may depend on the global generator
    again, resumed = trained(c, digits, classes, checkpoint=file)
    assert torch.equal(whole, again) and [s.loss for s in resumed] == [s.loss for s in states] and [s.step for s in resumed] == list(range(1, 9))
    finished, _ = trained(c, digits, classes, checkpoint=file)  # from the checkpoint of the last step: no training at all
    assert torch.equal(whole, finished)


KILLED = """
import os, sys, torch
print(os.getpid(), flush=True)
from pathlib import Path
from collapse_nb.config import load_preset
from collapse_nb.data import load_images
from collapse_nb.denoiser import Denoiser
from collapse_nb.diffusion import train
torch.set_num_threads(1)
c, images = load_preset("smoke", train_steps=60, warmup_steps=2, checkpoint_steps=7), load_images("digits", n=32)
model = Denoiser.fresh(c.network, c.objective, images, 1)
for state in train(model, images, c, 1, checkpoint=Path(sys.argv[1])): print(state.step, flush=True)
torch.save({k: v for k, v in model.unet.state_dict().items()}, sys.argv[2])
"""


def test_a_kill_in_mid_training_changes_no_bit(tmp_path, warm):
    def start(name):
        return subprocess.Popen([warm, "-c", KILLED, str(tmp_path / f"{name}.safetensors"), str(tmp_path / f"{name}.pt")],
                                stdout=subprocess.PIPE, text=True)
    whole = start("whole")
    assert len(whole.communicate(timeout=900)[0].split()) == 61 and whole.returncode == 0
    killed = start("killed")
    process = int(killed.stdout.readline())
    for line in killed.stdout:
        if int(line) >= 25: break
    os.kill(process, signal.SIGKILL)
    assert killed.wait(timeout=300) == -signal.SIGKILL and not (tmp_path / "killed.pt").exists() and (tmp_path / "killed.safetensors").exists()
    before = os.stat(tmp_path / "killed.safetensors").st_mtime_ns
    again = start("killed")
    assert len(again.communicate(timeout=900)[0].split()) == 61 and os.stat(tmp_path / "killed.safetensors").st_mtime_ns > before
    a, b = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("whole", "killed"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_checkpoint_is_written_when_due_and_says_what_it_is(digits, tmp_path):
    file, c = tmp_path / "training.safetensors", config()
    seen = []
    for state in train(fresh(c, digits), digits, c, 1, checkpoint=file): seen.append((state.step, file.exists() and file.stat().st_mtime_ns))
    stamps = [t for _, t in seen]
    assert [bool(t) for t in stamps] == [False] * 2 + [True] * 6 and len(set(stamps[2:])) == 3  # steps 3, 6 and the last, 8
    assert sorted(p.name for p in tmp_path.iterdir()) == [file.name]
    for _ in train(fresh(c, digits), digits, config(checkpoint_steps=0), 1, checkpoint=tmp_path / "none"): pass
    assert not (tmp_path / "none").exists()


def test_checkpoints_that_do_not_belong_are_named(digits, tmp_path):
    file, c = tmp_path / "training.safetensors", config()
    trained(c, digits, checkpoint=file)
    others = load_images("digits", n=32, seed=5)
    for images, other, n in ((digits, config(seed=1), 1), (digits, c, 2), (others, c, 1), (digits, config(network="unet-32-64"), 1)):
        with pytest.raises(ValueError, match=r"training\.safetensors belongs to another training"):
            next(train(fresh(other, images), images, other, n, checkpoint=file))
    trained(config(checkpoint_steps=1), digits, checkpoint=file)  # how often it is written changes nothing
    whole = file.read_bytes()
    for broken in (whole[:-5], whole[:100], b"", b"nonsense" * 10):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"training\.safetensors is no checkpoint.*delete it"):
            next(train(fresh(c, digits), digits, c, 1, checkpoint=file))


@pytest.mark.parametrize("images, words", [
    (lambda d: Images(d.pixels), "no labels"), (lambda d: Images(d.pixels, d.labels + 1), "label 10 of image .* 0 to 9"),
    (lambda d: Images(d.pixels, d.labels - 1), "label -1"), (lambda d: Images(d.pixels[:, :, :4, :4], d.labels), r"\[1, 4, 4\].*\[1, 8, 8\]"),
    (lambda d: Images(d.pixels.repeat(3, 1), d.labels), r"\[3, 8, 8\]")])
def test_training_sets_that_do_not_fit(digits, images, words):
    c = config(guidance=2)
    with pytest.raises(ValueError, match=words):
        next(train(fresh(c, digits, 10), images(digits), c, 1))


class Small(torch.nn.Module):
    "A network on a device with room for a few images: as torch does, it raises OutOfMemoryError beyond."

    def __init__(self, room):
        super().__init__()
        self.room, self.scale = room, torch.nn.Parameter(torch.ones(1))

    def forward(self, x, t, labels=None):
        if len(x) > self.room: raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return SimpleNamespace(sample=self.scale * x)


def test_out_of_memory_says_what_to_try_and_that_works(digits):
    from collapse_nb.sampling import sample
    model = Denoiser(Small(5), "edm", 0.5, digits.shape)
    with pytest.raises(ValueError, match=r"batch_size = 16 in parts of 16 .*cpu.*accumulate_steps = 2, parts of 8, or batch_size = 8"):
        next(train(model, digits, config(), 1))
    with pytest.raises(ValueError, match=r"parts of 8 .*accumulate_steps = 4, parts of 4"):
        next(train(model, digits, config(accumulate_steps=2), 1))
    assert len(list(train(model, digits, config(accumulate_steps=4), 1))) == 8
    with pytest.raises(ValueError, match="single image"):
        next(train(Denoiser(Small(0), "edm", 0.5, digits.shape), digits, config(batch_size=1), 1))
    with pytest.raises(ValueError, match=r"batch of 10 images.*sample_batch = 5"):
        sample(model, 12, sampler="dpm++", steps=2, seed=0, batch_size=10)
    assert len(sample(model, 12, sampler="dpm++", steps=2, seed=0, batch_size=5)) == 12


def test_states_say_how_fast(digits):
    start = time.perf_counter()
    _, states = trained(config(), digits)
    spent = time.perf_counter() - start
    assert 8 * 16 / states[-1].images_per_second < spent
    assert np.isfinite([s.images_per_second for s in states]).all()


def test_a_loop_is_told_labels(tmp_path):
    from collapse_nb.loop import run_loop
    c = load_preset("smoke", guidance=2.0, train_steps=6, warmup_steps=1, spaces="pixel", strategy="greedy")
    first, second = run_loop(c, tmp_path / "run", progress=False)
    assert first.generated.labels is not None and second.train.labels is not None
    model = Denoiser.load(second.path / "model")
    assert model.num_classes == int(first.train.labels.max()) + 1
    assert model.class_counts == tuple(np.bincount(second.train.labels, minlength=model.num_classes))
    plain = dataclasses.replace(c, guidance=None)
    assert plain.digest != c.digest
    with pytest.raises(ValueError, match="guidance = None there, 2.0 here"):
        list(run_loop(plain, tmp_path / "plain", progress=False)); list(run_loop(c, tmp_path / "plain", progress=False))
