"""Attention per word of a prompt is recorded without changing the image."""

import numpy as np
import pytest
import torch
from helpers.repository import ROOT
from helpers.tiny_pipelines import PIPELINES, every_model

from sur_adapter.generation.attention_maps import record_attention, word_attention
from sur_adapter.models.stable_diffusion import load_pipeline

PROMPT = "three Red circles, and a blue star!"


def drawn(pipe, prompt="three red circles", guidance=5.0, **options) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, guidance_scale=guidance, num_inference_steps=2, generator=generator, output_type="np", **options).images


@pytest.fixture(scope="module")
def miniature():
    return load_pipeline(str(ROOT / "models/miniature/stable-diffusion"))


@every_model
def test_recording_changes_no_bit_of_the_image_and_leaves_no_hook(model):
    pipe = PIPELINES[model]()
    before = drawn(pipe)
    with record_attention(pipe.unet):
        assert np.array_equal(drawn(pipe), before)
    assert np.array_equal(drawn(pipe), before)
    assert not any(module._forward_hooks for module in pipe.unet.modules())


@every_model
def test_the_shares_of_all_tokens_sum_to_one(model):
    pipe = PIPELINES[model]()
    with record_attention(pipe.unet) as recorder:
        drawn(pipe)
    shares = recorder.shares()
    assert shares.shape == (pipe.tokenizer.model_max_length,) and shares.min() > 0
    assert float(shares.sum()) == pytest.approx(1)


def test_shares_equal_the_attention_scores_of_diffusers(miniature):
    """Compares with `get_attention_scores` of every layer in every step, for the positive prompt."""
    hooks, total = [], []
    for name, layer in miniature.unet.named_modules():
        if name.endswith("attn2"):
            hooks += [layer.register_forward_hook(scores(total), with_kwargs=True)]
    with record_attention(miniature.unet) as recorder:
        drawn(miniature)
    for hook in hooks:
        hook.remove()
    assert len(total) == 2 * len(hooks) > 0
    torch.testing.assert_close(recorder.shares(), torch.stack(total).mean(0), rtol=0, atol=1e-6)


def scores(total: list):
    def hook(layer, inputs, options, _output):
        q, k = layer.to_q.forward(inputs[0]), layer.to_k.forward(options["encoder_hidden_states"])
        attention = layer.get_attention_scores(layer.head_to_batch_dim(q), layer.head_to_batch_dim(k))  # (B·heads, h·w, L)
        total.append(attention.unflatten(0, (-1, layer.heads))[-1].mean((0, 1)).double())

    return hook


def test_the_negative_prompt_is_not_recorded(miniature):
    seen = []
    for guidance, negative in ((1.0, None), (3.0, "a"), (3.0, "a blue star that waves at two green hearts")):
        with record_attention(miniature.unet) as recorder:  # one step, so that the latents are the same
            generator = torch.Generator().manual_seed(0)
            miniature(
                "red", guidance_scale=guidance, negative_prompt=negative, num_inference_steps=1, generator=generator, output_type="latent"
            )
        seen.append(recorder.shares())
    for other in seen[1:]:
        torch.testing.assert_close(other, seen[0], rtol=0, atol=1e-6)


def test_words_are_spelled_as_in_the_prompt_and_shares_of_their_tokens_are_summed(miniature):
    tokenizer = miniature.tokenizer
    shares = torch.arange(tokenizer.model_max_length).double()
    result = word_attention(tokenizer, "A chases, b", shares)
    pieces = len(tokenizer("chases").input_ids) - 2
    assert pieces > 1, "the miniature's tokenizer has no token for this word"
    assert [word for word, _ in result] == ["A", "chases", ",", "b"]
    assert [share for _, share in result] == [1, sum(range(2, 2 + pieces)), 2 + pieces, 3 + pieces]
    spelled = [word for word, _ in word_attention(tokenizer, PROMPT, shares)]
    assert spelled == ["three", "Red", "circles", ",", "and", "a", "blue", "star", "!"]


def test_truncated_words_are_left_out(miniature):
    length = miniature.tokenizer.model_max_length
    result = word_attention(miniature.tokenizer, "red " * 100, torch.ones(length))
    assert result == [("red", 1.0)] * (length - 2)
    assert word_attention(miniature.tokenizer, "", torch.ones(length)) == []


def test_shares_without_an_image_raise_an_error(miniature):
    with record_attention(miniature.unet) as recorder:
        pass
    with pytest.raises(ValueError, match="no attention was recorded"):
        recorder.shares()
