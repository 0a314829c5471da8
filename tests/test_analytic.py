"""The exact denoisers, the solvers against them, and what the metrics say of the two."""

import numpy as np
import pytest
import torch

from collapse_nb.analytic import EmpiricalDenoiser, GaussianDenoiser
from collapse_nb.data import Images, load_images
from collapse_nb.denoiser import linear_alpha_bar, noise_of_time, preconditioning, time_of_noise
from collapse_nb.entropy import kl_entropy
from collapse_nb.metrics import generalization_score, memorized_fraction
from collapse_nb.objectives import OBJECTIVES
from collapse_nb.sampling import SAMPLERS, draw_labels, predict, sample, sample_batch

BOTH = pytest.mark.parametrize("objective", ["ddpm", "edm"])
SOLVERS = [("ancestral", 1000), ("ddim", 250), ("dpm++", 25), ("heun", 65)]


@pytest.fixture(scope="module")
def narrow():
    "Correlated images of four pixels, whose distribution does not reach the ends of the pixels' range."
    g = np.random.default_rng(0)
    mix = np.array([[30, 0, 0, 0], [20, 12, 0, 0], [-10, 5, 15, 0], [0, 0, 8, 6]])
    return Images(np.rint(g.normal(size=(500, 4)) @ mix.T + [120, 140, 110, 100]).clip(0, 255).astype(np.uint8).reshape(-1, 1, 2, 2))


@pytest.fixture(scope="module")
def points():
    return load_images("digits", n=6)


@BOTH
@pytest.mark.parametrize("sampler, steps", SOLVERS)
def test_samples_of_the_gaussian_have_its_mean_and_covariance(narrow, objective, sampler, steps):
    x = sample(GaussianDenoiser(narrow, objective), 500, sampler=sampler, steps=steps, seed=0, batch_size=500).flat().astype(float)
    d = narrow.flat().astype(float)
    scale = np.sqrt(np.trace(np.cov(d.T)))
    assert np.linalg.norm(x.mean(0) - d.mean(0)) < 0.1 * scale  # its standard error is 0.045
    assert np.linalg.norm(np.cov(x.T) - np.cov(d.T)) < 0.15 * np.linalg.norm(np.cov(d.T))
    assert np.corrcoef(x.T)[0, 1] == pytest.approx(np.corrcoef(d.T)[0, 1], abs=0.08)


def solution(model, sigma_max, n):
    "Where the probability flow takes n draws of noise, in closed form; and the generators of those draws."
    u = model.unet
    x = torch.stack([torch.randn(model.shape, generator=torch.Generator().manual_seed(j)) for j in range(n)]).flatten(1).double() * sigma_max
    shrink = (u.variances / (u.variances + sigma_max**2)).sqrt()
    return u.points + ((x - u.points) @ u.axes.T * shrink) @ u.axes


@BOTH
@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("heun", 2), ("dpm++", 2)])
def test_deterministic_solvers_converge_to_the_exact_flow(narrow, objective, sampler, order):
    model = GaussianDenoiser(narrow, objective)
    sigma_max = float(noise_of_time("ddpm", torch.tensor(999.0))) if objective == "ddpm" else 20.0
    exact, errors = solution(model, sigma_max, 16), []
    for steps in (9, 17, 33, 129):
        generators = [torch.Generator().manual_seed(j) for j in range(16)]
        x = sample_batch(model, SAMPLERS[sampler](model), steps, generators).flatten(1).double()
        errors.append(float((x - exact).square().mean().sqrt()))
    assert errors == sorted(errors, reverse=True) or errors[-1] < 2e-3
    assert errors[-1] < (2e-2 if order == 1 else 3e-3)
    if order == 2 and errors[0] > 0.03: assert errors[0] / errors[2] > 8  # 16 for a second order, 4 for a first


@BOTH
@pytest.mark.parametrize("sampler, steps", [("ancestral", 100), ("ddim", 20), ("dpm++", 18), ("heun", 17)])
def test_samples_of_perfect_memory_are_the_training_images(points, objective, sampler, steps):
    x = sample(EmpiricalDenoiser(points, objective), 24, sampler=sampler, steps=steps, seed=1)
    known = [p.tobytes() for p in points.pixels]
    found = [p.tobytes() for p in x.pixels]
    assert set(found) <= set(known) and len(set(found)) > 1


def test_perfect_memory_against_its_sum_written_out(points):
    y, s = torch.from_numpy(points.unit()).flatten(1).double(), 0.7
    x = y[:1] + s * torch.randn(1, 64, generator=torch.Generator().manual_seed(0)).double()
    w = [np.exp(-float((x - z).square().sum()) / (2 * s * s)) for z in y]
    mean = sum(a * z for a, z in zip(w, y)) / sum(w)
    found = EmpiricalDenoiser(points).unet.mean(x, torch.full((1, 1), s, dtype=torch.float64), None)
    torch.testing.assert_close(found[0], mean)


@BOTH
def test_the_interface_returns_what_the_objective_asks_for(points, objective):
    "No other output has a smaller loss than the exact one; both objectives ask for the same clean image."
    y = torch.from_numpy(points.unit())[torch.randint(6, (3000,), generator=torch.Generator().manual_seed(0))]
    model = EmpiricalDenoiser(points, objective)
    generator, asked = torch.Generator().manual_seed(1), OBJECTIVES[objective]
    levels, noise = asked.levels(len(y), generator), torch.randn(y.shape, generator=generator)
    x, t, target = asked.question(y, noise, levels, model.sigma_data)
    out = model.unet(x, t).sample
    other = GaussianDenoiser(points, objective).unet(x, t).sample
    losses = [torch.nn.functional.mse_loss(o, target).item() for o in (0.9 * out, out, 1.1 * out, other)]
    assert losses[1] == min(losses) and out.dtype == torch.float32 and out.shape == y.shape


def test_noise_levels_there_and_back():
    t = torch.arange(1000)
    signal = linear_alpha_bar().double()
    torch.testing.assert_close(noise_of_time("ddpm", t), ((1 - signal) / signal).sqrt())
    torch.testing.assert_close(time_of_noise("ddpm", noise_of_time("ddpm", t + 0.25 * (t < 999))), t + 0.25 * (t < 999).double())
    sigma = torch.tensor([0.01, 1.0, 20.0], dtype=torch.float64)
    torch.testing.assert_close(noise_of_time("edm", time_of_noise("edm", sigma)), sigma)
    c_in, c_skip, c_out = preconditioning("edm", sigma, 0.5)
    torch.testing.assert_close((c_in * (sigma**2 + 0.25).sqrt()), torch.ones(3).double())
    torch.testing.assert_close((c_skip - 1)**2 * 0.25 + c_skip**2 * sigma**2, c_out**2)  # the target has unit variance


@pytest.mark.parametrize("steps", [1, 2, 7, 18])
@BOTH
def test_steps_are_network_evaluations(points, objective, steps):
    "Counted at the network, never more than asked for; Heun leaves one of an even number unused."
    for sampler in SAMPLERS:
        model, calls = EmpiricalDenoiser(points, objective), []
        model.unet.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        sample(model, 2, sampler=sampler, steps=steps, seed=0)
        assert len(calls) == (steps - (steps % 2 == 0) if sampler == "heun" else steps), sampler


def test_the_two_ends():
    "A loop of perfect memory loses images and never makes one; the Gaussian's never copies."
    real = load_images("digits", n=64)
    entropies, d = [kl_entropy(real)], real
    for n in range(3):
        g = sample(EmpiricalDenoiser(d), 64, sampler="dpm++", steps=12, seed=n)
        assert generalization_score(g, d) == 0 and memorized_fraction(g, d) == 1
        d = g
        entropies.append(kl_entropy(d))
    assert entropies == sorted(entropies, reverse=True) and generalization_score(d, real) == 0
    g = sample(GaussianDenoiser(real), 64, sampler="dpm++", steps=12, seed=0)
    heldout = load_images("digits", split="heldout")
    assert memorized_fraction(g, real) == 0
    assert generalization_score(g, real) > generalization_score(heldout, real)
    assert kl_entropy(g) > entropies[1]


def test_told_a_label_it_remembers_that_class_alone():
    images = load_images("digits", n=60)
    model = EmpiricalDenoiser(images, num_classes=10)
    x = sample(model, 30, sampler="dpm++", steps=12, seed=0)
    label_of = {p.tobytes(): l for p, l in zip(images.pixels, images.labels)}
    assert [label_of[p.tobytes()] for p in x.pixels] == x.labels.tolist()
    y = sample(model, 5, sampler="dpm++", steps=12, seed=0, labels=3)
    assert {label_of[p.tobytes()] for p in y.pixels} == {3} and y.labels.tolist() == [3] * 5
    free = sample(EmpiricalDenoiser(images), 8, sampler="dpm++", steps=12, seed=0)
    null = sample(model, 8, sampler="dpm++", steps=12, seed=0, guidance=0)  # guidance 0: the label is not listened to
    assert (free.pixels == null.pixels).all()


def test_guidance_is_its_formula_in_one_call():
    images = load_images("digits", n=60)
    model, calls = EmpiricalDenoiser(images, num_classes=10), []
    g = torch.Generator().manual_seed(0)
    x, t, labels = torch.randn(4, 1, 8, 8, generator=g), torch.tensor(0.1), torch.tensor([1, 5, 5, 9])
    told, null = (model.unet(x, t, l).sample for l in (labels, torch.full_like(labels, 10)))
    model.unet.register_forward_hook(lambda m, args, out: calls.append(len(args[0])))
    torch.testing.assert_close(predict(model, x, t, labels, 2.5), null + 2.5 * (told - null))
    assert calls == [8]
    assert torch.equal(predict(model, x, t, labels, 1.0), told) and torch.equal(predict(model, x, t, labels, None), told)
    assert calls == [8, 4, 4]


def test_labels_match_the_training_set_and_their_first_part_stays():
    model = EmpiricalDenoiser(load_images("digits", n=60), num_classes=10)
    labels = draw_labels(model, 150, seed=3)
    for part in (labels[:60], labels[60:120]): assert tuple(np.bincount(part, minlength=10)) == model.class_counts
    assert (draw_labels(model, 40, seed=3) == labels[:40]).all() and not (draw_labels(model, 60, seed=4) == labels[:60]).all()
    assert not (labels[:60] == labels[60:120]).all()
    x = sample(model, 40, sampler="ddim", steps=3, seed=3)
    assert (x.labels == labels[:40]).all() and x.labels.dtype == np.int64


@pytest.mark.parametrize("change, words", [
    (dict(labels=[0, 10, 1]), "label 10.*0 to 9"), (dict(labels=-1), "label -1"), (dict(labels=[1, 2]), r"shape \[2\].*3"),
    (dict(labels=[0.5, 1, 2]), "float64"), (dict(guidance=-1), "guidance = -1"), (dict(guidance=float("nan")), "guidance = nan"),
    (dict(guidance="much"), "guidance = 'much'")])
def test_bad_requests_to_a_conditional_model(change, words):
    model = EmpiricalDenoiser(load_images("digits", n=60), num_classes=10)
    with pytest.raises(ValueError, match=words):
        sample(model, 3, **dict(sampler="dpm++", steps=2, seed=0) | change)


def test_what_analytic_models_refuse(points, tmp_path):
    with pytest.raises(ValueError, match="no weights to save"): GaussianDenoiser(points).save(tmp_path)
    with pytest.raises(ValueError, match="class 1 has no images"):
        EmpiricalDenoiser(Images(points.pixels, np.array([0, 0, 2, 2, 2, 2])), num_classes=3)
    with pytest.raises(ValueError, match="no labels"): EmpiricalDenoiser(Images(points.pixels), num_classes=3)
    with pytest.raises(ValueError, match="objective = 'vp'"): EmpiricalDenoiser(points, "vp")
