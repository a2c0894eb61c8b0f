"""The folded cross-attention is the cross-attention of the layers, value and gradient."""

import pytest
import torch

from sur_adapter.features.query_bank import CrossAttention
from sur_adapter.training import losses
from sur_adapter.training.prompt_attention import PromptAttention

torch.manual_seed(0)
SHAPES = ((4, 64, 64), (4, 128, 128), (2, 128, 96), (4, 64, 64), (4, 128, 128))  # heads, heads·e, c_out; two shapes occur twice
LAYERS = [
    CrossAttention(heads, *(torch.randn(shape) / shape[-1] ** 0.5 for shape in ((200, w), (w, 32), (w, 32), (c, w), (c,))))
    for heads, w, c in SHAPES
]


def plain_loss(complex_embeds, adapted_embeds, num_queries: int, generator: torch.Generator) -> torch.Tensor:
    """The equation as it is written, with keys and values of every token."""
    terms = []
    for layer in LAYERS:
        q = layer.q[torch.randperm(len(layer.q), generator=generator)[:num_queries]]
        target = layer(q, complex_embeds)
        variance = (target - target.mean((0, 1))).square().mean()
        terms.append((layer(q, adapted_embeds) - target).square().mean() / variance)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("num_queries", [1, 4, 32])
def test_the_loss_and_its_gradient_are_those_of_the_equation(num_queries):
    complex_embeds, adapted_embeds = torch.randn(16, 9, 32), torch.randn(16, 9, 32, requires_grad=True)
    plain = plain_loss(complex_embeds, adapted_embeds, num_queries, torch.Generator().manual_seed(3))
    folded = losses.prompt_attention(
        LAYERS, complex_embeds, adapted_embeds, num_queries=num_queries, generator=torch.Generator().manual_seed(3)
    )
    assert folded.item() == pytest.approx(plain.item(), rel=2e-6)
    expected, gradient = (torch.autograd.grad(value, adapted_embeds)[0] for value in (plain, folded))
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


def test_each_part_of_the_prompts_has_its_own_variance():
    attention = PromptAttention(LAYERS)
    s = attention.sample(4, torch.Generator())
    target, adapted = (attention.attend(s, torch.randn(12, 9, 32) * torch.linspace(1, 3, 12)[:, None, None]) for _ in range(2))
    parts = [slice(0, 5), slice(5, 12)]
    apart = [attention.losses([(target[part], adapted[part])], [slice(None)])[0] for part in parts]
    assert torch.allclose(torch.stack(attention.losses([(target, adapted)], parts)), torch.stack(apart))
    order = torch.randperm(12)
    groups = [(target[rows], adapted[rows]) for rows in order.split(8)]
    places = [order.argsort()[part] for part in parts]
    assert torch.allclose(torch.stack(attention.losses(groups, places)), torch.stack(apart))


def test_a_bank_with_fewer_queries_than_asked_for_gives_all_of_them():
    assert len(PromptAttention(LAYERS).sample(1000)) == 200 * sum(heads for heads, *_ in SHAPES)
