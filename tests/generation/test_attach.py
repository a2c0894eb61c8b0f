"""An adapter in a pipeline is a guest: it enters, adapts the positive prompt, and leaves without a trace."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline
from helpers.tiny_pipelines import ALL, adapter, draw, encode, every_model, pipeline, xl

from sur_adapter import attach


@every_model
@pytest.mark.parametrize("variant", ["sur", "paper", "official"])
def test_it_changes_the_picture_and_leaves_without_a_trace(model, variant):
    pipe = ALL[model]()
    before = draw(pipe)
    handle = attach(pipe, adapter(pipe, variant=variant))
    assert not np.array_equal(draw(pipe), before)
    handle.remove()
    assert np.array_equal(draw(pipe), before) and "encode_prompt" not in pipe.__dict__
    handle.remove()


@every_model
@pytest.mark.parametrize("variant", ["sur", "paper", "official"])
def test_at_strength_nought_it_is_the_base_model_bit_for_bit(model, variant):
    pipe = ALL[model]()
    before = draw(pipe)
    handle = attach(pipe, adapter(pipe, variant=variant), strength=0.0)
    assert np.array_equal(draw(pipe), before)
    handle.strength = 1.0
    assert not np.array_equal(draw(pipe), before)


@every_model
def test_an_untrained_adapter_is_the_base_model_bit_for_bit(model):
    pipe = ALL[model]()
    before = draw(pipe)
    attach(pipe, adapter(pipe, trained=False))
    assert np.array_equal(draw(pipe), before)


@every_model
@pytest.mark.parametrize("variant", ["sur", "paper", "official"])
def test_the_negative_prompt_and_the_unconditional_branch_stay_as_they_are(model, variant):
    pipe = ALL[model]()
    asked = [{"negative_prompt": "three red circles"}, {}]
    own = [encode(pipe, **words) for words in asked]
    attach(pipe, adapter(pipe, variant=variant))
    for words, before in zip(asked, own, strict=True):
        after = encode(pipe, **words)
        same = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
        assert same == ([False, True, False, True] if model == "sdxl" else [False, True])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooled_vectors_are_left_alone_by_an_adapter_without_a_head_for_them(dtype):
    pipe = xl()
    own = encode(pipe)
    attach(pipe, adapter(pipe, pooled_width=0).to(dtype))
    assert [torch.equal(a, b) for a, b in zip(encode(pipe), own, strict=True)] == [False, True, True, True]


def test_without_guidance_there_is_no_negative_to_keep():
    for make in ALL.values():
        pipe = make()
        attach(pipe, adapter(pipe))
        assert encode(pipe, guided=False)[1] is None


@every_model
def test_the_same_prompt_and_noise_draw_the_same_picture_whatever_the_batch(model):
    pipe = ALL[model]()
    attach(pipe, adapter(pipe))
    together = draw(pipe, ("three red circles", "a blue star waves"))
    assert np.allclose(together[:1], draw(pipe), atol=1e-4)


@every_model
def test_features_that_the_caller_made_stay_the_callers(model):
    pipe = ALL[model]()
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    own = dict(zip(names, encode(pipe), strict=False))
    attach(pipe, adapter(pipe))
    assert all(torch.equal(a, b) for a, b in zip(encode(pipe, None, **own), own.values(), strict=True))


def test_features_that_the_caller_gave_without_their_name_stay_the_callers_too():
    pipe = pipeline()
    own, empty = pipe.encode_prompt("a blue star", "cpu", 1, True)
    attach(pipe, adapter(pipe))
    assert torch.equal(pipe.encode_prompt(None, "cpu", 1, True, None, own, empty)[0], own)


@pytest.mark.parametrize(("model", "cls"), [("sd 1.x", StableDiffusionImg2ImgPipeline), ("sdxl", StableDiffusionXLImg2ImgPipeline)])
def test_image_to_image_takes_the_same_guest(model, cls):
    pipe = ALL[model](cls)
    start = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def go():
        generator = torch.Generator().manual_seed(0)
        return pipe("a blue star", image=start, strength=1.0, num_inference_steps=2, generator=generator, output_type="np").images

    before = go()
    handle = attach(pipe, adapter(pipe))
    assert not np.array_equal(go(), before)
    handle.remove()
    assert np.array_equal(go(), before)


@every_model
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_text_features_are_adapted_in_their_own_type(model, dtype):
    pipe = ALL[model]()
    guest = adapter(pipe)
    exact = guest(encode(pipe)[0]).detach()
    pipe.to(dtype)
    attach(pipe, guest)
    adapted = encode(pipe)
    assert {t.dtype for t in adapted} == {dtype}
    assert (adapted[0].float() - exact).norm() < 0.02 * exact.norm()


def test_an_adapter_in_half_precision_adapts_whole_features():
    pipe = pipeline()
    own = encode(pipe)[0]
    attach(pipe, adapter(pipe).bfloat16())
    assert encode(pipe)[0].dtype == torch.float32 and not torch.equal(encode(pipe)[0], own)


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_another_base_model_is_refused_with_the_name_of_the_right_one_and_left_as_it_was(model, dtype):
    guest = adapter(ALL[model]())
    attach(ALL[model]().to(dtype), guest)
    stranger = ALL[model](seed=1).to(dtype)
    with pytest.raises(ValueError, match="trained for the text encoder of tiny/base, but this pipeline has another one: load tiny/base"):
        attach(stranger, guest)
    for other in ALL.keys() - {model}:
        with pytest.raises(ValueError, match=r"tiny/base with text features of width \d+, but those of this pipeline have width \d+"):
            attach(ALL[other]().to(dtype), guest)
    assert "encode_prompt" not in stranger.__dict__


def test_the_second_text_encoder_must_be_the_right_one_as_well():
    guest, other = adapter(xl()), xl()
    other.text_encoder_2 = xl(seed=1).text_encoder_2
    with pytest.raises(ValueError, match="has another one: load tiny/base"):
        attach(other, guest)
    with pytest.raises(ValueError, match="pooled embeddings of width 20, but those of this pipeline have width 24: load tiny/base"):
        attach(xl(pooled=24), guest)


def test_a_pipeline_without_its_text_encoder_has_no_prompt_to_adapt():
    pipe = pipeline()
    guest = adapter(pipe)
    pipe.text_encoder = None
    with pytest.raises(ValueError, match="loaded without a text encoder, so there is no prompt to adapt: load all of its components"):
        attach(pipe, guest)


def test_two_adapters_at_once_are_refused():
    pipe = pipeline()
    attach(pipe, adapter(pipe))
    with pytest.raises(ValueError, match="attached to this pipeline already"):
        attach(pipe, adapter(pipe))
