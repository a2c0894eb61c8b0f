"""Base-model families: prompts are encoded as in the pipelines themselves, for Stable Diffusion 1, 2 and XL."""

import json
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from helpers import tiny_models as tiny
from helpers.repository import ROOT
from PIL import Image

from sur_adapter.features.store import FeatureStore
from sur_adapter.generation.sampling import GenerateConfig, generate_images, image_jobs, initial_noise
from sur_adapter.models import stable_diffusion as diffusion
from sur_adapter.models.fingerprint import fingerprint

PROMPTS = ["three red circles", "masterpiece, a cat, 8k", "a " * 200, ""]


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def model(request, tmp_path_factory) -> str:
    return tiny.diffusion(tmp_path_factory.mktemp(request.param), request.param)


@torch.no_grad()
def pipeline_embeds(pipe, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """prompt_embeds and pooled_prompt_embeds by the pipeline."""
    answer = pipe.encode_prompt(prompt=prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    return answer[0], answer[2] if len(answer) == 4 else None


def test_text_encoders_give_what_the_pipelines_encode_prompt_gives(model):
    embeds, pooled = diffusion.TextEncoders(model)(PROMPTS)
    expected, expected_pooled = pipeline_embeds(diffusion.load_pipeline(model), PROMPTS)
    assert torch.allclose(embeds, expected, atol=1e-6) and embeds.shape == expected.shape
    assert (pooled is None) == (expected_pooled is None)
    assert pooled is None or torch.allclose(pooled, expected_pooled, atol=1e-6)


def test_cached_text_features_are_those_of_the_pipeline_rounded_to_fp16(model, tmp_path):
    rows, _ = tiny.pairs()
    tiny.extract("clip", rows, tmp_path / "clip", {"diffusion": model}, batch_size=3)
    store, pipe = FeatureStore(tmp_path / "clip"), diffusion.load_pipeline(model)
    features = store.rows(range(len(rows)))
    by_id = rows.set_index("id").loc[store.ids]
    for column in ("simple", "complex"):
        expected, pooled = pipeline_embeds(pipe, by_id[f"{column}_prompt"].tolist())
        for name, values in {column: expected, f"{column}_pooled": pooled}.items():
            assert (values is None) == (name not in features)
            if values is not None:
                assert features[name].dtype == torch.float16
                np.testing.assert_allclose(features[name].float(), values, rtol=2**-10, atol=1e-6)
    assert store.about["base_model"] == model and store.about["text_encoder"] == fingerprint(pipe.text_encoder)
    assert ("text_encoder_2" in store.about) == ("simple_pooled" in features)


def test_every_family_generates_images_with_its_own_pipeline_from_given_noise(model):
    pipe, jobs = diffusion.load_pipeline(model), image_jobs([{"id": "a"}, {"id": "b"}], ["a cat", "a dog"], 1)
    config = GenerateConfig(per_category=1, seeds=1, num_inference_steps=2, guidance_scale=3.0, batch_size=2)
    images = {key: data for key, _, data in generate_images(pipe, jobs, 32, config)}
    assert images.keys() == {"a-0", "b-0"} and images["a-0"] != images["b-0"]
    image = Image.open(BytesIO(images["b-0"]))
    sampling = {"num_inference_steps": 2, "guidance_scale": 3.0, "latents": initial_noise((1, 4, 4, 4), 0, "b", 0)}
    assert image.size == (32, 32)
    assert close(image, pipe("a dog", height=32, width=32, **sampling).images[0])
    if hasattr(pipe, "text_encoder_2"):  # SDXL depends on the image size
        assert not close(image, pipe("a dog", original_size=(512, 512), height=32, width=32, **sampling).images[0])


def close(one: Image.Image, other: Image.Image) -> bool:
    """Up to the rounding of sums in another order: 2 of 255."""
    return np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 2


def test_a_model_with_encoders_of_another_kind_is_refused_in_one_sentence(tmp_path):
    folder = tmp_path / "flux"
    folder.mkdir()
    index = {"_class_name": "FluxPipeline", "text_encoder": ["transformers", "CLIPTextModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder_2": ["transformers", "T5EncoderModel"]}))
    with pytest.raises(ValueError, match="whose text encoders are text_encoder CLIPTextModel, text_encoder_2 T5EncoderModel: name a"):
        diffusion.TextEncoders(str(folder))


def test_the_length_of_a_prompt_counts_its_tokens_without_padding(model):
    encoders = diffusion.TextEncoders(model)
    tokenizer = encoders.tokenizers[0]
    mask = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=tokenizer.model_max_length).attention_mask
    assert encoders.lengths(PROMPTS).tolist() == [sum(row) for row in mask] and len(set(encoders.lengths(PROMPTS).tolist())) == 4


def test_latents_are_shifted_and_scaled_as_the_vae_config_says():
    latents = torch.tensor([1.0, 3.0])
    assert diffusion.scale_latents(latents, {"scaling_factor": 0.5}).tolist() == [0.5, 1.5]
    assert diffusion.scale_latents(latents, {"scaling_factor": 0.5, "shift_factor": None}).tolist() == [0.5, 1.5]
    assert diffusion.scale_latents(latents, {"scaling_factor": 0.5, "shift_factor": 1.0}).tolist() == [0.0, 1.0]
    assert diffusion.scale_latents(latents, {}).tolist() == pytest.approx([0.18215, 0.54645])  # SD 1.x configs that name no factor


def test_the_unet_call_predicts_what_the_unet_does_in_its_own_dtype(model):
    unet, _ = diffusion.load_frozen_unet(model, "cpu", torch.bfloat16)
    torch.manual_seed(0)
    noisy_latents, timesteps, prompt_embeds = (
        torch.randn(2, 4, 8, 8),
        torch.tensor([3, 700]),
        torch.randn(2, 5, unet.config.cross_attention_dim),
    )
    if unet.config.addition_embed_type is None:
        expected = unet(noisy_latents.bfloat16(), timesteps, prompt_embeds.bfloat16()).sample
        features = diffusion.predict_noise(unet, noisy_latents, timesteps, prompt_embeds)
        assert features.dtype == torch.float32 and torch.equal(features, expected.float())
        return
    with pytest.raises(ValueError, match="this U-Net needs pooled prompt embeddings \\(SDXL\\)"):
        diffusion.predict_noise(unet, noisy_latents, timesteps, prompt_embeds)
    pooled, uncropped = torch.randn(2, 24), torch.tensor([[64, 64, 0, 0, 64, 64]] * 2)
    features = diffusion.predict_noise(unet, noisy_latents, timesteps, prompt_embeds, pooled)
    assert torch.equal(features, diffusion.predict_noise(unet, noisy_latents, timesteps, prompt_embeds, pooled, uncropped))
    assert not torch.equal(features, diffusion.predict_noise(unet, noisy_latents, timesteps, prompt_embeds, pooled, uncropped + 8))


def test_a_unet_with_conditions_of_another_kind_is_refused(model):
    unet, _ = diffusion.load_frozen_unet(model, "cpu", torch.float32)
    unet.register_to_config(addition_embed_type="text_image")
    with pytest.raises(ValueError, match="conditions of the kind 'text_image': params.yaml: models.diffusion must be"):
        diffusion.predict_noise(unet, torch.zeros(1, 4, 8, 8), torch.tensor([1]), torch.zeros(1, 5, 32))


def test_training_on_cached_features_imports_neither_diffusers_nor_transformers():
    code = "import sys, stages.train; print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]
