import numpy as np
import pytest

from collapse_nb.config import load_preset
from collapse_nb.cost import activation_bytes, cost, evaluations_an_image, measure_speed, placeholder_images
from collapse_nb.denoiser import Denoiser, build_unet
from collapse_nb.loop import run_loop
from collapse_nb.sampling import SAMPLERS, sample

SMOKE = load_preset("smoke", spaces="pixel")


def parameters(config):
    return sum(p.numel() for p in build_unet(config.network, placeholder_images(config, 1).shape, 0, 10 if config.conditional else None).parameters())


def test_hours_by_hand():
    paper = dict(name="paper-cifar10", network="unet-16-32")  # a small network: the arithmetic of hours does not ask for it
    c = load_preset(**paper, strategy="greedy", paradigm="replace")
    bill = cost(c, train_images_per_second=2000, sample_images_per_second=4)
    assert bill.train_hours == pytest.approx(128000 * 128 / 2000 / 3600) and bill.sample_hours == pytest.approx((65536 + 10000) / 4 / 3600)
    assert bill.iteration_hours == pytest.approx(2.27555556 + 5.24555556) and bill.hours == pytest.approx(8 * 7.52111111)
    for change in (dict(paradigm="replace"), dict(strategy="greedy")):  # vanilla; a selector under accumulate: N images an iteration
        fewer = cost(load_preset(**paper, **change), train_images_per_second=2000, sample_images_per_second=4)
        assert fewer.sample_hours == pytest.approx((32768 + 10000) / 4 / 3600) and fewer.train_hours == bill.train_hours


def test_bytes_by_hand():
    p = parameters(SMOKE)
    plain, averaged = (cost(load_preset("smoke", ema_decay=e), train_images_per_second=1, sample_images_per_second=1) for e in (0, 0.99))
    each, fixed = activation_bytes(SMOKE)
    assert plain.parameters == p and plain.gpu_bytes == 16 * p + 128 * each + fixed + 32 * 64
    assert averaged.gpu_bytes - plain.gpu_bytes == 4 * p
    assert plain.disk_bytes == 2 * (4 * p + (32 + 64) * (64 + 8) + 64 * 32)
    parts = cost(load_preset("smoke", ema_decay=0, accumulate_steps=4), train_images_per_second=1, sample_images_per_second=1)
    assert plain.gpu_bytes - parts.gpu_bytes == 96 * each
    said = plain.table.set_index("quantity").value
    assert said["device, at least"] * 2**20 == pytest.approx(plain.gpu_bytes) and said["disk"] * 2**20 == pytest.approx(plain.disk_bytes)


def test_half_precision_keeps_about_half():
    full, half = (activation_bytes(load_preset("smoke", precision=p, network="unet-32-64"))[0] for p in ("float32", "fp16"))
    assert 0.4 < half / full < 0.85  # normalizations stay float32


def test_activations_hold_what_the_network_must_keep():
    "At least the input of every convolution, at most some ten tensors for each."
    import torch
    images, kept = placeholder_images(SMOKE, 1), []
    unet = build_unet(SMOKE.network, images.shape, 0)
    for m in unet.modules():
        if isinstance(m, torch.nn.Conv2d): m.register_forward_pre_hook(lambda _, x: kept.append(x[0].numel() * 4))
    unet(torch.zeros(1, *images.shape), torch.zeros(1))
    assert sum(kept) < activation_bytes(SMOKE)[0] < 10 * sum(kept)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [5, 6])
def test_evaluations_are_those_of_the_sampler(sampler, steps):
    c = load_preset("smoke", sampler=sampler, sample_steps=steps)
    model, called = Denoiser.fresh(c.network, c.objective, placeholder_images(c, 4), 0), []
    model.unet.register_forward_hook(lambda *_: called.append(1))
    sample(model, 2, sampler=sampler, steps=steps, seed=0)
    assert evaluations_an_image(c) == len(called)


def test_a_tiny_run_against_its_prediction(tmp_path):
    "Disk is bounded; hours come within a generous factor of what the run itself wrote down."
    c = load_preset("smoke", spaces="pixel", train_steps=60, sample_steps=18)
    speed = measure_speed(c, 20)
    bill = cost(c, **speed)
    generations = list(run_loop(c, tmp_path / "run", progress=False))
    spent = sum(g.metrics["seconds[train]"] + g.metrics["seconds[sample]"] + g.metrics["seconds[eval]"] for g in generations)
    assert spent / 20 < bill.hours * 3600 < 20 * spent
    size = sum(p.stat().st_size for p in (tmp_path / "run").rglob("*.*") if p.suffix in (".safetensors", ".npz"))
    assert 0.8 * bill.disk_bytes < size < bill.disk_bytes + 2 * 20_000  # headers of safetensors and npz


def test_guidance_costs_and_stand_ins_have_labels():
    c = load_preset("smoke", guidance=2)
    assert placeholder_images(c, 12).labels.tolist() == [*range(10), 0, 1] and placeholder_images(SMOKE, 3).labels is None
    assert measure_speed(c, 4).keys() == measure_speed(SMOKE, 4).keys()
    assert cost(c, train_images_per_second=1, sample_images_per_second=1).parameters > parameters(SMOKE)


def test_a_folder_is_looked_into(tmp_path):
    np.savez(tmp_path / "mine.npz", pixels=np.random.default_rng(0).integers(0, 256, (20, 3, 12, 12), dtype=np.uint8))
    assert placeholder_images(load_preset("smoke", dataset=f"npz:{tmp_path / 'mine.npz'}"), 2).shape == (3, 12, 12)
    assert placeholder_images(load_preset("smoke", dataset="cifar10", side=16), 2).shape == (3, 16, 16)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "fast", True])
def test_wrong_speeds(wrong):
    with pytest.raises(ValueError, match="sample_images_per_second = .*more than 0"):
        cost(SMOKE, train_images_per_second=1, sample_images_per_second=wrong)


@pytest.mark.parametrize("wrong", [3, 0, 2.5, True])
def test_wrong_steps(wrong):
    with pytest.raises(ValueError, match="steps = .*at least 4"):
        measure_speed(SMOKE, wrong)
