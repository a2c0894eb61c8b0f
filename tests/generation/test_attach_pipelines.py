"""Every Stable Diffusion pipeline takes the same adapter: text-to-image, image-to-image and inpainting, each also with a ControlNet."""

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
from helpers.tiny_pipelines import PIPELINES, draw, encode, every_model, make_adapter, pipeline, xl

from sur_adapter import attach

NAMES = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
TASKS = {"text": AutoPipelineForText2Image, "image": AutoPipelineForImage2Image, "inpainting": AutoPipelineForInpainting}
every_task = pytest.mark.parametrize("task", TASKS)
every_control = pytest.mark.parametrize("controlled", [False, True], ids=["no ControlNet", "ControlNet"])


def make_pipeline(model: str, task: str, controlled: bool):
    base = PIPELINES[model]()
    net = {"controlnet": ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(16,))} if controlled else {}
    pipe = TASKS[task].from_pipe(base, **net)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe, task: str, controlled: bool, **prompt) -> np.ndarray:
    random = torch.Generator().manual_seed(0)
    image, control = torch.rand(2, 1, 3, 8, 8, generator=random)
    inputs = {"text": {}, "image": {"image": image, "strength": 1.0}}.get(task, {"image": image, "mask_image": torch.ones(1, 1, 8, 8)})
    if task != "image" and not controlled:
        inputs |= {"height": 8, "width": 8}
    if controlled:
        inputs |= {"image" if task == "text" else "control_image": control}
    sampling_kwargs = {"num_inference_steps": 2, "guidance_scale": 3.0, "generator": random, "output_type": "np"}
    return pipe(**(prompt or {"prompt": "a blue star", "negative_prompt": "three red circles"}), **inputs, **sampling_kwargs).images


@every_model
@every_task
@every_control
def test_every_task_uses_the_adapted_prompt_and_is_otherwise_unchanged(model, task, controlled):
    pipe = make_pipeline(model, task, controlled)
    assert type(pipe).__name__.count("ControlNet") == controlled
    adapter, before = make_adapter(pipe), generate(pipe, task, controlled)
    own = dict(zip(NAMES, encode(pipe, negative_prompt="three red circles"), strict=False))
    by_hand = own | {"prompt_embeds": adapter(own["prompt_embeds"])}
    if model == "sdxl":
        by_hand |= {"pooled_prompt_embeds": adapter.pool(own["pooled_prompt_embeds"])}
    expected = generate(pipe, task, controlled, **by_hand)
    attributes = set(vars(pipe))
    handle = attach(pipe, adapter)
    assert np.array_equal(generate(pipe, task, controlled), expected) and not np.array_equal(expected, before)
    assert np.array_equal(generate(pipe, task, controlled, **own), before)
    handle.scale = 0.0
    assert np.array_equal(generate(pipe, task, controlled), before)
    handle.scale = 0.5
    half = generate(pipe, task, controlled)
    assert not np.array_equal(half, before) and not np.array_equal(half, expected)
    handle.remove()
    assert np.array_equal(generate(pipe, task, controlled), before) and set(vars(pipe)) == attributes


@every_model
@pytest.mark.parametrize("auto", [*TASKS.values(), DiffusionPipeline], ids=lambda auto: auto.__name__)
def test_a_pipeline_made_by_from_pipe_has_no_adapter_and_can_get_its_own(model, auto):
    first = PIPELINES[model]()
    adapter, (task, made) = make_adapter(first), ("text", type(first))
    plain, handle = draw(first), attach(first, adapter)
    adapted = draw(first)
    if auto is DiffusionPipeline:
        other = made.from_pipe(first)
    else:
        other, task = auto.from_pipe(first), next(name for name, kind in TASKS.items() if kind is auto)
    other.set_progress_bar_config(disable=True)
    assert other.unet is first.unet and "encode_prompt" not in vars(other) and np.array_equal(draw(first), adapted)
    before, second = generate(other, task, False), attach(other, adapter)
    assert not np.array_equal(generate(other, task, False), before)
    second.scale = 0.5
    assert np.array_equal(draw(first), adapted)
    handle.remove()
    assert np.array_equal(draw(first), plain) and not np.array_equal(generate(other, task, False), before)
    second.remove()
    assert np.array_equal(generate(other, task, False), before)


@pytest.mark.parametrize("cls", [StableDiffusionInstructPix2PixPipeline, LEditsPPPipelineStableDiffusion])
def test_a_pipeline_with_another_encode_prompt_is_refused(cls):
    base = pipeline()
    parts = {name: part for name, part in base.components.items() if name in signature(cls).parameters}
    edits = cls(**parts, requires_safety_checker=False)
    with pytest.raises(ValueError, match=f"{cls.__name__} encodes its prompts in a way of its own, so no adapter can be attached"):
        attach(edits, make_adapter(base))
    assert "encode_prompt" not in vars(edits)


@torch.no_grad()
def test_an_editing_pipeline_with_the_usual_encode_prompt_is_accepted():
    parts = {name: part for name, part in xl().components.items() if name not in ("image_encoder", "feature_extractor")}
    pipe = StableDiffusionXLInstructPix2PixPipeline(**parts)
    own, adapter = encode(pipe), make_adapter(pipe)
    attach(pipe, adapter)
    assert torch.equal(encode(pipe)[0], adapter(own[0]))
