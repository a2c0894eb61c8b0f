"""The committed weights: they load, fit together, and reach the figures of their model card."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from scipy.stats import binomtest
from transformers import CLIPModel, CLIPTextModel, LlamaForCausalLM

from miniature import judge
from miniature.pretrain import measure
from miniature.pretrain.world import texts
from miniature.scenes import CATEGORIES
from sur_adapter.cli.main import main
from sur_adapter.models.fingerprint import fingerprint, same_encoder

MODELS = Path(__file__).parents[2] / "models/miniature"
CARD = json.loads((MODELS / "figures.json").read_text())
SAMPLE = 30  # prompts per category


def agrees(hits: list[bool], card: dict) -> bool:
    """Whether a sample is compatible with the rate of the card: a binomial test at p > 1e-4."""
    return binomtest(sum(hits), len(hits), min(max(card["value"], 0.005), 0.995)).pvalue > 1e-4


@pytest.fixture(scope="module")
def pipe():
    return StableDiffusionPipeline.from_pretrained(MODELS / "stable-diffusion", safety_checker=None)


def test_all_weights_together_take_at_most_37_megabytes():
    assert sum(f.stat().st_size for f in MODELS.rglob("*") if f.is_file()) <= 37e6 + 1e6


def test_the_text_encoder_equals_the_text_tower_of_clip(pipe):
    tower = CLIPTextModel.from_pretrained(MODELS / "clip").state_dict()
    assert all(torch.equal(tower[k], v) for k, v in pipe.text_encoder.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_text_encoder_is_recognised_in_every_dtype_it_may_be_loaded_in(pipe, dtype):
    loaded, other = (CLIPTextModel.from_pretrained(MODELS / name, dtype=dtype) for name in ("stable-diffusion/text_encoder", "clip-eval"))
    expected = fingerprint(pipe.text_encoder)
    assert loaded.dtype == dtype and same_encoder(expected, fingerprint(loaded)) and not same_encoder(expected, fingerprint(other))


def test_the_command_fingerprint_prints_that_of_the_models_text_encoder(pipe, tmp_path):
    assert main(["fingerprint", str(MODELS / "stable-diffusion")]) == fingerprint(pipe.text_encoder)
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} has no text_encoder that can be loaded: name a folder that holds one.*hub$"):
        main(["fingerprint", str(tmp_path)])


def test_the_two_clip_models_differ_in_width():
    one, other = (CLIPModel.from_pretrained(MODELS / name) for name in ("clip", "clip-eval"))
    assert one.config.text_config.hidden_size != other.config.text_config.hidden_size


def test_the_llm_has_at_least_six_layers():
    assert LlamaForCausalLM.from_pretrained(MODELS / "llama").config.num_hidden_layers >= 6


@pytest.mark.parametrize("style", ["complex", "simple"])
def test_the_accuracy_of_images_is_that_of_the_card(pipe, style):
    figures = CARD["diffusion"]
    for category in CATEGORIES:
        scenes = measure.test_scenes(category, 1000)[-SAMPLE:]  # the card was measured on other scenes
        images = measure.draw(pipe, texts(scenes, style, 1, "development"), [s.seed for s in scenes], figures["steps"], figures["guidance"])
        hits = [judge.shows(i, s.include) for i, s in zip(images, scenes, strict=True)]
        assert agrees(hits, figures[style][category]), (category, sum(hits), len(hits))


def test_accuracy_is_high_for_keyword_prompts_and_lower_for_plain_sentences():
    complex_, simple = CARD["diffusion"]["complex"], CARD["diffusion"]["simple"]
    assert min(complex_[c]["value"] for c in CATEGORIES) >= 0.80
    assert 0.3 <= simple["overall"]["value"] <= 0.7
    assert all(complex_[c]["low"] > simple[c]["high"] for c in CATEGORIES)  # every category has a gap
    assert all(r["n"] >= 300 for r in (*complex_.values(), *simple.values()))


@pytest.mark.xfail(strict=True, reason="the target is not reached, see LOG.md; strict, so that this test fails once it is reached")
def test_accuracy_for_keyword_prompts_is_at_least_90_percent():
    assert CARD["diffusion"]["complex"]["overall"]["value"] >= 0.90


def test_the_same_prompt_and_noise_give_the_same_image_in_any_batch(pipe):
    scenes = measure.test_scenes("color", 3)
    prompts, seeds = texts(scenes, "complex", 0), [s.seed for s in scenes]
    together = measure.draw(pipe, prompts, seeds, 5)
    alone = measure.draw(pipe, prompts[1:2], seeds[1:2], 5)[0]
    difference = torch.tensor(list(together[1].tobytes())).float() - torch.tensor(list(alone.tobytes())).float()
    assert difference.abs().max() <= 2  # of 255: rounding of sums in another order


def test_the_judge_reads_images_that_the_vae_has_decoded():
    figures = measure.vae(MODELS, 120)
    assert figures["judge_clean"]["overall"]["value"] == 1
    assert CARD["vae"]["judge_clean"]["overall"] | {"n": 0} == {"value": 1.0, "low": pytest.approx(0.996, abs=0.001), "high": 1.0, "n": 0}
    assert CARD["vae"]["judge_decoded"]["overall"]["value"] >= 0.98
    assert figures["psnr_db"] == pytest.approx(CARD["vae"]["psnr_db"], abs=0.7)


def test_the_accuracy_of_captions_is_that_of_the_card():
    overall = measure.blip(MODELS, 40)["exact"]["overall"]
    card = CARD["blip"]["exact"]["overall"]
    assert agrees([True] * round(overall["value"] * overall["n"]) + [False] * round((1 - overall["value"]) * overall["n"]), card)


def test_both_clip_models_retrieve_the_right_image_far_above_chance():
    for name in ("clip", "clip-eval"):
        figures = measure.clip(MODELS / name, 100)
        assert min(figures[style]["text_to_image"]["value"] for style in ("complex", "simple")) > 0.6  # chance: 0.01


def test_the_perplexity_of_the_llm_is_that_of_the_card():
    assert measure.llama(MODELS, 200)["perplexity"] == pytest.approx(CARD["llama"]["perplexity"], rel=0.1)
