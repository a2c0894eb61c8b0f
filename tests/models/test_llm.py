"""The language model: any architecture, any layers in one pass, and prompts of a batch do not affect each other."""

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny_models as tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from sur_adapter.config import from_dict
from sur_adapter.features.extractors.llm import Config
from sur_adapter.models.llm import LanguageModel, LLMConfig, length_batches
from sur_adapter.models.torch_utils import has_bf16

PROMPTS = ["a cat", "three green stars in a row under two blue squares", "two blue squares", "", "a cat"]


@pytest.fixture(scope="module", params=tiny.LLMS)
def model(request, tmp_path_factory) -> str:
    return tiny.llm(tmp_path_factory.mktemp(request.param), request.param)


def load(model: str, layers, pooling: str = "last", **settings) -> LanguageModel:
    return LanguageModel(model, LLMConfig(layers=layers, pooling=pooling, **settings))


def blocks(model):
    """The decoder's blocks, by the names that these classes have for them."""
    return model.model.layers if hasattr(model, "model") else model.transformer.h


@torch.no_grad()
def reference_states(folder: str, prompt: str) -> dict[int, torch.Tensor]:
    """layer -> (T, d): the output of each block of the whole model, for one prompt without padding."""
    tokenizer, llm, states = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval(), {}
    for k, block in enumerate(blocks(llm), 1):
        block.register_forward_hook(lambda _m, _i, out, k=k: states.update({k: out[0] if isinstance(out, tuple) else out}))
    llm(torch.tensor([tokenizer(prompt).input_ids or [tokenizer.bos_token_id]]))
    return {k: v[0] for k, v in states.items()}


@pytest.mark.parametrize("pooling", ["last", "mean", "tokens", "layernorm-mean"])
def test_pooled_states_of_a_batch_equal_those_of_the_whole_model_for_one_prompt(model, pooling):
    llm, reference = load(model, [3, 1], pooling, max_tokens_per_batch=24), [reference_states(model, p) for p in PROMPTS]
    features = llm(PROMPTS)
    assert list(features) == (["layernorm_mean"] if pooling == "layernorm-mean" else ["layer_1", "layer_3"])
    pool = {"last": lambda s: s[-1], "mean": lambda s: s.mean(0), "tokens": lambda s: s}
    for i, states in enumerate(reference):
        if pooling == "layernorm-mean":
            expected = {"layernorm_mean": torch.stack([F.layer_norm(states[k], (32,)) for k in (1, 3)]).mean((0, 1))}
        else:
            expected = {f"layer_{k}": pool[pooling](states[k]) for k in (1, 3)}
        for name, values in expected.items():
            rounding = 1e-5 * values.abs().max().item()  # sums of a padded batch are taken in another order
            assert torch.allclose(features[name][i], values, rtol=0, atol=rounding), (name, i)


def test_the_batch_does_not_change_the_features_of_a_prompt(model):
    for pooling in ("last", "mean", "layernorm-mean"):
        alone, together = load(model, "all", pooling, max_tokens_per_batch=1), load(model, "all", pooling)
        for name, values in together(PROMPTS).items():
            for i, prompt in enumerate(PROMPTS):
                assert torch.allclose(alone([prompt])[name][0], values[i], rtol=1e-5, atol=1e-5)
            assert (values[0] - values[1]).abs().max() > 0.1  # different prompts differ


def test_layers_above_the_highest_chosen_one_are_not_loaded(model):
    llm = load(model, [2])
    assert len(llm.blocks) == 2 and len(load(model, "all").blocks) == 4
    assert sum(p.numel() for p in llm.model.parameters()) < sum(p.numel() for p in load(model, [4]).model.parameters())


def test_length_batches_hold_every_row_once_longest_first_within_the_budget():
    lengths = [3, 9, 1, 9, 2, 30, 3]
    batches = list(length_batches(lengths, 18))
    assert sorted(r for rows in batches for r in rows) == list(range(7))
    assert batches == [[5], [1, 3], [0, 6, 4, 2]]
    assert list(length_batches([], 18)) == []


def test_a_prompt_longer_than_the_context_is_truncated(tmp_path):
    llm = load(tiny.llm(tmp_path, "Llama"), [1])
    (ids,) = llm.encode(["a cat " * 200])
    assert len(ids) == 96
    assert llm(["a cat " * 200])["layer_1"].isfinite().all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pooling": "first"}, "params.yaml: cache.llm.pooling is 'first': choose last or mean or tokens or layernorm-mean"),
        ({"precision": "fp8"}, "params.yaml: cache.llm.precision is 'fp8'.*: choose auto or fp32 or bf16"),
        ({"bits": 3}, "params.yaml: cache.llm.bits is 3: give 8 or 4 or null"),
        ({"layers": "most"}, "params.yaml: cache.llm.layers is 'most': give a list, each item a whole number or all"),
        ({"max_tokens_per_batch": 0}, "params.yaml: cache.llm.max_tokens_per_batch is 0: give at least 1"),
        ({"storage_dtype": "fp8"}, "params.yaml: cache.llm.storage_dtype is 'fp8'.*: choose fp16 or fp32"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_dict(Config, {"layers": [1]} | settings, "cache.llm")


@pytest.mark.parametrize("layers", [(), (0,), (2, 5)])
def test_layers_that_the_model_does_not_have_are_refused_before_it_is_loaded(tmp_path, layers):
    folder = tiny.llm(tmp_path, "Llama")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"cache.llm.layers is \[.*\], but .* has layers 1 to 4: name some of those, or `all`"):
        load(folder, layers)


def test_quantisation_names_the_package_that_is_missing(tmp_path):
    try:
        import bitsandbytes  # noqa: F401

        pytest.skip("bitsandbytes is here")
    except ImportError:
        pass
    with pytest.raises(ValueError, match="cache.llm.bits is 8, which needs the package bitsandbytes: install it"):
        load(tiny.llm(tmp_path, "Llama"), [1], bits=8)


def test_bf16_and_a_device_map_give_nearly_the_same_states(tmp_path):
    folder = tiny.llm(tmp_path, "Llama")
    fp32 = load(folder, [2])(PROMPTS)["layer_2"]
    bf16 = load(folder, [2], precision="bf16", device_map="cpu")(PROMPTS)["layer_2"]
    difference = (fp32 - bf16).abs().max()
    assert bf16.dtype == torch.float32 and difference < 0.05 * fp32.abs().max()
    assert (difference > 0) == has_bf16("cpu"), "without instructions for bf16 products are fp32"
