"""Other people's networks, and what is wrong with a folder of one."""

import json

import pytest
import torch

from collapse_nb.data import load_images
from collapse_nb.denoiser import Denoiser, import_diffusers
from collapse_nb.sampling import sample


def unet(**more):
    torch.manual_seed(0)
    sizes = dict(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
    blocks = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    return import_diffusers().UNet2DModel(**sizes | blocks | more)


def pipeline(folder, network=None, **schedule):
    diffusers = import_diffusers()
    diffusers.DDPMPipeline(network or unet(), diffusers.DDPMScheduler(**schedule)).save_pretrained(folder)
    return folder


@pytest.fixture
def ours(tmp_path):
    Denoiser.fresh("unet-16-32", "ddpm", load_images("digits", n=20), 0).save(tmp_path / "ours")
    return tmp_path / "ours"


def test_a_ddpm_pipeline_is_a_denoiser(tmp_path):
    network = unet()
    model = Denoiser.load(pipeline(tmp_path / "p", network))
    assert (model.objective, model.shape, model.num_classes) == ("ddpm", (1, 8, 8), None)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 500])
    with torch.no_grad(): assert (model.unet(x, t).sample == network.eval()(x, t).sample).all()
    assert sample(model, 2, sampler="ddim", steps=3, seed=0).shape == (1, 8, 8)


@pytest.mark.parametrize("schedule, words", [
    (dict(beta_schedule="squaredcos_cap_v2"), "beta_schedule = 'squaredcos_cap_v2'.*allowed: .*linear"), (dict(num_train_timesteps=400), "num_train_timesteps = 400"),
    (dict(prediction_type="v_prediction"), "prediction_type = 'v_prediction'"), (dict(beta_end=0.01), "beta_end = 0.01")])
def test_a_pipeline_of_another_schedule_is_refused(tmp_path, schedule, words):
    with pytest.raises(ValueError, match=f"scheduler_config.json: {words}"): Denoiser.load(pipeline(tmp_path / "p", **schedule))


def test_other_pipelines(tmp_path):
    with pytest.raises(ValueError, match="num_class_embeds = 10 .allowed: .*no classes"): Denoiser.load(pipeline(tmp_path / "a", unet(num_class_embeds=10)))
    folder = pipeline(tmp_path / "b")
    (folder / "model_index.json").write_text(json.dumps(dict(_class_name="StableDiffusionPipeline")))
    with pytest.raises(ValueError, match="model_index.json is of a StableDiffusionPipeline .allowed: DDPMPipeline"): Denoiser.load(folder)
    with pytest.raises(FileNotFoundError, match="nothing holds no denoiser .expected denoiser.json and unet/, or a DDPMPipeline"): Denoiser.load(tmp_path / "nothing")


def test_a_network_of_classes_is_told_some():
    with pytest.raises(ValueError, match="num_classes = None, and the UNet is told one of 10 labels .allowed: num_classes = 9"):
        Denoiser(unet(num_class_embeds=10), "ddpm", 0.5, (1, 8, 8))
    assert Denoiser(unet(num_class_embeds=10), "ddpm", 0.5, (1, 8, 8), num_classes=9).num_classes == 9


def test_a_misspelt_objective():
    with pytest.raises(ValueError, match="objective = 'edmm'.*edm"): Denoiser(unet(), "edmm", 0.5, (1, 8, 8))


@pytest.mark.parametrize("text, words", [
    ('{"shape": [1, 8', "denoiser.json is broken"), ("[1, 2]", "denoiser.json holds a list"), ("", "denoiser.json is broken"), ('{"objective": "ddpm"}', "does not say shape, sigma_data")])
def test_a_denoiser_json_of_another_kind(ours, text, words):
    (ours / "denoiser.json").write_text(text)
    with pytest.raises(ValueError, match=words): Denoiser.load(ours)


def test_a_newer_denoiser_json(ours):
    about = json.loads((ours / "denoiser.json").read_text())
    (ours / "denoiser.json").write_text(json.dumps(about | dict(flavour="new")))
    with pytest.raises(ValueError, match="denoiser.json says flavour, which this version does not know: a newer one.*allowed: objective, sigma_data"):
        Denoiser.load(ours)


def test_more_steps_than_the_schedule_has():
    from collapse_nb.denoiser import check_steps
    with pytest.raises(ValueError, match="steps = 1001 with objective = 'ddpm' .allowed: at most its 1000 steps"): check_steps("ddpm", 1001)
    check_steps("ddpm", 1000); check_steps("edm", 5000)
