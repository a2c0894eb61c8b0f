"""However a prompt is given, by the pipeline or by hand, what comes back is the base model's features, adapted where it is said."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers.tiny_pipelines import ALL, LENGTH, adapter, draw, encode, every_model, pipeline

from sur_adapter import attach

WORDS = {"negative_prompt": "three red circles"}
SECOND = {"sd 1.x": (), "sd 2.x": (), "sdxl": (None,)}  # SDXL's prompt for its second text encoder, where arguments go by place
FORMS = {
    "by name": lambda pipe, second: encode(pipe),
    "by place": lambda pipe, second: pipe.encode_prompt("a blue star", *second, "cpu", 2, True, "three red circles"),
    "without guidance": lambda pipe, second: encode(pipe, guided=False),
    "without guidance, by place": lambda pipe, second: pipe.encode_prompt("a blue star", *second, "cpu", 1, False),
    "several prompts": lambda pipe, second: encode(pipe, ["a blue star", "a star"]),
    "several pictures of several prompts": lambda pipe, second: pipe.encode_prompt(["a blue star", "a star"], *second, "cpu", 3, True),
    "nothing but a negative prompt": lambda pipe, second: encode(pipe, "", **WORDS),
    "an earlier layer": lambda pipe, second: encode(pipe, clip_skip=1),
}
ADAPTED = [True, False, True, False]  # positive, negative, pooled, negative pooled


def named_as_before(pipe) -> None:
    """diffusers finds the last norm, which `clip_skip` needs, under the name that CLIP's text model had before transformers 5."""
    if not hasattr(pipe.text_encoder, "text_model"):
        pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder


def adapted(guest, own, which=ADAPTED) -> list:
    ways = (guest, guest, guest.pool, guest.pool)
    return [how(x) if yes and x is not None else x for how, x, yes in zip(ways, own, which, strict=False)]


def equal(found, expected) -> bool:
    assert len(found) == len(expected)
    return all(a is b is None or torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@every_model
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_in_every_form_of_a_call_the_positive_features_are_adapted_and_no_others(model, form):
    pipe = ALL[model]()
    named_as_before(pipe)
    own, guest = FORMS[form](pipe, SECOND[model]), adapter(pipe)
    handle = attach(pipe, guest)
    assert equal(FORMS[form](pipe, SECOND[model]), adapted(guest, own)) and not torch.equal(guest(own[0]), own[0])
    handle.strength = 0
    assert equal(FORMS[form](pipe, SECOND[model]), own)


@every_model
@torch.no_grad()
def test_words_of_a_negative_prompt_are_adapted_if_that_is_asked_for_and_where_nothing_is_said_never(model):
    pipe = ALL[model]()
    asked = [WORDS, {"negative_prompt": " "}, {}]
    own, guest = [encode(pipe, **words) for words in asked], adapter(pipe)
    handle = attach(pipe, guest, negative=True)
    for words, before, said in zip(asked, own, (True, False, False), strict=True):
        assert equal(encode(pipe, **words), adapted(guest, before, [True, said, True, said]))
    assert encode(pipe, guided=False, **WORDS)[1] is None
    handle.negative = False
    assert equal(encode(pipe, **WORDS), adapted(guest, own[0]))


@every_model
@torch.no_grad()
def test_each_prompt_of_a_batch_has_its_own_negative_prompt_adapted_or_left(model):
    pipe = ALL[model]()

    def both():
        return pipe.encode_prompt(["a star", "a blue star"], *SECOND[model], "cpu", 2, True, ["", "three red circles"])

    own, guest = both(), adapter(pipe)
    attach(pipe, guest, negative=True)
    found, expected = both(), adapted(guest, own, [True] * 4)
    for i in range(1, len(own), 2):
        assert torch.equal(found[i][:2], own[i][:2]) and torch.equal(found[i][2:], expected[i][2:])
        assert not torch.equal(found[i][2:], own[i][2:])


@torch.no_grad()
def test_words_for_the_second_text_encoder_alone_are_a_negative_prompt_as_well():
    pipe = ALL["sdxl"]()
    words = {"negative_prompt": "", "negative_prompt_2": "three red circles"}
    own, guest = encode(pipe, **words), adapter(pipe)
    attach(pipe, guest, negative=True)
    assert equal(encode(pipe, **words), adapted(guest, own, [True] * 4))


@every_model
@torch.no_grad()
def test_features_by_hand_stay_the_callers_beside_words_that_are_adapted(model):
    pipe = ALL[model]()
    own, guest = encode(pipe, **WORDS), adapter(pipe)
    positive = {"prompt_embeds": own[0]} | ({"pooled_prompt_embeds": own[2]} if model == "sdxl" else {})
    negative = {"negative_prompt_embeds": own[1]} | ({"negative_pooled_prompt_embeds": own[3]} if model == "sdxl" else {})
    attach(pipe, guest, negative=True)
    assert equal(encode(pipe, None, **positive, **WORDS), adapted(guest, own, [False, True, False, True]))
    assert equal(encode(pipe, **negative), adapted(guest, own))
    assert equal(encode(pipe, None, **positive, **negative), own)


@every_model
@torch.no_grad()
def test_an_adapter_by_hand_draws_the_picture_that_a_guest_draws(model):
    pipe = ALL[model]()
    guest, own = adapter(pipe), encode(pipe, "three red circles")
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    features = dict(zip(names, own, strict=False)) | {"prompt_embeds": guest(own[0], scale=0.5)}
    if model == "sdxl":
        features["pooled_prompt_embeds"] = guest.pool(own[2], scale=0.5)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    how = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 8, "width": 8, "output_type": "np"}
    by_hand = pipe(latents=noise, **features, **how).images
    before = draw(pipe)
    attach(pipe, guest, strength=0.5)
    assert np.array_equal(draw(pipe), by_hand) and not np.array_equal(by_hand, before)


@every_model
def test_several_pictures_of_a_prompt_are_those_drawn_one_at_a_time(model):
    pipe = ALL[model]()
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    how = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 8, "width": 8, "output_type": "np"}
    before = pipe("a blue star", latents=noise, num_images_per_prompt=2, **how).images
    attach(pipe, adapter(pipe))
    together = pipe("a blue star", latents=noise, num_images_per_prompt=2, **how).images
    alone = [pipe("a blue star", latents=noise[i : i + 1], **how).images for i in range(2)]
    assert np.allclose(together, np.concatenate(alone), atol=1e-4) and not np.allclose(together, before, atol=1e-2)


@every_model
def test_a_callback_sees_the_adapted_features_and_may_set_the_strength_of_the_next_picture(model):
    pipe = ALL[model]()
    own, guest, seen = encode(pipe, "three red circles"), adapter(pipe), []
    handle = attach(pipe, guest, strength=0.5)
    half = draw(pipe)
    handle.strength = 1.0
    reference = draw(pipe)

    def look(_, step, timestep, given):
        seen.append(given["prompt_embeds"])
        handle.strength = 0.5
        return given

    with torch.no_grad():
        expected = torch.cat([own[1], guest(own[0])])
    pictures = draw(pipe, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert len(seen) == 2 and all(torch.equal(features, expected) for features in seen)
    assert np.array_equal(pictures, reference) and np.array_equal(draw(pipe), half) and not np.array_equal(half, reference)


class Windows(StableDiffusionPipeline):
    """A pipeline that takes long prompts: each half is encoded for itself, and the features are put end to end."""

    def encode_prompt(self, prompt, *args, **kwargs):
        words = prompt[0].split() if isinstance(prompt, list) else prompt.split()
        halves = [" ".join(half) for half in (words[: len(words) // 2], words[len(words) // 2 :])]
        first, second = (super(Windows, self).encode_prompt(half, *args, **kwargs) for half in halves)
        return tuple(torch.cat(parts, 1) for parts in zip(first, second, strict=True))


@torch.no_grad()
def test_long_prompts_are_adapted_as_far_as_the_pipeline_takes_them():
    long = " ".join(["three red circles", "a blue star waves"] * 2)
    cut, long_pipe = pipeline(), pipeline(Windows)
    short, guest = cut.tokenizer.decode(cut.tokenizer(long, truncation=True).input_ids, skip_special_tokens=True), adapter(cut)
    assert short != long
    own, before = encode(long_pipe, long), draw(long_pipe, (long,))
    attach(cut, guest)
    attach(long_pipe, guest)
    assert torch.equal(encode(cut, long)[0], encode(cut, short)[0])
    assert own[0].shape[1] == 2 * LENGTH and equal(encode(long_pipe, long), adapted(guest, own))
    assert not np.array_equal(draw(long_pipe, (long,)), before)
