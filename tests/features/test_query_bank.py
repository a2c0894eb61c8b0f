"""The query bank on disk."""

import pytest
import torch

from sur_adapter.features.query_bank import CrossAttention, load_query_bank, save_query_bank


def layer(heads: int, width: int) -> CrossAttention:
    return CrossAttention(heads, *(torch.randn(*shape) for shape in ((6, width), (width, 8), (width, 8), (10, width), (10,))))


def test_saved_layers_give_the_same_attention_outputs_when_loaded(tmp_path):
    torch.manual_seed(0)
    layers, prompt_embeds = {"down": layer(2, 4), "up": layer(4, 16)}, torch.randn(3, 5, 8)
    save_query_bank(layers, tmp_path)
    for before, after in zip(layers.values(), load_query_bank(tmp_path), strict=True):
        assert torch.allclose(before(before.q, prompt_embeds), after(after.q, prompt_embeds), atol=0.02)
    assert {loaded.q.dtype for loaded in load_query_bank(tmp_path, dtype=torch.bfloat16)} == {torch.bfloat16}


def test_equal_banks_give_equal_bytes(tmp_path):
    torch.manual_seed(0)
    layers = {name: layer(2, 4) for name in "abcdef"}
    for folder in ("one", "two"):
        save_query_bank(dict(sorted(layers.items(), reverse=folder == "two")), tmp_path / folder)
    one, two = ((tmp_path / folder / "queries.safetensors").read_bytes() for folder in ("one", "two"))
    assert one == two


def test_a_bank_of_another_model_is_stale(tmp_path):
    torch.manual_seed(0)
    save_query_bank({"down": layer(2, 4)}, tmp_path, "a/model")
    assert load_query_bank(tmp_path, model="a/model") and load_query_bank(tmp_path)
    with pytest.raises(ValueError, match="recorded from 'a/model', but this run needs 'b': it is stale; run `dvc repro`"):
        load_query_bank(tmp_path, model="b")


def test_a_bank_that_was_never_recorded_is_reported_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="queries.safetensors is missing: .*run `dvc repro` to record it"):
        load_query_bank(tmp_path)
