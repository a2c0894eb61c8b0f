"""What a picture looks at: shares of its prompt's words, seen without a touch."""

import numpy as np
import pytest
import torch
from helpers.repository import ROOT
from test_guest import ALL, every_model

import sur_adapter.models.stable_diffusion as diffusion
from sur_adapter.generation.attention_maps import watched, words

PROMPT = "three Red circles, and a blue star!"


def drawn(pipe, prompt="three red circles", guidance=5.0, **options) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, guidance_scale=guidance, num_inference_steps=2, generator=generator, output_type="np", **options).images


@pytest.fixture(scope="module")
def miniature():
    return diffusion.load_pipeline(str(ROOT / "models/miniature/stable-diffusion"))


@every_model
def test_who_watches_changes_no_bit_and_leaves_no_trace(model):
    pipe = ALL[model]()
    before = drawn(pipe)
    with watched(pipe.unet):
        assert np.array_equal(drawn(pipe), before)
    assert np.array_equal(drawn(pipe), before)
    assert not any(module._forward_hooks for module in pipe.unet.modules())


@every_model
def test_the_shares_of_all_tokens_sum_to_one(model):
    pipe = ALL[model]()
    with watched(pipe.unet) as looks:
        drawn(pipe)
    shares = looks.shares()
    assert shares.shape == (pipe.tokenizer.model_max_length,) and shares.min() > 0
    assert float(shares.sum()) == pytest.approx(1)


def test_they_are_what_the_layers_own_scores_say(miniature):
    """diffusers' own way to attention scores, of every layer in every step, of the positive prompt."""
    kept, total = [], []
    for name, layer in miniature.unet.named_modules():
        if name.endswith("attn2"):
            kept += [layer.register_forward_hook(scores(total), with_kwargs=True)]
    with watched(miniature.unet) as looks:
        drawn(miniature)
    for hook in kept:
        hook.remove()
    assert len(total) == 2 * len(kept) > 0
    torch.testing.assert_close(looks.shares(), torch.stack(total).mean(0), rtol=0, atol=1e-6)


def scores(total: list):
    def hook(layer, inputs, options, _output):
        q, k = layer.to_q.forward(inputs[0]), layer.to_k.forward(options["encoder_hidden_states"])
        found = layer.get_attention_scores(layer.head_to_batch_dim(q), layer.head_to_batch_dim(k))  # (B·heads, h·w, L)
        total.append(found.unflatten(0, (-1, layer.heads))[-1].mean((0, 1)).double())

    return hook


def test_the_negative_prompt_is_not_looked_at(miniature):
    seen = []
    for guidance, negative in ((1.0, None), (3.0, "a"), (3.0, "a blue star that waves at two green hearts")):
        with watched(miniature.unet) as looks:  # one step, so that the latents are the same
            generator = torch.Generator().manual_seed(0)
            miniature(
                "red", guidance_scale=guidance, negative_prompt=negative, num_inference_steps=1, generator=generator, output_type="latent"
            )
        seen.append(looks.shares())
    for other in seen[1:]:
        torch.testing.assert_close(other, seen[0], rtol=0, atol=1e-6)


def test_words_are_as_the_prompt_writes_them_and_their_tokens_add_up(miniature):
    tokenizer = miniature.tokenizer
    shares = torch.arange(tokenizer.model_max_length).double()
    found = words(tokenizer, "A chases, b", shares)
    pieces = len(tokenizer("chases").input_ids) - 2
    assert pieces > 1, "this world knows no chasing"
    assert [word for word, _ in found] == ["A", "chases", ",", "b"]
    assert [share for _, share in found] == [1, sum(range(2, 2 + pieces)), 2 + pieces, 3 + pieces]
    assert [word for word, _ in words(tokenizer, PROMPT, shares)] == ["three", "Red", "circles", ",", "and", "a", "blue", "star", "!"]


def test_what_the_encoder_does_not_read_has_no_share(miniature):
    length = miniature.tokenizer.model_max_length
    found = words(miniature.tokenizer, "red " * 100, torch.ones(length))
    assert found == [("red", 1.0)] * (length - 2)
    assert words(miniature.tokenizer, "", torch.ones(length)) == []


def test_who_watches_when_nothing_is_drawn_is_told_so(miniature):
    with watched(miniature.unet) as looks:
        pass
    with pytest.raises(ValueError, match="nothing was drawn"):
        looks.shares()
