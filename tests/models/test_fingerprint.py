"""The fingerprint of a text encoder: the same in every dtype it is loaded in, different for another encoder."""

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from sur_adapter.models.fingerprint import fingerprint, same_encoder

LOADED = {
    "fp32": lambda m: m,
    "fp16": lambda m: m.half(),
    "bf16": lambda m: m.bfloat16(),
    "fp16 file as bf16": lambda m: m.half().bfloat16(),
    "fp16 file as fp32": lambda m: m.half().float(),
    "offloaded": lambda m: cpu_offload(m, torch.device("cpu")),
}


def encoder(seed: int = 0, loaded: str = "fp32") -> CLIPTextModel:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 77}
    return LOADED[loaded](CLIPTextModel(CLIPTextConfig(vocab_size=50, bos_token_id=0, eos_token_id=1, **sizes)))


@pytest.mark.parametrize("loaded", LOADED)
def test_an_encoder_is_recognised_in_every_dtype_it_is_loaded_in(loaded):
    known, other = fingerprint(encoder()), fingerprint(encoder(loaded=loaded))
    assert same_encoder(known, other) and same_encoder(other, known)
    assert not same_encoder(known, fingerprint(encoder(1, loaded))) and not same_encoder(fingerprint(encoder(1)), other)


def test_a_slightly_fine_tuned_encoder_differs_unless_bf16_has_lost_those_digits():
    tuned = encoder()
    weights = tuned.state_dict()["embeddings.position_embedding.weight"]
    near = weights.half().nextafter(torch.tensor(1.0).half()).float()  # the next fp16 number
    lost = (near.bfloat16() == weights.bfloat16()) & (near.bfloat16() == weights.half().bfloat16())
    with torch.no_grad():
        weights[lost] = near[lost]
    assert 0.5 < lost.float().mean() < 1
    assert not same_encoder(fingerprint(encoder()), fingerprint(tuned))
    assert same_encoder(fingerprint(encoder()), fingerprint(tuned.bfloat16()))


def test_a_fingerprint_of_bf16_weights_matches_fp32_and_bf16_copies_but_none_that_went_through_fp16():
    known = fingerprint(encoder(loaded="bf16"))
    for loaded in LOADED:
        assert same_encoder(known, fingerprint(encoder(loaded=loaded))) == (loaded in ("fp32", "bf16", "offloaded"))
        assert not same_encoder(known, fingerprint(encoder(1, loaded)))


def test_the_short_fingerprints_of_earlier_adapters_are_compared_by_the_hash_they_have():
    known = fingerprint(encoder())
    short = known.split(".")[0]
    assert len(short) == 16 and same_encoder(short, known) and same_encoder(short, fingerprint(encoder(loaded="bf16")))
    assert not same_encoder(short, fingerprint(encoder(1)))


def test_a_module_that_is_no_text_encoder_is_refused():
    with pytest.raises(ValueError, match="Linear has no position_embedding.weight and no final_layer_norm.weight"):
        fingerprint(nn.Linear(2, 2))
