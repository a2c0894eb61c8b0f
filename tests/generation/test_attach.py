"""An attached adapter adapts the positive prompt only, and `remove` restores the pipeline."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline
from helpers.tiny_pipelines import PIPELINES, draw, encode, every_model, make_adapter, pipeline, xl

from sur_adapter import attach


@every_model
@pytest.mark.parametrize("variant", ["sur", "paper", "official"])
def test_an_attached_adapter_changes_the_image_and_remove_restores_the_pipeline(model, variant):
    pipe = PIPELINES[model]()
    before = draw(pipe)
    handle = attach(pipe, make_adapter(pipe, variant=variant))
    assert not np.array_equal(draw(pipe), before)
    handle.remove()
    assert np.array_equal(draw(pipe), before) and "encode_prompt" not in pipe.__dict__
    handle.remove()


@every_model
@pytest.mark.parametrize("variant", ["sur", "paper", "official"])
def test_at_scale_0_the_image_is_that_of_the_base_model_bit_for_bit(model, variant):
    pipe = PIPELINES[model]()
    before = draw(pipe)
    handle = attach(pipe, make_adapter(pipe, variant=variant), scale=0.0)
    assert np.array_equal(draw(pipe), before)
    handle.scale = 1.0
    assert not np.array_equal(draw(pipe), before)


@every_model
def test_with_an_untrained_adapter_the_image_is_that_of_the_base_model_bit_for_bit(model):
    pipe = PIPELINES[model]()
    before = draw(pipe)
    attach(pipe, make_adapter(pipe, trained=False))
    assert np.array_equal(draw(pipe), before)


@every_model
@pytest.mark.parametrize("variant", ["sur", "paper", "official"])
def test_the_negative_prompt_and_the_unconditional_branch_do_not_change(model, variant):
    pipe = PIPELINES[model]()
    prompts = [{"negative_prompt": "three red circles"}, {}]
    own = [encode(pipe, **prompt) for prompt in prompts]
    attach(pipe, make_adapter(pipe, variant=variant))
    for prompt, before in zip(prompts, own, strict=True):
        after = encode(pipe, **prompt)
        same = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
        assert same == ([False, True, False, True] if model == "sdxl" else [False, True])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_without_pooled_width_does_not_change_pooled_embeddings(dtype):
    pipe = xl()
    own = encode(pipe)
    attach(pipe, make_adapter(pipe, pooled_width=0).to(dtype))
    assert [torch.equal(a, b) for a, b in zip(encode(pipe), own, strict=True)] == [False, True, True, True]


def test_without_guidance_there_is_no_negative_output():
    for make in PIPELINES.values():
        pipe = make()
        attach(pipe, make_adapter(pipe))
        assert encode(pipe, guided=False)[1] is None


@every_model
def test_the_same_prompt_and_noise_give_the_same_image_in_any_batch(model):
    pipe = PIPELINES[model]()
    attach(pipe, make_adapter(pipe))
    together = draw(pipe, ("three red circles", "a blue star waves"))
    assert np.allclose(together[:1], draw(pipe), atol=1e-4)


@every_model
def test_embeddings_given_by_the_caller_are_not_adapted(model):
    pipe = PIPELINES[model]()
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    own = dict(zip(names, encode(pipe), strict=False))
    attach(pipe, make_adapter(pipe))
    assert all(torch.equal(a, b) for a, b in zip(encode(pipe, None, **own), own.values(), strict=True))


def test_embeddings_given_as_positional_arguments_are_not_adapted():
    pipe = pipeline()
    own, empty = pipe.encode_prompt("a blue star", "cpu", 1, True)
    attach(pipe, make_adapter(pipe))
    assert torch.equal(pipe.encode_prompt(None, "cpu", 1, True, None, own, empty)[0], own)


@pytest.mark.parametrize(("model", "cls"), [("sd 1.x", StableDiffusionImg2ImgPipeline), ("sdxl", StableDiffusionXLImg2ImgPipeline)])
def test_image_to_image_takes_the_same_adapter(model, cls):
    pipe = PIPELINES[model](cls)
    start = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def generate():
        generator = torch.Generator().manual_seed(0)
        return pipe("a blue star", image=start, strength=1.0, num_inference_steps=2, generator=generator, output_type="np").images

    before = generate()
    handle = attach(pipe, make_adapter(pipe))
    assert not np.array_equal(generate(), before)
    handle.remove()
    assert np.array_equal(generate(), before)


@every_model
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_keep_their_dtype(model, dtype):
    pipe = PIPELINES[model]()
    adapter = make_adapter(pipe)
    exact = adapter(encode(pipe)[0]).detach()
    pipe.to(dtype)
    attach(pipe, adapter)
    adapted = encode(pipe)
    assert {t.dtype for t in adapted} == {dtype}
    assert (adapted[0].float() - exact).norm() < 0.02 * exact.norm()


def test_an_adapter_in_half_precision_adapts_fp32_embeddings():
    pipe = pipeline()
    own = encode(pipe)[0]
    attach(pipe, make_adapter(pipe).bfloat16())
    assert encode(pipe)[0].dtype == torch.float32 and not torch.equal(encode(pipe)[0], own)


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_another_base_model_is_refused_by_name_and_left_unchanged(model, dtype):
    adapter = make_adapter(PIPELINES[model]())
    attach(PIPELINES[model]().to(dtype), adapter)
    other_base = PIPELINES[model](seed=1).to(dtype)
    with pytest.raises(ValueError, match="trained for the text encoder of tiny/base, but this pipeline has another one: load tiny/base"):
        attach(other_base, adapter)
    for other in PIPELINES.keys() - {model}:
        with pytest.raises(ValueError, match=r"tiny/base with text features of width \d+, but those of this pipeline have width \d+"):
            attach(PIPELINES[other]().to(dtype), adapter)
    assert "encode_prompt" not in other_base.__dict__


def test_the_second_text_encoder_and_the_pooled_width_are_checked():
    adapter, other = make_adapter(xl()), xl()
    other.text_encoder_2 = xl(seed=1).text_encoder_2
    with pytest.raises(ValueError, match="has another one: load tiny/base"):
        attach(other, adapter)
    with pytest.raises(ValueError, match="pooled embeddings of width 20, but those of this pipeline have width 24: load tiny/base"):
        attach(xl(pooled=24), adapter)


def test_a_pipeline_without_a_text_encoder_is_refused():
    pipe = pipeline()
    adapter = make_adapter(pipe)
    pipe.text_encoder = None
    with pytest.raises(ValueError, match="loaded without a text encoder, so there is no prompt to adapt: load all of its components"):
        attach(pipe, adapter)


def test_two_adapters_at_once_are_refused():
    pipe = pipeline()
    attach(pipe, make_adapter(pipe))
    with pytest.raises(ValueError, match="attached to this pipeline already"):
        attach(pipe, make_adapter(pipe))
