import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from collapse_nb import sampling
from collapse_nb.config import load_preset
from collapse_nb.data import Images, load_images
from collapse_nb.denoiser import Denoiser, build_unet
from collapse_nb.diffusion import TrainState, learning_rate, train
from collapse_nb.objectives import edm_levels, edm_question
from collapse_nb.sampling import SAMPLERS, sample, sample_batch

STD = 0.25

def test_edm_target_and_input_have_unit_variance():
    y = torch.randn(4000, 1, 4, 4) * STD
    generator = torch.Generator().manual_seed(0)
    levels, noise = edm_levels(len(y), generator), torch.randn(y.shape, generator=generator)
    x, _, target = edm_question(y, noise, levels, STD)
    assert x.std().item() == pytest.approx(1, abs=0.03) and target.std().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("width, parameters", [(32, 7_126_275), (48, 16_012_419), (64, 28_447_235)])
def test_the_papers_networks_have_the_papers_size(width, parameters):
    assert sum(p.numel() for p in build_unet(f"UNet{width}", (3, 32, 32), 0).parameters()) == parameters


def test_unet128_has_the_papers_size():
    with torch.device("meta"):  # its 455 MB need not be allocated to be counted
        assert sum(p.numel() for p in build_unet("UNet128", (3, 32, 32), 0).parameters()) == 113_673_219


def test_a_class_conditional_network_has_one_class_more():
    plain, told = (build_unet("unet-16-32", (1, 8, 8), 0, k) for k in (None, 10))
    assert told.class_embedding.weight.shape == (11, 64)
    assert sum(p.numel() for p in told.parameters()) - sum(p.numel() for p in plain.parameters()) == 11 * 64
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(0.1)
    a, b, null = (told(x, t, torch.tensor([k, k])).sample for k in (0, 9, 10))
    assert not torch.equal(a, b) and not torch.equal(b, null)


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


def test_sampling_continues_after_the_last_finished_batch(trained, tmp_path, monkeypatch):
    model, made, one = trained[2], [], sampling.sample_batch
    monkeypatch.setattr(sampling, "sample_batch", lambda m, s, k, generators, *more: made.append(len(generators)) or one(m, s, k, generators, *more))
    about = dict(sampler="ancestral", steps=4, seed=3, batch_size=4, keep=tmp_path)
    whole = sample(model, 10, **about | dict(keep=None), tell=(told := []).append).pixels
    assert told == [4, 8, 10] and not list(tmp_path.iterdir())
    def stop(done):
        if done == 8: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): sample(model, 10, **about, tell=stop)
    made.clear()
    assert (sample(model, 10, **about, tell=(told := []).append).pixels == whole).all() and made == [2] and told == [10]
    for change in (dict(seed=4), dict(steps=5), dict(sampler="ddim"), dict(batch_size=5)):  # another request: nothing is taken up
        made.clear()
        sample(model, 10, **about | change)
        assert sum(made) == 10
    other = copy.deepcopy(model)
    with torch.no_grad(): next(other.unet.parameters()).mul_(1.5)
    made.clear()
    assert (sample(other, 10, **about).pixels != whole).any() and made == [4, 4, 2]  # other weights
    file = sorted(tmp_path.glob("*/00000008.npy"))[0]
    assert np.load(file).shape == (2, 1, 8, 8) and not list(tmp_path.rglob("*.part"))


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


@pytest.fixture(scope="module")
def ddpm():
    config, images = load_preset("smoke", objective="ddpm", train_steps=5, warmup_steps=1), load_images("digits", n=16)
    model = Denoiser.fresh(config.network, "ddpm", images, 0)
    for _ in train(model, images, config, 1): pass
    return model


def generators(n): return [torch.Generator().manual_seed(40 + j) for j in range(n)]


@pytest.mark.parametrize("sampler, steps, batch", [("ancestral", 1000, 2), ("ancestral", 60, 1), ("ddim", 30, 4), ("dpm++", 12, 4)])
def test_a_ddpm_pipeline_draws_what_we_draw(ddpm, tmp_path, sampler, steps, batch):
    "diffusers' DDPMPipeline, loaded from our directory: from the same generators the same images, before rounding."
    from diffusers import DDPMPipeline
    ddpm.save(tmp_path, SAMPLERS[sampler](ddpm))
    pipeline = DDPMPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(batch_size=batch, generator=generators(batch), num_inference_steps=steps, output_type="pt").images
    ours = sample_batch(ddpm, SAMPLERS[sampler](ddpm), steps, generators(batch))
    clipped = (ours / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(clipped, theirs, rtol=0, atol=1e-5)  # weights read from a file lie elsewhere, which moves the last bit of some sums
    assert clipped.std() > 0.05
    if sampler == "ancestral":  # the same weights in the same place: the same bits
        pipeline = DDPMPipeline(ddpm.unet, SAMPLERS[sampler](ddpm))
        pipeline.set_progress_bar_config(disable=True)
        assert torch.equal(pipeline(batch_size=batch, generator=generators(batch), num_inference_steps=steps, output_type="pt").images, clipped)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm++", "heun"])
def test_diffusers_samples_an_edm_model_with_the_scheduler_beside_it(trained, tmp_path, sampler):
    import diffusers
    model, steps = trained[2], 9
    model.save(tmp_path, SAMPLERS[sampler](model))
    assert not (tmp_path / "model_index.json").exists()  # DDPMPipeline does not scale inputs
    name = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
    scheduler = getattr(diffusers, name).from_pretrained(tmp_path, subfolder="scheduler")
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False).eval()
    scheduler.set_timesteps(steps)
    g = generators(3)
    x = torch.stack([torch.randn(model.shape, generator=i) for i in g]) * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(scheduler.scale_model_input(x, t), t).sample, t, x, generator=g).prev_sample
    ours = sample_batch(model, SAMPLERS[sampler](model), steps, generators(3))
    if sampler == "heun": assert torch.isfinite(x).all() and x.shape == ours.shape  # diffusers has Euler's method for it
    else: assert torch.equal(x, ours)


def test_heun_for_a_ddpm_model_agrees_with_diffusers(ddpm, tmp_path):
    from diffusers import HeunDiscreteScheduler
    SAMPLERS["heun"](ddpm).save_pretrained(tmp_path)
    scheduler, g = HeunDiscreteScheduler.from_pretrained(tmp_path), generators(3)
    scheduler.set_timesteps(6)  # 6 steps are 11 evaluations
    assert len(scheduler.timesteps) == 11
    x = torch.stack([torch.randn(ddpm.shape, generator=i) for i in g]) * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps: x = scheduler.step(ddpm.unet(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    torch.testing.assert_close(sample_batch(ddpm, SAMPLERS["heun"](ddpm), 11, generators(3)), x, rtol=0, atol=1e-3)


def test_no_ddpm_solver_blows_up(ddpm):
    "An untrained network under the paper's schedule: its guesses are off by hundreds, what comes out is not."
    wild = dataclasses.replace(ddpm, unet=build_unet("unet-16-32", (1, 8, 8), 3))
    with torch.no_grad(): wild.unet.conv_out.weight.mul_(30)
    for sampler in SAMPLERS:
        for steps in (1 if sampler != "ancestral" else 2, 5, 20):
            x = sample_batch(wild, SAMPLERS[sampler](wild), steps, generators(4))
            assert x.abs().max() <= 1.001, (sampler, steps)


def saved(model, folder):
    model.save(folder, SAMPLERS["ancestral"](model))
    return folder


def test_checkpoints_that_cannot_be_read_are_named(trained, tmp_path):
    folder = saved(trained[2], tmp_path)
    weights, about, unet = folder / "unet" / "diffusion_pytorch_model.safetensors", folder / "denoiser.json", folder / "unet" / "config.json"
    for file in (weights, about, unet):
        whole = file.read_bytes()
        for broken in (whole[:len(whole) // 2], b""):
            file.write_bytes(broken)
            with pytest.raises(ValueError, match=f"{file.name}.*broken"): Denoiser.load(folder)
        file.unlink()
        with pytest.raises(FileNotFoundError, match="denoiser.json" if file == about else file.name): Denoiser.load(folder)
        file.write_bytes(whole)
    about.write_text("{}")
    with pytest.raises(ValueError, match=r"denoiser\.json does not say objective, shape, sigma_data"): Denoiser.load(folder)


@pytest.mark.parametrize("network, shape, classes, words", [
    ("unet-16-32", (1, 16, 16), None, r"config\.json.*\[1, 16, 16, None\].*\[1, 8, 8, None\]"),
    ("unet-16-32", (3, 8, 8), None, r"config\.json.*\[3, 8, 8"),
    ("unet-16-32", (1, 8, 8), 10, r"config\.json.*10\]"), ("unet-32-64", (1, 8, 8), None, r"safetensors is of another network: .*shape \[")])
def test_parts_of_different_checkpoints_do_not_mix(trained, tmp_path, network, shape, classes, words):
    a, b = saved(trained[2], tmp_path / "a"), tmp_path / "b"
    build_unet(network, shape, 0, classes).save_pretrained(b)
    file = "config.json" if "config" in words else "diffusion_pytorch_model.safetensors"
    (a / "unet" / file).write_bytes((b / file).read_bytes())
    with pytest.raises(ValueError, match=words): Denoiser.load(a)


def test_a_conditional_model_is_saved_with_its_classes(tmp_path):
    images = load_images("digits", n=30)
    model = Denoiser.fresh("unet-16-32", "ddpm", images, 0, num_classes=10)
    loaded = Denoiser.load(saved(model, tmp_path))
    assert dataclasses.replace(loaded, unet=None) == dataclasses.replace(model, unet=None) and sum(loaded.class_counts) == 30
    assert not (tmp_path / "model_index.json").exists()  # DDPMPipeline passes no labels
    draw = lambda m: sample(m, 3, sampler="ddim", steps=3, seed=0, guidance=2.0)
    assert (draw(loaded).pixels == draw(model).pixels).all() and (draw(loaded).labels == draw(model).labels).all()


def test_loading_moves_no_random_number(trained, tmp_path):
    saved(trained[2], tmp_path)
    torch.manual_seed(0); a = torch.rand(3)
    torch.manual_seed(0); Denoiser.load(tmp_path); b = torch.rand(3)
    assert torch.equal(a, b)
