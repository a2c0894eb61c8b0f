"""Every kind of Stable Diffusion pipeline takes the same guest: text-to-image, image-to-image, inpainting, each with a ControlNet too."""

from inspect import signature

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    ControlNetModel,
    DiffusionPipeline,
    LEditsPPPipelineStableDiffusion,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
)
from helpers.tiny_pipelines import ALL, adapter, draw, encode, every_model, pipeline, xl

from sur_adapter import attach

NAMES = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
TASKS = {"text": AutoPipelineForText2Image, "image": AutoPipelineForImage2Image, "inpainting": AutoPipelineForInpainting}
every_task = pytest.mark.parametrize("task", TASKS)
every_control = pytest.mark.parametrize("controlled", [False, True], ids=["plain", "ControlNet"])


def host(model: str, task: str, controlled: bool):
    base = ALL[model]()
    net = {"controlnet": ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(16,))} if controlled else {}
    pipe = TASKS[task].from_pipe(base, **net)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def go(pipe, task: str, controlled: bool, **prompt) -> np.ndarray:
    random = torch.Generator().manual_seed(0)
    picture, control = torch.rand(2, 1, 3, 8, 8, generator=random)
    given = {"text": {}, "image": {"image": picture, "strength": 1.0}}.get(task, {"image": picture, "mask_image": torch.ones(1, 1, 8, 8)})
    if task != "image" and not controlled:
        given |= {"height": 8, "width": 8}
    if controlled:
        given |= {"image" if task == "text" else "control_image": control}
    how = {"num_inference_steps": 2, "guidance_scale": 3.0, "generator": random, "output_type": "np"}
    return pipe(**(prompt or {"prompt": "a blue star", "negative_prompt": "three red circles"}), **given, **how).images


@every_model
@every_task
@every_control
def test_a_task_draws_from_the_adapted_prompt_and_else_as_ever(model, task, controlled):
    pipe = host(model, task, controlled)
    assert type(pipe).__name__.count("ControlNet") == controlled
    guest, before = adapter(pipe), go(pipe, task, controlled)
    own = dict(zip(NAMES, encode(pipe, negative_prompt="three red circles"), strict=False))
    by_hand = own | {"prompt_embeds": guest(own["prompt_embeds"])}
    if model == "sdxl":
        by_hand |= {"pooled_prompt_embeds": guest.pool(own["pooled_prompt_embeds"])}
    expected = go(pipe, task, controlled, **by_hand)
    inside = set(vars(pipe))
    handle = attach(pipe, guest)
    assert np.array_equal(go(pipe, task, controlled), expected) and not np.array_equal(expected, before)
    assert np.array_equal(go(pipe, task, controlled, **own), before)
    handle.strength = 0.0
    assert np.array_equal(go(pipe, task, controlled), before)
    handle.strength = 0.5
    half = go(pipe, task, controlled)
    assert not np.array_equal(half, before) and not np.array_equal(half, expected)
    handle.remove()
    assert np.array_equal(go(pipe, task, controlled), before) and set(vars(pipe)) == inside


@every_model
@pytest.mark.parametrize("auto", [*TASKS.values(), DiffusionPipeline], ids=lambda auto: auto.__name__)
def test_a_pipeline_made_of_another_is_without_its_guest_and_takes_one_of_its_own(model, auto):
    first = ALL[model]()
    guest, (task, made) = adapter(first), ("text", type(first))
    plain, handle = draw(first), attach(first, guest)
    adapted = draw(first)
    if auto is DiffusionPipeline:
        other = made.from_pipe(first)
    else:
        other, task = auto.from_pipe(first), next(name for name, kind in TASKS.items() if kind is auto)
    other.set_progress_bar_config(disable=True)
    assert other.unet is first.unet and "encode_prompt" not in vars(other) and np.array_equal(draw(first), adapted)
    before, second = go(other, task, False), attach(other, guest)
    assert not np.array_equal(go(other, task, False), before)
    second.strength = 0.5
    assert np.array_equal(draw(first), adapted)
    handle.remove()
    assert np.array_equal(draw(first), plain) and not np.array_equal(go(other, task, False), before)
    second.remove()
    assert np.array_equal(go(other, task, False), before)


@pytest.mark.parametrize("cls", [StableDiffusionInstructPix2PixPipeline, LEditsPPPipelineStableDiffusion])
def test_a_pipeline_that_encodes_prompts_in_a_way_of_its_own_is_refused(cls):
    base = pipeline()
    parts = {name: part for name, part in base.components.items() if name in signature(cls).parameters}
    edits = cls(**parts, requires_safety_checker=False)
    with pytest.raises(ValueError, match=f"{cls.__name__} encodes its prompts in a way of its own, so no adapter can be attached"):
        attach(edits, adapter(base))
    assert "encode_prompt" not in vars(edits)


@torch.no_grad()
def test_a_pipeline_that_edits_pictures_and_encodes_its_prompts_as_all_do_takes_a_guest():
    parts = {name: part for name, part in xl().components.items() if name not in ("image_encoder", "feature_extractor")}
    pipe = StableDiffusionXLInstructPix2PixPipeline(**parts)
    own, guest = encode(pipe), adapter(pipe)
    attach(pipe, guest)
    assert torch.equal(encode(pipe)[0], guest(own[0]))
