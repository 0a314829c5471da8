import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from collapse_nb.config import load_preset
from collapse_nb.data import Images, load_images
from collapse_nb.denoiser import NETWORKS, Denoiser, build_unet
from collapse_nb.diffusion import OBJECTIVES, TrainState, learning_rate, linear_alpha_bar, train
from collapse_nb.sampling import SAMPLERS, sample

MEAN, STD = 0.2, 0.25


class Gaussian(torch.nn.Module):
    "The exact answer of a network whose data is N(MEAN, STD^2) in every pixel."

    def __init__(self, objective):
        super().__init__()
        self.objective, self.anchor = objective, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t):
        t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1, 1, 1)
        if self.objective == "ddpm":
            signal = linear_alpha_bar().double()[t.long()]
            y = MEAN + STD**2 * signal.sqrt() / (STD**2 * signal + 1 - signal) * (x - signal.sqrt() * MEAN)
            return SimpleNamespace(sample=((x - signal.sqrt() * y) / (1 - signal).sqrt()).float())
        sigma = (4 * t).exp()
        total = sigma**2 + STD**2
        noisy = x * total.sqrt()
        y = MEAN + STD**2 / total * (noisy - MEAN)
        return SimpleNamespace(sample=((y - STD**2 / total * noisy) * total.sqrt() / (sigma * STD)).float())


def ideal(objective):
    return Denoiser(Gaussian(objective), objective, STD, (1, 8, 8))


@pytest.mark.parametrize("objective, sampler, steps", [
    ("ddpm", "ancestral", 1000), ("ddpm", "ddim", 250), ("ddpm", "dpm++", 20), ("edm", "ancestral", 250), ("edm", "ddim", 60), ("edm", "dpm++", 18)])
def test_every_sampler_recovers_a_known_gaussian(objective, sampler, steps):
    x = sample(ideal(objective), 64, sampler=sampler, steps=steps, seed=0).unit()
    assert x.mean() == pytest.approx(MEAN, abs=0.02) and x.std() == pytest.approx(STD, rel=0.06)


@pytest.mark.parametrize("objective", ["ddpm", "edm"])
def test_the_ideal_network_minimises_the_objective(objective):
    "The exact posterior mean must beat any rescaling of itself: target and input belong together."
    g = torch.Generator().manual_seed(0)
    y = torch.randn(4000, 1, 4, 4, generator=g) * STD + MEAN
    x, t, target = OBJECTIVES[objective](y, STD, g)
    out = Gaussian(objective)(x, t).sample
    losses = [torch.nn.functional.mse_loss(a * out, target).item() for a in (0.9, 1.0, 1.1)]
    assert losses[1] == min(losses)


def test_edm_target_and_input_have_unit_variance():
    y = torch.randn(4000, 1, 4, 4) * STD
    x, _, target = OBJECTIVES["edm"](y, STD, torch.Generator().manual_seed(0))
    assert x.std().item() == pytest.approx(1, abs=0.03) and target.std().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("width, parameters", [(32, 7_126_275), (48, 16_012_419), (64, 28_447_235)])
def test_the_papers_networks_have_the_papers_size(width, parameters):
    assert sum(p.numel() for p in build_unet(f"UNet{width}", (3, 32, 32), 0).parameters()) == parameters


def test_unet128_has_the_papers_size():
    with torch.device("meta"):  # its 454 MB need not be allocated to be counted
        from diffusers import UNet2DModel
        model = UNet2DModel(sample_size=32, in_channels=3, out_channels=3, **NETWORKS["UNet128"])
    assert sum(p.numel() for p in model.parameters()) == 113_673_219


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"8x8.*UNet48.*32"):
        build_unet("UNet48", (1, 8, 8), 0)
    with pytest.raises(ValueError, match="8x4"):
        build_unet("unet-16-32", (1, 8, 4), 0)


@pytest.fixture(scope="module")
def trained():
    config, images = load_preset("smoke"), load_images("digits", n=32)
    model = Denoiser.fresh(config.network, config.objective, images, seed=1)
    states = list(train(model, images, config, iteration=1))
    return config, images, model, states


def test_training_yields_its_state(trained):
    config, _, _, states = trained
    assert len(states) == config.train_steps and isinstance(states[-1], TrainState)
    assert states[-1].loss < states[0].loss


def test_the_same_seed_gives_the_same_images_and_another_iteration_others(trained):
    config, images, model, _ = trained
    again = Denoiser.fresh(config.network, config.objective, images, seed=1)
    for _ in train(again, images, config, iteration=1): pass
    other = Denoiser.fresh(config.network, config.objective, images, seed=1)
    for _ in train(other, images, config, iteration=2): pass
    a, b, c = (sample(m, 4, sampler="dpm++", steps=4, seed=0).pixels for m in (model, again, other))
    assert (a == b).all() and not (a == c).all()


def test_saved_and_loaded_by_us_and_by_diffusers(trained, tmp_path):
    from diffusers import EDMDPMSolverMultistepScheduler, UNet2DModel
    model = trained[2]
    model.save(tmp_path, SAMPLERS["dpm++"](model))
    loaded = Denoiser.load(tmp_path)
    assert dataclasses.replace(loaded, unet=None) == dataclasses.replace(model, unet=None)
    assert (sample(loaded, 4, sampler="dpm++", steps=4, seed=0).pixels == sample(model, 4, sampler="dpm++", steps=4, seed=0).pixels).all()
    unet = UNet2DModel.from_pretrained(tmp_path, subfolder="unet", low_cpu_mem_usage=False)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), model.unet.parameters()))
    assert EDMDPMSolverMultistepScheduler.from_pretrained(tmp_path, subfolder="scheduler").config.sigma_data == model.sigma_data
    with pytest.raises(FileNotFoundError, match="holds no denoiser"):
        Denoiser.load(tmp_path / "unet")


def test_an_image_does_not_depend_on_how_many_are_drawn(trained):
    model = trained[2]
    for sampler in ("dpm++", "ancestral"):
        many, few = (sample(model, n, sampler=sampler, steps=5, seed=3, batch_size=b).pixels for n, b in ((11, 4), (5, 256)))
        assert np.abs(many[:5].astype(int) - few.astype(int)).max() <= 1  # matrix products of another shape round the last level


def test_the_weight_average_is_the_formula():
    config, images = load_preset("smoke", train_steps=1, ema_decay=0.9, warmup_steps=0), load_images("digits", n=16)
    start, last, mean = (Denoiser.fresh(config.network, "edm", images, seed=0) for _ in range(3))
    for _ in train(last, images, dataclasses.replace(config, ema_decay=0.0), 1): pass
    for _ in train(mean, images, config, 1): pass
    for s, l, m in zip(*(x.unet.parameters() for x in (start, last, mean))):
        torch.testing.assert_close(m, s + (1 - 1 / 10) * (l - s))


def test_learning_rate_warms_up_and_ends_at_zero():
    config = load_preset("demo")
    rates = [learning_rate(k, config) for k in range(config.train_steps)]
    assert max(rates) == rates[config.warmup_steps] == config.learning_rate
    assert learning_rate(config.train_steps, config) == pytest.approx(0, abs=1e-12)

    from diffusers.optimization import get_cosine_schedule_with_warmup
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], config.learning_rate)
    schedule, theirs = get_cosine_schedule_with_warmup(optimizer, config.warmup_steps, config.train_steps), []
    for _ in range(config.train_steps):
        theirs.append(schedule.get_last_lr()[0]); optimizer.step(); schedule.step()
    np.testing.assert_allclose(rates, theirs, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("change, words", [
    (dict(n=0), "n = 0"), (dict(steps=0), "steps = 0"), (dict(sampler="euler"), "euler.*ancestral"),
    (dict(guidance=2.0), "guidance = 2.0.*unconditional"), (dict(labels=[1]), "unconditional")])
def test_bad_sampling_input(trained, change, words):
    with pytest.raises(ValueError, match=words):
        sample(trained[2], **dict(n=1, sampler="dpm++", steps=2, seed=0) | change)


def test_equal_images_and_a_diverging_loss_are_refused():
    config = load_preset("smoke")
    equal = Images(np.full((4, 1, 8, 8), 9, np.uint8))
    model = Denoiser.fresh(config.network, "edm", load_images("digits", n=8), 0)
    with pytest.raises(ValueError, match="all 4 images are equal"):
        next(train(model, equal, config, 1))
    with torch.no_grad():
        next(model.unet.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"loss of step 1 is nan"):
        next(train(model, load_images("digits", n=8), config, 1))


def test_the_papers_objective_and_sampler_are_a_preset_away():
    config, images = load_preset("ddpm-digits", train_steps=3, warmup_steps=1, sample_steps=4), load_images("digits", n=16)
    assert (config.objective, config.sampler, load_preset("ddpm-digits").sample_steps) == ("ddpm", "ancestral", 1000)
    model = Denoiser.fresh(config.network, config.objective, images, 0)
    for _ in train(model, images, config, 1): pass
    assert len(sample(model, 3, sampler=config.sampler, steps=config.sample_steps, seed=0)) == 3
