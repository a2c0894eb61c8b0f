"""All stages of the miniature's training, with two steps each: their outputs load with from_pretrained."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from ruamel.yaml import YAML
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, BlipForConditionalGeneration, BlipProcessor, CLIPModel, CLIPTextModel

from miniature.pretrain import blip, card, clip, diffusion, llama, vae, world

PARAMS = YAML(typ="safe").load(Path(world.__file__).parents[1] / "params.yaml")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("made")
    drawn, models = path / "world", path / "models"

    def short(section):
        return PARAMS[section] | {"steps": 2, "batch": 16}

    world.main(drawn, settings=PARAMS["scattered"] | {"count": 1000})
    vae.main(drawn, path / "c/vae.pt", models / "stable-diffusion/vae", vae=short("vae") | {"decoder": {"steps": 2, "lr": 0.001}})
    for name in ("clip", "clip-eval"):
        clip.main(drawn, path / f"c/{name}.pt", models / name, settings=short(name))
    diffusion.main(
        drawn,
        models / "stable-diffusion/vae",
        models / "clip",
        path / "c/unet.pt",
        models / "stable-diffusion",
        diffusion=short("diffusion") | {"again": {"steps": 2}},
    )
    blip.main(drawn, path / "c/blip.pt", models / "blip", blip=short("blip"))
    llama.main(drawn, path / "c/llama.pt", models / "llama", llama=short("llama") | {"again": PARAMS["llama"]["again"] | {"steps": 2}})
    return models


def test_all_weights_are_half_precision_safetensors_of_at_most_34_megabytes(made):
    files = list(made.rglob("*.safetensors"))
    assert len(files) == 7 and not list(made.rglob("*.bin"))
    for file in files:
        with safe_open(file, "pt") as tensors:
            assert {tensors.get_tensor(k).dtype for k in tensors.keys()} <= {torch.float16, torch.int64}  # noqa: SIM118
    assert sum(f.stat().st_size for f in files) <= 34e6


def test_plain_from_pretrained_gives_models_that_run_on_a_cpu(made):
    pipe = StableDiffusionPipeline.from_pretrained(made / "stable-diffusion", safety_checker=None)
    assert pipe("a red circle", num_inference_steps=2, output_type="np").images.shape == (1, 64, 64, 3)
    for cls, name in (
        (CLIPModel, "clip"),
        (CLIPModel, "clip-eval"),
        (BlipForConditionalGeneration, "blip"),
        (AutoModelForCausalLM, "llama"),
    ):
        assert cls.from_pretrained(made / name).dtype == torch.float32
    assert BlipProcessor.from_pretrained(made / "blip").tokenizer.decode([7]).isalpha()
    assert (
        AutoTokenizer.from_pretrained(made / "llama").decode(AutoTokenizer.from_pretrained(made / "llama")("three circles").input_ids[1:])
        == "three circles"
    )


def test_the_pipelines_text_encoder_is_clips_text_tower_bit_for_bit(made):
    a = CLIPTextModel.from_pretrained(made / "clip").state_dict()
    b = CLIPTextModel.from_pretrained(made / "stable-diffusion/text_encoder").state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_model_card_has_all_its_values_and_sample_images(made, tmp_path):
    small = {"pictures": 20, "prompts": 4, "steps": 2, "guidance": 3.0, "retrieval": 10, "lines": 30}
    card.main(made, tmp_path / "card", card=small)
    text = (tmp_path / "card/README.md").read_text()
    assert "{" not in text and "LLaMA" in text and (tmp_path / "card/samples-simple.png").exists()
