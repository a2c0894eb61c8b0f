"""While it stays, a guest bears what is done to a pipeline: halves, offloading, compiling, new words, LoRA. When it leaves, it is gone."""

import gc
import pickle
import weakref
from copy import deepcopy

import accelerate
import numpy as np
import pytest
import torch
from helpers.small_models import digest
from helpers.tiny_pipelines import ALL, adapter, draw, encode, every_model, pipeline
from torch import nn

from sur_adapter import attach
from sur_adapter.generation import attach as guest

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="weights that come and go between two devices need a GPU")


def by_model(pipe) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def by_layer(pipe) -> None:
    """As enable_sequential_cpu_offload, which itself refuses a CPU: the weights lie on `meta` but while their layer runs."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            accelerate.cpu_offload(part, torch.device("cpu"))


def attached(pipe, guest, deed, first: str):
    """The handle of a guest that comes before what is done to its pipeline, or after it."""
    if first != "the guest":
        deed(pipe)
    handle = attach(pipe, guest)
    if first == "the guest":
        deed(pipe)
    return handle


@every_model
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_pipeline_in_half_precision_draws_with_its_guest_and_without_it_as_ever(model, dtype):
    pipe = ALL[model]().to(dtype)
    before = draw(pipe)
    handle = attach(pipe, adapter(pipe))
    after = draw(pipe)
    assert np.isfinite(after).all() and not np.allclose(after, before, atol=1e-2)
    handle.strength = 0.0
    assert np.array_equal(draw(pipe), before)


@every_model
@pytest.mark.parametrize("offload", [by_model, by_layer])
@pytest.mark.parametrize("first", ["the guest", "offloading"])
def test_weights_that_are_kept_elsewhere_draw_the_same_picture(model, offload, first):
    reference, pipe = ALL[model](), ALL[model]()
    guest, before = adapter(pipe), draw(pipe)
    attach(reference, guest)
    expected = draw(reference)
    handle = attached(pipe, guest, offload, first)
    assert pipe.unet.device.type == ("meta" if offload is by_layer else "cpu")
    assert np.array_equal(draw(pipe), expected) and not np.array_equal(expected, before)
    assert {p.device.type for p in guest.parameters()} == {"cpu"}
    handle.remove()
    assert np.array_equal(draw(pipe), before)


@GPU
@every_model
@pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_the_adapter_goes_where_the_features_are(model, offload):
    pipe = ALL[model]()
    getattr(pipe, offload)()
    guest, before = adapter(pipe), draw(pipe)
    attach(pipe, guest)
    assert not np.array_equal(draw(pipe), before) and {p.device.type for p in guest.parameters()} == {"cuda"}


@every_model
def test_a_compiled_unet_is_not_compiled_anew_for_a_guest_or_another_strength(model):
    pipe = ALL[model]()
    before = draw(pipe)
    handle = attach(pipe, adapter(pipe))
    expected = draw(pipe)
    handle.remove()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    draw(pipe)
    with torch._dynamo.config.patch(error_on_recompile=True):
        handle = attach(pipe, adapter(pipe))
        assert np.allclose(draw(pipe), expected, atol=1e-4)
        handle.strength = 0.5
        assert not np.allclose(draw(pipe), expected, atol=1e-4)
        handle.remove()
        assert np.allclose(draw(pipe), before, atol=1e-4)


def test_a_text_encoder_that_was_compiled_is_known_again_before_and_after():
    pipe = pipeline()
    guest = adapter(pipe)
    handle = attach(pipe, guest)
    expected = draw(pipe)
    pipe.text_encoder = torch.compile(pipe.text_encoder, backend="eager")
    assert np.allclose(draw(pipe), expected, atol=1e-4)
    handle.remove()
    attach(pipe, guest)
    assert np.allclose(draw(pipe), expected, atol=1e-4)


def learn(pipe) -> None:
    """Textual inversion: <cat>, a word of two vectors, for every text encoder."""
    for end in ("", "_2") if hasattr(pipe, "tokenizer_2") else ("",):
        words, encoder = getattr(pipe, f"tokenizer{end}"), getattr(pipe, f"text_encoder{end}")
        vectors = torch.randn(2, encoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
        pipe.load_textual_inversion({"<cat>": vectors}, text_encoder=encoder, tokenizer=words)


@every_model
@pytest.mark.parametrize("first", ["the guest", "the word"])
@torch.no_grad()
def test_a_word_of_several_vectors_that_was_learned_is_adapted_as_any_other(model, first):
    pipe = ALL[model]()
    if model == "sdxl":
        pipe.tokenizer_2 = deepcopy(pipe.tokenizer)
    guest = adapter(pipe)
    handle = attached(pipe, guest, learn, first)
    adapted, picture = encode(pipe, "a <cat>"), draw(pipe, ("a <cat>",))
    handle.remove()
    own = encode(pipe, "a <cat>")
    assert torch.equal(adapted[0], guest(own[0])) and not torch.equal(adapted[0], own[0])
    assert not torch.equal(own[0], encode(pipe, "a <cat> <cat>")[0]) and not np.array_equal(picture, draw(pipe, ("a <cat>",)))


def low_rank(pipe) -> dict:
    """A LoRA of the U-Net and of the first text encoder, for one projection of each, under the names that diffusers gives them."""
    random, found = torch.Generator().manual_seed(0), {}
    for part, end in (("unet", "attn2.to_q"), ("text_encoder", "self_attn.q_proj")):
        for name, layer in getattr(pipe, part).named_modules():
            if name.endswith(end):
                found[f"{part}.{name}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=random)
                found[f"{part}.{name}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=random)
    return found


@every_model
@pytest.mark.parametrize("first", ["the guest", "the LoRA"])
@torch.no_grad()
def test_a_lora_of_unet_and_text_encoder_and_its_scale_act_beside_the_guest(model, first):
    pytest.importorskip("peft", reason="diffusers loads a LoRA by the package peft alone")
    pipe = ALL[model]()
    guest, plain = adapter(pipe), draw(pipe)
    handle = attached(pipe, guest, lambda pipe: pipe.load_lora_weights(low_rank(pipe), adapter_name="style"), first)
    pipe.set_adapters("style", 1.0)
    scales = [{}, {"cross_attention_kwargs": {"scale": 0.5}}]
    with_both, adapted = [draw(pipe, **scale) for scale in scales], encode(pipe)
    handle.strength = 0.0
    with_lora, own = [draw(pipe, **scale) for scale in scales], encode(pipe)
    pictures = [plain, *with_both, *with_lora]
    assert not any(np.array_equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
    assert torch.equal(adapted[0], guest(own[0]))
    pipe.unload_lora_weights()
    assert np.array_equal(draw(pipe), plain)


@every_model
def test_of_a_guest_that_left_nothing_is_to_be_found_in_the_pipeline_however_deep(model):
    pipe = ALL[model]()
    guest, own, weights = adapter(pipe), dict(vars(pipe)), {name: p.clone() for name, p in pipe.unet.state_dict().items()}
    with attach(pipe, guest):
        if model != "sdxl":  # whose text encoders, with or without a guest, transformers 5 cannot pickle once they have run
            draw(pipe)
        assert b"sur_adapter" in pickle.dumps(pipe)
    assert b"sur_adapter" not in pickle.dumps(pipe)
    with attach(pipe, guest):
        draw(pipe)
    assert "encode_prompt" not in vars(pipe) and all(vars(pipe)[name] is own[name] for name in pipe.components)
    assert all(torch.equal(p, weights[name]) for name, p in pipe.unet.state_dict().items())
    gone = weakref.ref(guest)
    del guest
    gc.collect()
    assert gone() is None


@every_model
def test_a_pipeline_is_saved_without_its_guest_and_copied_with_it(model, tmp_path):
    pipe = ALL[model]()
    guest = adapter(pipe)
    handle = attach(pipe, guest)
    copies = [deepcopy(pipe), pickle.loads(pickle.dumps(pipe))]
    adapted = draw(pipe)
    pipe.save_pretrained(tmp_path / "with")
    handle.remove()
    before = draw(pipe)
    pipe.save_pretrained(tmp_path / "without")
    assert digest(tmp_path / "with") == digest(tmp_path / "without")
    for other in copies:
        other.set_progress_bar_config(disable=True)
        assert np.array_equal(draw(other), adapted)
        other.encode_prompt.__self__.remove()
        assert np.array_equal(draw(other), before)


def test_what_goes_wrong_in_the_house_ends_the_visit_too():
    pipe = pipeline()
    with pytest.raises(KeyError), attach(pipe, adapter(pipe)):
        raise KeyError("a mishap")
    assert "encode_prompt" not in vars(pipe)


def test_a_handle_whose_guest_has_left_does_not_turn_out_the_next_one():
    pipe = pipeline()
    guest = adapter(pipe)
    first = attach(pipe, guest)
    first.remove()
    attach(pipe, guest)
    adapted = draw(pipe)
    first.remove()
    assert np.array_equal(draw(pipe), adapted)


def test_a_way_of_encoding_that_the_caller_set_is_adapted_and_put_back():
    pipe = pipeline()
    way, plain = pipe.encode_prompt, draw(pipe)

    def politely(prompt, *args, **kwargs):
        return way([f"{words} waves" for words in prompt], *args, **kwargs)

    pipe.encode_prompt = politely
    before = draw(pipe)
    handle = attach(pipe, adapter(pipe))
    assert not np.array_equal(draw(pipe), before) and not np.array_equal(before, plain)
    handle.strength = 0.0
    assert np.array_equal(draw(pipe), before)
    handle.remove()
    assert pipe.encode_prompt is politely and np.array_equal(draw(pipe), before)


@pytest.mark.parametrize("model", ["sd 1.x", "sdxl"])
def test_a_text_encoder_that_was_exchanged_for_another_is_refused_at_the_next_prompt(model):
    pipe, own = ALL[model](), ALL[model]()
    handle = attach(pipe, adapter(pipe))
    name = "text_encoder_2" if model == "sdxl" else "text_encoder"
    setattr(pipe, name, getattr(ALL[model](seed=1), name))
    with pytest.raises(ValueError, match="trained for the text encoder of tiny/base, but this pipeline has another one: load tiny/base"):
        draw(pipe)
    handle.strength = 0.0
    draw(pipe)
    handle.strength = 1.0
    setattr(pipe, name, getattr(own, name))
    draw(pipe)


def test_another_text_encoder_at_the_place_in_memory_of_one_that_was_let_go_is_refused_all_the_same(monkeypatch):
    monkeypatch.setattr(guest, "id", lambda _: 7, raising=False)  # as memory is given out again: by its place, each is the one before
    attach(pipe := pipeline(), adapter(pipe))
    pipe.text_encoder = pipeline(seed=1).text_encoder
    with pytest.raises(ValueError, match="trained for the text encoder of tiny/base, but this pipeline has another one"):
        draw(pipe)


def test_a_text_encoder_that_is_let_go_gives_its_memory_back_and_the_callers_features_are_drawn_from():
    pipe = pipeline()
    positive, negative = encode(pipe, "three red circles")
    before = draw(pipe)
    attach(pipe, adapter(pipe))
    gone = weakref.ref(pipe.text_encoder)
    pipe.text_encoder = None
    gc.collect()
    assert gone() is None
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    how = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 8, "width": 8, "output_type": "np"}
    pictures = pipe(prompt_embeds=positive, negative_prompt_embeds=negative, latents=noise, **how).images
    assert np.array_equal(pictures, before)


@pytest.mark.parametrize("eta", ["0.5", None, float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_refused_and_the_last_one_stays(eta):
    pipe = pipeline()
    handle = attach(pipe, adapter(pipe), strength=0.25)
    with pytest.raises(ValueError, match=r"scale is .*: give a number, 0 for the base model, 1 for the whole adapter"):
        handle.strength = eta
    assert handle.strength == 0.25
    other = pipeline()
    if eta is not None:
        with pytest.raises(ValueError, match="give a number"):
            attach(other, adapter(other), strength=eta)
        assert "encode_prompt" not in vars(other)
