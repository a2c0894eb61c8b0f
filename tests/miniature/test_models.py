"""The weights the project carries: they load, they fit, and they do what their card says."""

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
SAMPLE = 30  # prompts a category


def agrees(hits: list[bool], card: dict) -> bool:
    """Whether a small sample is one that the card's rate could have given, all but once in ten thousand times."""
    return binomtest(sum(hits), len(hits), min(max(card["value"], 0.005), 0.995)).pvalue > 1e-4


@pytest.fixture(scope="module")
def pipe():
    return StableDiffusionPipeline.from_pretrained(MODELS / "stable-diffusion", safety_checker=None)


def test_all_weights_together_stay_under_32_megabytes():
    assert sum(f.stat().st_size for f in MODELS.rglob("*") if f.is_file()) <= 32 * 2**20


def test_the_text_encoder_is_the_tower_clip_was_trained_with(pipe):
    tower = CLIPTextModel.from_pretrained(MODELS / "clip").state_dict()
    assert all(torch.equal(tower[k], v) for k, v in pipe.text_encoder.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_text_encoder_is_known_again_in_every_type_it_may_be_loaded_in(pipe, dtype):
    loaded, stranger = (
        CLIPTextModel.from_pretrained(MODELS / name, dtype=dtype) for name in ("stable-diffusion/text_encoder", "clip-eval")
    )
    mark = fingerprint(pipe.text_encoder)
    assert loaded.dtype == dtype and same_encoder(mark, fingerprint(loaded)) and not same_encoder(mark, fingerprint(stranger))


def test_the_mark_of_a_models_text_encoder_can_be_asked_for(pipe, tmp_path):
    assert main(["fingerprint", str(MODELS / "stable-diffusion")]) == fingerprint(pipe.text_encoder)
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} has no text_encoder that can be loaded: name a folder that holds one.*hub$"):
        main(["fingerprint", str(tmp_path)])


def test_the_two_clips_share_no_weights_and_no_width():
    one, other = (CLIPModel.from_pretrained(MODELS / name) for name in ("clip", "clip-eval"))
    assert one.config.text_config.hidden_size != other.config.text_config.hidden_size


def test_the_teacher_has_at_least_six_layers():
    assert LlamaForCausalLM.from_pretrained(MODELS / "llama").config.num_hidden_layers >= 6


@pytest.mark.parametrize("style", ["complex", "simple"])
def test_pictures_are_as_often_right_as_the_card_says(pipe, style):
    figures = CARD["diffusion"]
    for category in CATEGORIES:
        scenes = measure.test_scenes(category, 1000)[-SAMPLE:]  # none that the card was measured on
        images = measure.draw(pipe, texts(scenes, style, 1, "test"), [s.seed for s in scenes], figures["steps"], figures["guidance"])
        hits = [judge.shows(i, s.include) for i, s in zip(images, scenes, strict=True)]
        assert agrees(hits, figures[style][category]), (category, sum(hits), len(hits))


def test_keyword_prompts_draw_well_and_plain_sentences_do_not():
    complex_, simple = CARD["diffusion"]["complex"], CARD["diffusion"]["simple"]
    assert min(complex_[c]["value"] for c in CATEGORIES) >= 0.80
    assert 0.3 <= simple["overall"]["value"] <= 0.7
    assert all(complex_[c]["low"] > simple[c]["high"] for c in CATEGORIES)  # a gap to close in each
    assert all(r["n"] >= 300 for r in (*complex_.values(), *simple.values()))


@pytest.mark.xfail(strict=True, reason="the aim is missed: LOG.md says what was tried; strict, so that reaching it is noticed")
def test_keyword_prompts_are_right_nine_times_in_ten():
    assert CARD["diffusion"]["complex"]["overall"]["value"] >= 0.90


def test_the_same_prompt_and_noise_draw_the_same_picture_whatever_the_batch(pipe):
    scenes = measure.test_scenes("color", 3)
    prompts, seeds = texts(scenes, "complex", 0), [s.seed for s in scenes]
    together = measure.draw(pipe, prompts, seeds, 5)
    alone = measure.draw(pipe, prompts[1:2], seeds[1:2], 5)[0]
    difference = torch.tensor(list(together[1].tobytes())).float() - torch.tensor(list(alone.tobytes())).float()
    assert difference.abs().max() <= 2  # of 255: sums in another order


def test_the_vae_keeps_what_the_judge_reads():
    figures = measure.vae(MODELS, 120)
    assert figures["judge_clean"]["overall"]["value"] == 1
    assert CARD["vae"]["judge_clean"]["overall"] | {"n": 0} == {"value": 1.0, "low": pytest.approx(0.996, abs=0.001), "high": 1.0, "n": 0}
    assert CARD["vae"]["judge_decoded"]["overall"]["value"] >= 0.98
    assert figures["psnr_db"] == pytest.approx(CARD["vae"]["psnr_db"], abs=0.7)


def test_captions_tell_what_the_picture_shows_as_often_as_the_card_says():
    overall = measure.blip(MODELS, 40)["exact"]["overall"]
    card = CARD["blip"]["exact"]["overall"]
    assert agrees([True] * round(overall["value"] * overall["n"]) + [False] * round((1 - overall["value"]) * overall["n"]), card)


def test_both_clips_find_the_right_picture_far_above_chance():
    for name in ("clip", "clip-eval"):
        figures = measure.clip(MODELS / name, 100)
        assert min(figures[style]["text_to_image"]["value"] for style in ("complex", "simple")) > 0.6  # chance: 0.01


def test_the_teacher_is_as_little_surprised_as_the_card_says():
    assert measure.llama(MODELS, 200)["perplexity"] == pytest.approx(CARD["llama"]["perplexity"], rel=0.1)
