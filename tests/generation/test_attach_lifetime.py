"""An attached adapter works with fp16, offloading, compilation, textual inversion and LoRA, and is removed completely."""

import gc
import pickle
import weakref
from copy import deepcopy

import accelerate
import numpy as np
import pytest
import torch
from helpers.small_models import digest
from helpers.tiny_pipelines import PIPELINES, draw, encode, every_model, make_adapter, pipeline
from torch import nn

from sur_adapter import attach
from sur_adapter.generation import attach as attach_module

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="moving weights between two devices needs a GPU")


def by_model(pipe) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def by_layer(pipe) -> None:
    """Like enable_sequential_cpu_offload, which refuses a CPU: weights are on `meta` except while their layer runs."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            accelerate.cpu_offload(part, torch.device("cpu"))


def attached(pipe, adapter, change, first: str):
    """Attaches an adapter before or after another change of the pipeline and returns its handle."""
    if first != "attach":
        change(pipe)
    handle = attach(pipe, adapter)
    if first == "attach":
        change(pipe)
    return handle


@every_model
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_pipeline_in_half_precision_works_with_the_adapter_and_is_restored(model, dtype):
    pipe = PIPELINES[model]().to(dtype)
    before = draw(pipe)
    handle = attach(pipe, make_adapter(pipe))
    after = draw(pipe)
    assert np.isfinite(after).all() and not np.allclose(after, before, atol=1e-2)
    handle.scale = 0.0
    assert np.array_equal(draw(pipe), before)


@every_model
@pytest.mark.parametrize("offload", [by_model, by_layer])
@pytest.mark.parametrize("first", ["attach", "offloading"])
def test_offloading_gives_the_same_image(model, offload, first):
    reference, pipe = PIPELINES[model](), PIPELINES[model]()
    adapter, before = make_adapter(pipe), draw(pipe)
    attach(reference, adapter)
    expected = draw(reference)
    handle = attached(pipe, adapter, offload, first)
    assert pipe.unet.device.type == ("meta" if offload is by_layer else "cpu")
    assert np.array_equal(draw(pipe), expected) and not np.array_equal(expected, before)
    assert {p.device.type for p in adapter.parameters()} == {"cpu"}
    handle.remove()
    assert np.array_equal(draw(pipe), before)


@GPU
@every_model
@pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_the_adapter_moves_to_the_device_of_the_embeddings(model, offload):
    pipe = PIPELINES[model]()
    getattr(pipe, offload)()
    adapter, before = make_adapter(pipe), draw(pipe)
    attach(pipe, adapter)
    assert not np.array_equal(draw(pipe), before) and {p.device.type for p in adapter.parameters()} == {"cuda"}


@every_model
def test_attaching_and_changing_the_scale_do_not_recompile_the_unet(model):
    pipe = PIPELINES[model]()
    before = draw(pipe)
    handle = attach(pipe, make_adapter(pipe))
    expected = draw(pipe)
    handle.remove()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    draw(pipe)
    with torch._dynamo.config.patch(error_on_recompile=True):
        handle = attach(pipe, make_adapter(pipe))
        assert np.allclose(draw(pipe), expected, atol=1e-4)
        handle.scale = 0.5
        assert not np.allclose(draw(pipe), expected, atol=1e-4)
        handle.remove()
        assert np.allclose(draw(pipe), before, atol=1e-4)


def test_a_compiled_text_encoder_is_recognised():
    pipe = pipeline()
    adapter = make_adapter(pipe)
    handle = attach(pipe, adapter)
    expected = draw(pipe)
    pipe.text_encoder = torch.compile(pipe.text_encoder, backend="eager")
    assert np.allclose(draw(pipe), expected, atol=1e-4)
    handle.remove()
    attach(pipe, adapter)
    assert np.allclose(draw(pipe), expected, atol=1e-4)


def add_textual_inversion(pipe) -> None:
    """Adds a textual inversion to every text encoder: <cat>, two vectors."""
    for end in ("", "_2") if hasattr(pipe, "tokenizer_2") else ("",):
        tokenizer, encoder = getattr(pipe, f"tokenizer{end}"), getattr(pipe, f"text_encoder{end}")
        vectors = torch.randn(2, encoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
        pipe.load_textual_inversion({"<cat>": vectors}, text_encoder=encoder, tokenizer=tokenizer)


@every_model
@pytest.mark.parametrize("first", ["attach", "textual inversion"])
@torch.no_grad()
def test_a_textual_inversion_of_several_vectors_is_adapted_like_any_word(model, first):
    pipe = PIPELINES[model]()
    if model == "sdxl":
        pipe.tokenizer_2 = deepcopy(pipe.tokenizer)
    adapter = make_adapter(pipe)
    handle = attached(pipe, adapter, add_textual_inversion, first)
    adapted, image = encode(pipe, "a <cat>"), draw(pipe, ("a <cat>",))
    handle.remove()
    own = encode(pipe, "a <cat>")
    assert torch.equal(adapted[0], adapter(own[0])) and not torch.equal(adapted[0], own[0])
    assert not torch.equal(own[0], encode(pipe, "a <cat> <cat>")[0]) and not np.array_equal(image, draw(pipe, ("a <cat>",)))


def lora_weights(pipe) -> dict:
    """Returns random LoRA weights for one projection of the U-Net and one of the first text encoder, named as in diffusers."""
    random, weights = torch.Generator().manual_seed(0), {}
    for part, end in (("unet", "attn2.to_q"), ("text_encoder", "self_attn.q_proj")):
        for name, layer in getattr(pipe, part).named_modules():
            if name.endswith(end):
                weights[f"{part}.{name}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=random)
                weights[f"{part}.{name}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=random)
    return weights


@every_model
@pytest.mark.parametrize("first", ["attach", "LoRA"])
@torch.no_grad()
def test_a_lora_of_unet_and_text_encoder_works_with_the_adapter(model, first):
    pytest.importorskip("peft", reason="diffusers needs the package peft to load a LoRA")
    pipe = PIPELINES[model]()
    adapter, plain = make_adapter(pipe), draw(pipe)
    handle = attached(pipe, adapter, lambda pipe: pipe.load_lora_weights(lora_weights(pipe), adapter_name="style"), first)
    pipe.set_adapters("style", 1.0)
    scales = [{}, {"cross_attention_kwargs": {"scale": 0.5}}]
    with_both, adapted = [draw(pipe, **scale) for scale in scales], encode(pipe)
    handle.scale = 0.0
    with_lora, own = [draw(pipe, **scale) for scale in scales], encode(pipe)
    images = [plain, *with_both, *with_lora]
    assert not any(np.array_equal(a, b) for i, a in enumerate(images) for b in images[:i])
    assert torch.equal(adapted[0], adapter(own[0]))
    pipe.unload_lora_weights()
    assert np.array_equal(draw(pipe), plain)


@every_model
def test_after_remove_nothing_of_the_adapter_is_left_in_the_pipeline(model):
    pipe = PIPELINES[model]()
    adapter, own, weights = make_adapter(pipe), dict(vars(pipe)), {name: p.clone() for name, p in pipe.unet.state_dict().items()}
    with attach(pipe, adapter):
        if model != "sdxl":  # transformers 5 cannot pickle SDXL's text encoders after a call, with or without an adapter
            draw(pipe)
        assert b"sur_adapter" in pickle.dumps(pipe)
    assert b"sur_adapter" not in pickle.dumps(pipe)
    with attach(pipe, adapter):
        draw(pipe)
    assert "encode_prompt" not in vars(pipe) and all(vars(pipe)[name] is own[name] for name in pipe.components)
    assert all(torch.equal(p, weights[name]) for name, p in pipe.unet.state_dict().items())
    reference_to_freed = weakref.ref(adapter)
    del adapter
    gc.collect()
    assert reference_to_freed() is None


@every_model
def test_a_pipeline_is_saved_without_the_adapter_and_copied_with_it(model, tmp_path):
    pipe = PIPELINES[model]()
    adapter = make_adapter(pipe)
    handle = attach(pipe, adapter)
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


def test_an_exception_in_the_with_block_removes_the_adapter():
    pipe = pipeline()
    with pytest.raises(KeyError), attach(pipe, make_adapter(pipe)):
        raise KeyError("an error")
    assert "encode_prompt" not in vars(pipe)


def test_a_removed_handle_does_not_remove_the_next_adapter():
    pipe = pipeline()
    adapter = make_adapter(pipe)
    first = attach(pipe, adapter)
    first.remove()
    attach(pipe, adapter)
    adapted = draw(pipe)
    first.remove()
    assert np.array_equal(draw(pipe), adapted)


def test_an_encode_prompt_that_the_user_set_is_adapted_and_restored():
    pipe = pipeline()
    original, plain = pipe.encode_prompt, draw(pipe)

    def with_suffix(prompt, *args, **kwargs):
        return original([f"{text} waves" for text in prompt], *args, **kwargs)

    pipe.encode_prompt = with_suffix
    before = draw(pipe)
    handle = attach(pipe, make_adapter(pipe))
    assert not np.array_equal(draw(pipe), before) and not np.array_equal(before, plain)
    handle.scale = 0.0
    assert np.array_equal(draw(pipe), before)
    handle.remove()
    assert pipe.encode_prompt is with_suffix and np.array_equal(draw(pipe), before)


@pytest.mark.parametrize("model", ["sd 1.x", "sdxl"])
def test_a_replaced_text_encoder_is_refused_at_the_next_prompt(model):
    pipe, own = PIPELINES[model](), PIPELINES[model]()
    handle = attach(pipe, make_adapter(pipe))
    name = "text_encoder_2" if model == "sdxl" else "text_encoder"
    setattr(pipe, name, getattr(PIPELINES[model](seed=1), name))
    with pytest.raises(ValueError, match="trained for the text encoder of tiny/base, but this pipeline has another one: load tiny/base"):
        draw(pipe)
    handle.scale = 0.0
    draw(pipe)
    handle.scale = 1.0
    setattr(pipe, name, getattr(own, name))
    draw(pipe)


def test_another_text_encoder_with_the_id_of_a_freed_one_is_refused(monkeypatch):
    monkeypatch.setattr(attach_module, "id", lambda _: 7, raising=False)  # gives each object the same address
    attach(pipe := pipeline(), make_adapter(pipe))
    pipe.text_encoder = pipeline(seed=1).text_encoder
    with pytest.raises(ValueError, match="trained for the text encoder of tiny/base, but this pipeline has another one"):
        draw(pipe)


def test_a_removed_text_encoder_is_freed_and_given_embeddings_still_work():
    pipe = pipeline()
    positive, negative = encode(pipe, "three red circles")
    before = draw(pipe)
    attach(pipe, make_adapter(pipe))
    reference_to_freed = weakref.ref(pipe.text_encoder)
    pipe.text_encoder = None
    gc.collect()
    assert reference_to_freed() is None
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sampling_kwargs = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 8, "width": 8, "output_type": "np"}
    images = pipe(prompt_embeds=positive, negative_prompt_embeds=negative, latents=noise, **sampling_kwargs).images
    assert np.array_equal(images, before)


@pytest.mark.parametrize("value", ["0.5", None, float("nan"), float("inf")])
def test_a_scale_that_is_not_a_finite_number_is_refused_and_the_previous_scale_stays(value):
    pipe = pipeline()
    handle = attach(pipe, make_adapter(pipe), scale=0.25)
    with pytest.raises(ValueError, match=r"scale is .*: give a number, 0 for the base model, 1 for the whole adapter"):
        handle.scale = value
    assert handle.scale == 0.25
    other = pipeline()
    if value is not None:
        with pytest.raises(ValueError, match="give a number"):
            attach(other, make_adapter(other), scale=value)
        assert "encode_prompt" not in vars(other)


def test_strength_is_an_alias_of_scale_and_both_at_once_are_refused():
    pipe = pipeline()
    with attach(pipe, make_adapter(pipe), strength=0.25) as handle:
        assert handle.scale == 0.25
        handle.scale = 0.5
        half = draw(pipe)
        assert handle.scale == 0.5
        handle.scale = 0.25
        assert handle.scale == 0.25 and not np.array_equal(draw(pipe), half)
    with attach(pipe, make_adapter(pipe), 0.5):
        assert np.array_equal(draw(pipe), half)
    with pytest.raises(ValueError, match="scale is 0.5 and strength 0.5, but they are two names of one setting: give only scale"):
        attach(pipe, make_adapter(pipe), scale=0.5, strength=0.5)
    assert "encode_prompt" not in vars(pipe)
