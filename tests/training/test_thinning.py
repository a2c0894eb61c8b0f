"""Padding that is left out in training: what is kept, and that equal padding tokens may be left out without a difference."""

import pytest
import torch
from helpers import training_setup as setup
from helpers.training_setup import adapter, features, layers, objective, sentences
from torch import nn

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.training.config import LossConfig
from sur_adapter.training.objective import Objective
from sur_adapter.training.prompt_attention import PromptAttention
from sur_adapter.training.thinning import kept_tokens, thinned, whole


@pytest.fixture(scope="module")
def bank():
    return layers(setup.unet())


def padded(length: torch.Tensor, num_tokens: int = 40) -> torch.Tensor:
    """Features whose padding tokens equal the last real token."""
    embeds = torch.randn(len(length), num_tokens, 32)
    for row, n in zip(embeds, length.tolist(), strict=True):
        row[n:] = row[n - 1].clone()
    return embeds


def test_real_tokens_are_kept_and_the_padding_tokens_stand_for_all_of_it():
    position, log_weight = kept_tokens(torch.tensor([3, 10, 30]), 40, 4)
    assert position.shape == (3, 34)
    assert position[0, :7].tolist() == [0, 1, 2, 7, 16, 26, 35] and log_weight[0, 7:].isneginf().all()
    assert position[1, :10].tolist() == list(range(10)) and (log_weight[1, :10] == 0).all()
    assert torch.allclose(log_weight.exp().sum(1), torch.tensor(40.0))


def test_a_prompt_without_padding_or_with_little_keeps_every_token():
    position, log_weight = kept_tokens(torch.tensor([40, 38, 77]), 40, 4)
    assert (position == torch.arange(40)).all() and (log_weight == 0).all()


@pytest.mark.parametrize("variant", ["sur", "paper"])
def test_leaving_out_equal_tokens_changes_neither_the_adapter_nor_the_attention(variant, bank):
    torch.manual_seed(0)
    length = torch.randint(2, 40, (24,))
    x, made = padded(length), SURAdapter(AdapterConfig(32, 0, heads=4, variant=variant))
    nn.init.normal_(made.block.g.weight, std=0.1)
    attention = PromptAttention(bank)
    s = attention.sample(4, torch.Generator())

    def outputs(embeds, log_weight):
        adapted = made.adapt(embeds, made.query(embeds, log_weight), log_weight=log_weight)
        return attention.attend(s, adapted, log_weight)

    prompts = thinned(x, length, 3, 8)
    assert max(embeds.shape[1] for embeds, _ in prompts.groups) > min(embeds.shape[1] for embeds, _ in prompts.groups)
    assert torch.allclose(prompts.map(outputs), whole(x).map(outputs), atol=1e-4)


def test_what_is_kept_of_a_prompt_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    length = torch.randint(2, 40, (24,))
    x = torch.randn(24, 40, 32)

    def sums(embeds, log_weight):
        return (embeds * log_weight.exp()[..., None]).sum(1)

    together = thinned(x, length, 3, 8).map(sums)
    alone = torch.cat([thinned(x[k : k + 1], length[k : k + 1], 3, 8).map(sums) for k in range(24)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("llm", ["words", "kl"])
def test_the_loss_of_prompts_with_equal_padding_is_that_of_all_tokens(llm, bank):
    torch.manual_seed(0)
    pairs, text = features(simple_length=torch.randint(2, 9, (24,)), complex_length=torch.randint(2, 9, (24,))), sentences()
    for batch in (pairs, text):
        batch.simple, batch.complex = padded(batch.simple_length), padded(batch.complex_length)
    config = LossConfig(0.0, 1.0, 1.0, llm=llm)
    made = adapter(trained=True).train()

    def terms(padding_tokens):
        draws = (torch.Generator().manual_seed(4) for _ in range(2))
        made.zero_grad()
        loss, terms = Objective(config, layers=bank, padding_tokens=padding_tokens)(made, pairs, next(draws), None, text, next(draws))
        loss.backward()
        return torch.stack([*terms.values(), made.block.h1[1].weight.grad.norm()])

    assert torch.allclose(terms(2), terms(None), rtol=1e-4)


@pytest.mark.parametrize(
    "weights, prompt, variant", [((0.0, 1.0), "kl", "sur"), ((1.0, 1.0), "attention", "sur"), ((0, 1), "attention", "official")]
)
def test_terms_that_need_every_token_get_all(weights, prompt, variant, bank):
    made = SURAdapter(AdapterConfig(32, 0, heads=4, variant=variant)).train()
    config = LossConfig(*weights, 0.0, prompt=prompt)
    batch = features(simple_length=torch.full((24,), 3))
    assert Objective(config, layers=bank, padding_tokens=2)._prompts(made, batch.simple, batch.simple_length).groups[0][1] is None


def test_validation_sees_all_tokens(bank):
    batch = features(simple_length=torch.full((24,), 3), complex_length=torch.full((24,), 4))
    made, config = adapter(trained=True).eval(), LossConfig(0.0, 1.0, 0.0)
    values = [Objective(config, layers=bank, padding_tokens=n)(made, batch, torch.Generator())[0] for n in (1, None)]
    assert torch.equal(*values)
    assert objective(0.0, 1.0, 0.0, layers=bank)(made.train(), batch, torch.Generator())[0] != values[0], "training samples fewer queries"
