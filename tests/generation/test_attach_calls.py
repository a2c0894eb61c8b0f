"""In every form of call, `encode_prompt` returns the base model's embeddings, and only those of the positive prompt are adapted."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers.tiny_pipelines import LENGTH, PIPELINES, draw, encode, every_model, make_adapter, pipeline

from sur_adapter import attach

NEGATIVE = {"negative_prompt": "three red circles"}
SECOND = {"sd 1.x": (), "sd 2.x": (), "sdxl": (None,)}  # SDXL's prompt_2, in positional arguments
FORMS = {
    "keyword arguments": lambda pipe, second: encode(pipe),
    "positional arguments": lambda pipe, second: pipe.encode_prompt("a blue star", *second, "cpu", 2, True, "three red circles"),
    "without guidance": lambda pipe, second: encode(pipe, guided=False),
    "without guidance, positional arguments": lambda pipe, second: pipe.encode_prompt("a blue star", *second, "cpu", 1, False),
    "several prompts": lambda pipe, second: encode(pipe, ["a blue star", "a star"]),
    "several images of several prompts": lambda pipe, second: pipe.encode_prompt(["a blue star", "a star"], *second, "cpu", 3, True),
    "only a negative prompt": lambda pipe, second: encode(pipe, "", **NEGATIVE),
    "an earlier layer": lambda pipe, second: encode(pipe, clip_skip=1),
}
ADAPTED = [True, False, True, False]  # positive, negative, pooled, negative pooled


def add_old_attribute_name(pipe) -> None:
    """Adds the attribute `text_model`, by which diffusers finds the final norm for `clip_skip`; transformers 5 has no such attribute."""
    if not hasattr(pipe.text_encoder, "text_model"):
        pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder


def adapted(adapter, own, which=ADAPTED) -> list:
    changes = (adapter, adapter, adapter.pool, adapter.pool)
    return [change(x) if yes and x is not None else x for change, x, yes in zip(changes, own, which, strict=False)]


def equal(actual, expected) -> bool:
    assert len(actual) == len(expected)
    return all(a is b is None or torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@every_model
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_every_form_of_call_adapts_only_the_positive_embeddings(model, form):
    pipe = PIPELINES[model]()
    add_old_attribute_name(pipe)
    own, adapter = FORMS[form](pipe, SECOND[model]), make_adapter(pipe)
    handle = attach(pipe, adapter)
    assert equal(FORMS[form](pipe, SECOND[model]), adapted(adapter, own)) and not torch.equal(adapter(own[0]), own[0])
    handle.scale = 0
    assert equal(FORMS[form](pipe, SECOND[model]), own)


@every_model
@torch.no_grad()
def test_with_negative_true_a_negative_prompt_is_adapted_unless_it_is_empty(model):
    pipe = PIPELINES[model]()
    prompts = [NEGATIVE, {"negative_prompt": " "}, {}]
    own, adapter = [encode(pipe, **prompt) for prompt in prompts], make_adapter(pipe)
    handle = attach(pipe, adapter, negative=True)
    for prompt, before, is_adapted in zip(prompts, own, (True, False, False), strict=True):
        assert equal(encode(pipe, **prompt), adapted(adapter, before, [True, is_adapted, True, is_adapted]))
    assert encode(pipe, guided=False, **NEGATIVE)[1] is None
    handle.negative = False
    assert equal(encode(pipe, **NEGATIVE), adapted(adapter, own[0]))


@every_model
@torch.no_grad()
def test_in_a_batch_only_the_negative_prompts_that_are_not_empty_are_adapted(model):
    pipe = PIPELINES[model]()

    def encode_two():
        return pipe.encode_prompt(["a star", "a blue star"], *SECOND[model], "cpu", 2, True, ["", "three red circles"])

    own, adapter = encode_two(), make_adapter(pipe)
    attach(pipe, adapter, negative=True)
    actual, expected = encode_two(), adapted(adapter, own, [True] * 4)
    for i in range(1, len(own), 2):
        assert torch.equal(actual[i][:2], own[i][:2]) and torch.equal(actual[i][2:], expected[i][2:])
        assert not torch.equal(actual[i][2:], own[i][2:])


@torch.no_grad()
def test_a_negative_prompt_of_the_second_text_encoder_alone_is_adapted():
    pipe = PIPELINES["sdxl"]()
    prompt = {"negative_prompt": "", "negative_prompt_2": "three red circles"}
    own, adapter = encode(pipe, **prompt), make_adapter(pipe)
    attach(pipe, adapter, negative=True)
    assert equal(encode(pipe, **prompt), adapted(adapter, own, [True] * 4))


@every_model
@torch.no_grad()
def test_given_embeddings_are_not_adapted_while_the_prompt_of_the_other_side_is(model):
    pipe = PIPELINES[model]()
    own, adapter = encode(pipe, **NEGATIVE), make_adapter(pipe)
    positive = {"prompt_embeds": own[0]} | ({"pooled_prompt_embeds": own[2]} if model == "sdxl" else {})
    negative = {"negative_prompt_embeds": own[1]} | ({"negative_pooled_prompt_embeds": own[3]} if model == "sdxl" else {})
    attach(pipe, adapter, negative=True)
    assert equal(encode(pipe, None, **positive, **NEGATIVE), adapted(adapter, own, [False, True, False, True]))
    assert equal(encode(pipe, **negative), adapted(adapter, own))
    assert equal(encode(pipe, None, **positive, **negative), own)


@every_model
@torch.no_grad()
def test_embeddings_adapted_by_hand_give_the_image_of_an_attached_adapter(model):
    pipe = PIPELINES[model]()
    adapter, own = make_adapter(pipe), encode(pipe, "three red circles")
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    features = dict(zip(names, own, strict=False)) | {"prompt_embeds": adapter(own[0], scale=0.5)}
    if model == "sdxl":
        features["pooled_prompt_embeds"] = adapter.pool(own[2], scale=0.5)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sampling_kwargs = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 8, "width": 8, "output_type": "np"}
    by_hand = pipe(latents=noise, **features, **sampling_kwargs).images
    before = draw(pipe)
    attach(pipe, adapter, scale=0.5)
    assert np.array_equal(draw(pipe), by_hand) and not np.array_equal(by_hand, before)


@every_model
def test_several_images_per_prompt_equal_those_generated_one_at_a_time(model):
    pipe = PIPELINES[model]()
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    sampling_kwargs = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 8, "width": 8, "output_type": "np"}
    before = pipe("a blue star", latents=noise, num_images_per_prompt=2, **sampling_kwargs).images
    attach(pipe, make_adapter(pipe))
    together = pipe("a blue star", latents=noise, num_images_per_prompt=2, **sampling_kwargs).images
    alone = [pipe("a blue star", latents=noise[i : i + 1], **sampling_kwargs).images for i in range(2)]
    assert np.allclose(together, np.concatenate(alone), atol=1e-4) and not np.allclose(together, before, atol=1e-2)


@every_model
def test_a_callback_gets_the_adapted_embeddings_and_may_set_the_scale_of_the_next_image(model):
    pipe = PIPELINES[model]()
    own, adapter, seen = encode(pipe, "three red circles"), make_adapter(pipe), []
    handle = attach(pipe, adapter, scale=0.5)
    half = draw(pipe)
    handle.scale = 1.0
    reference = draw(pipe)

    def on_step_end(_, step, timestep, tensors):
        seen.append(tensors["prompt_embeds"])
        handle.scale = 0.5
        return tensors

    with torch.no_grad():
        expected = torch.cat([own[1], adapter(own[0])])
    images = draw(pipe, callback_on_step_end=on_step_end, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert len(seen) == 2 and all(torch.equal(features, expected) for features in seen)
    assert np.array_equal(images, reference) and np.array_equal(draw(pipe), half) and not np.array_equal(half, reference)


class Windows(StableDiffusionPipeline):
    """A pipeline for long prompts: it encodes each half separately and concatenates the embeddings."""

    def encode_prompt(self, prompt, *args, **kwargs):
        words = prompt[0].split() if isinstance(prompt, list) else prompt.split()
        halves = [" ".join(half) for half in (words[: len(words) // 2], words[len(words) // 2 :])]
        first, second = (super(Windows, self).encode_prompt(half, *args, **kwargs) for half in halves)
        return tuple(torch.cat(parts, 1) for parts in zip(first, second, strict=True))


@torch.no_grad()
def test_of_a_long_prompt_the_part_that_the_pipeline_encodes_is_adapted():
    long = " ".join(["three red circles", "a blue star waves"] * 2)
    cut, long_pipe = pipeline(), pipeline(Windows)
    short, adapter = cut.tokenizer.decode(cut.tokenizer(long, truncation=True).input_ids, skip_special_tokens=True), make_adapter(cut)
    assert short != long
    own, before = encode(long_pipe, long), draw(long_pipe, (long,))
    attach(cut, adapter)
    attach(long_pipe, adapter)
    assert torch.equal(encode(cut, long)[0], encode(cut, short)[0])
    assert own[0].shape[1] == 2 * LENGTH and equal(encode(long_pipe, long), adapted(adapter, own))
    assert not np.array_equal(draw(long_pipe, (long,)), before)
