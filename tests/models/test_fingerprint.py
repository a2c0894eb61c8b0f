"""The mark of a text encoder: the same in every type it may be loaded in, another for another encoder."""

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from sur_adapter.models.fingerprint import fingerprint, same

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
def test_an_encoder_is_known_again_in_whatever_type_it_is_loaded(loaded):
    mark, other = fingerprint(encoder()), fingerprint(encoder(loaded=loaded))
    assert same(mark, other) and same(other, mark)
    assert not same(mark, fingerprint(encoder(1, loaded))) and not same(fingerprint(encoder(1)), other)


def test_an_encoder_that_was_trained_on_ever_so_little_is_another_unless_bf16_has_lost_those_digits():
    tuned = encoder()
    places = tuned.state_dict()["embeddings.position_embedding.weight"]
    near = places.half().nextafter(torch.tensor(1.0).half()).float()  # the next number of fp16
    lost = (near.bfloat16() == places.bfloat16()) & (near.bfloat16() == places.half().bfloat16())
    with torch.no_grad():
        places[lost] = near[lost]
    assert 0.5 < lost.float().mean() < 1
    assert not same(fingerprint(encoder()), fingerprint(tuned))
    assert same(fingerprint(encoder()), fingerprint(tuned.bfloat16()))


def test_a_mark_taken_in_bf16_knows_whole_and_bf16_copies_but_none_that_went_through_fp16():
    mark = fingerprint(encoder(loaded="bf16"))
    for loaded in LOADED:
        assert same(mark, fingerprint(encoder(loaded=loaded))) == (loaded in ("fp32", "bf16", "offloaded"))
        assert not same(mark, fingerprint(encoder(1, loaded)))


def test_the_short_marks_of_earlier_adapters_are_compared_as_far_as_they_go():
    mark = fingerprint(encoder())
    short = mark.split(".")[0]
    assert len(short) == 16 and same(short, mark) and same(short, fingerprint(encoder(loaded="bf16")))
    assert not same(short, fingerprint(encoder(1)))


def test_what_is_no_text_encoder_is_refused():
    with pytest.raises(ValueError, match="Linear has no position_embedding.weight and no final_layer_norm.weight"):
        fingerprint(nn.Linear(2, 2))
