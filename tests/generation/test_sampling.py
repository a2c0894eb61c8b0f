"""Images of an arm are named by prompt and seed; their initial noise depends neither on the arm nor on the batch."""

from io import BytesIO
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from helpers.repository import ROOT
from PIL import Image

from sur_adapter.config import from_dict
from sur_adapter.generation.sampling import GenerateConfig, generate_images, image_jobs
from sur_adapter.models.stable_diffusion import SCHEDULERS, load_pipeline
from sur_adapter.models.torch_utils import has_bf16

ROWS = [{"id": "a"}, {"id": "b"}, {"id": "c"}]
TEXTS = ["three red circles", "a blue star waves", "two cats"]


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline(str(ROOT / "models/miniature/stable-diffusion"))


def images(pipe, texts=TEXTS, **settings) -> dict[str, np.ndarray]:
    config = GenerateConfig(**{"per_category": 1, "seeds": 2, "num_inference_steps": 3, "guidance_scale": 3.0, "batch_size": 6} | settings)
    generated = generate_images(pipe, image_jobs(ROWS, texts, config.seeds), 64, config)
    return {key: np.asarray(Image.open(BytesIO(data))).astype(float) for key, _, data in generated}


def test_each_prompt_has_an_image_per_seed_at_any_batch_size(pipe):
    together, alone = images(pipe), images(pipe, batch_size=1)
    assert list(together) == list(alone) == ["a-0", "a-1", "b-0", "b-1", "c-0", "c-1"]
    for key, image in together.items():
        assert np.abs(image - alone[key]).mean() < 0.5
    assert np.abs(together["a-0"] - together["a-1"]).mean() > 5


def test_changing_one_prompt_does_not_change_the_noise_of_the_others(pipe):
    before, after = images(pipe), images(pipe, ["four green stars", *TEXTS[1:]])
    assert np.abs(before["a-0"] - after["a-0"]).mean() > 1
    assert np.abs(before["b-0"] - after["b-0"]).mean() < 0.5


def test_bf16_gives_the_same_images_up_to_rounding(pipe):
    exact, rounded = images(pipe), images(pipe, precision="bf16")
    differences = [np.abs(exact[key] - rounded[key]).mean() for key in exact]
    assert max(differences) < 3
    assert (max(differences) > 0) == has_bf16("cpu"), "without instructions for bf16 products are fp32"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_draws_the_same_image_in_any_batch_and_again(name):
    sampler = load_pipeline(str(ROOT / "models/miniature/stable-diffusion"), name)
    together, again, alone = images(sampler), images(sampler), images(sampler, batch_size=1)
    assert all((together[key] == again[key]).all() for key in together), "a scheduler draws no noise and keeps no state"
    assert all(np.abs(together[key] - alone[key]).mean() < 0.5 for key in together)


def test_a_scheduler_has_its_options_and_the_noise_levels_of_the_model(pipe):
    for name, (class_name, options) in SCHEDULERS.items():
        scheduler = load_pipeline(str(ROOT / "models/miniature/stable-diffusion"), name).scheduler
        assert type(scheduler).__name__ == class_name and scheduler.config.items() >= options.items()
        assert torch.equal(scheduler.alphas_cumprod, pipe.scheduler.alphas_cumprod)
    assert type(pipe.scheduler).__name__ == "DDIMScheduler", "null is the model's own"


def test_the_names_of_schedulers_are_those_that_params_yaml_takes():
    assert set(SCHEDULERS) == set(get_args(get_args(get_type_hints(GenerateConfig)["scheduler"])[0]))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"precision": "fp12"}, "generate.precision is 'fp12' .*: choose fp32 or bf16 or fp16"),
        ({"seeds": 0}, "generate.seeds is 0: give a whole number of at least 1"),
        ({"num_inference_steps": "many"}, "generate.num_inference_steps is 'many': give a whole number"),
        ({"scheduler": "dpmpp_2m_caras"}, r"generate.scheduler is 'dpmpp_2m_caras' \(did you mean 'dpmpp_2m_karras'\?\)"),
        ({"guidance": 3.0}, r"generate.guidance is unknown \(did you mean 'guidance_scale'\?\)"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_sentence(changes, sentence):
    settings = {"per_category": 1, "seeds": 2, "num_inference_steps": 3, "guidance_scale": 3.0}
    with pytest.raises(ValueError, match=f"params.yaml: {sentence}"):
        from_dict(GenerateConfig, settings | changes, "generate")
