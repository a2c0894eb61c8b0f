"""The targets of the LLM's loss: they are fixed, and training on them does not make the prompts alike."""

import pytest
import torch
from helpers import training_setup as setup
from helpers.training_setup import adapter, fit, layers

from sur_adapter.training import losses
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.config import LossConfig
from sur_adapter.training.objective import Objective
from sur_adapter.training.prompt_attention import PromptAttention
from sur_adapter.training.setup import say_how_well_answers_are_decoded
from sur_adapter.training.teacher import fit_decoder, mean_over_tokens, standardise

ROWS = 256


@pytest.fixture(scope="module")
def bank():
    return layers(setup.unet())


def prompts() -> TrainingBatch:
    """Pairs whose LLM vectors follow from the text, but are alike: far from zero, with features of different size, as a real LLM's."""
    torch.manual_seed(7)
    common, noise = torch.randn(20), torch.randn(ROWS, 20)
    meaning = torch.randn(ROWS, 1, 32)
    simple = meaning + 0.3 * torch.randn(ROWS, 9, 32)
    teacher = (3 * common + 0.2 * noise + meaning[:, 0, :20]) * torch.logspace(-1, 1, 20)
    return TrainingBatch(simple, simple, teacher)


def spread(x: torch.Tensor) -> float:
    """Variance over prompts, as a share of the mean square: 1 if prompts differ freely, 0 if all are alike. x (B, d)."""
    x = torch.nn.functional.layer_norm(x, x.shape[-1:])
    return (x.var(0, correction=0).mean() / x.square().mean()).item()


@pytest.mark.parametrize("projection", ["standardised", "trained"])
def test_the_paper_s_trained_projection_collapses_and_the_standardised_one_does_not(projection):
    batch, made = prompts(), adapter()
    if projection == "standardised":
        standardise(made.projection, batch, seed=0)

    def spreads():
        with torch.no_grad():
            return spread(made.projection(batch.teacher)), spread(losses.mean_query(made.query(batch.simple)))

    before = spreads()
    goal = Objective(LossConfig(0.0, 0.0, 1.0, llm="kl", projection=projection))
    history = fit(made, goal, batch, batch.rows(torch.arange(8), "cpu"), steps=80, batch_size=64, lr=1e-2, eval_steps=40)
    assert history[-1]["llm"] < history[0]["llm"]
    shares = [after / start for after, start in zip(spreads(), before, strict=True)]
    if projection == "standardised":
        assert min(shares) > 0.5 and before[0] > 0.9
    else:
        assert min(shares) < 0.5, "both sides become nearly constant"


def test_the_standardised_projection_is_orthogonal_after_standardising_and_the_same_for_a_seed():
    batch = prompts()
    first, again, other = (torch.nn.Linear(20, 32) for _ in range(3))
    for projection, seed in ((first, 0), (again, 0), (other, 1)):
        standardise(projection, batch, seed)
    assert torch.equal(first.weight, again.weight) and not torch.equal(first.weight, other.weight)
    assert not any(p.requires_grad for p in first.parameters())
    z = (batch.teacher - batch.teacher.mean(0)) / batch.teacher.std(0, correction=0)
    assert torch.allclose(torch.cdist(first(batch.teacher), first(batch.teacher)), torch.cdist(z, z), rtol=1e-3, atol=0.02)


def test_a_constant_feature_of_the_llm_is_left_out_without_a_division_by_zero():
    batch, projection = prompts(), torch.nn.Linear(20, 32)
    batch.teacher[:, 3] = 7.0
    standardise(projection, batch, 0)
    assert projection(batch.teacher).isfinite().all() and projection(batch.teacher).abs().max() < 20


def test_the_decoder_learns_answers_that_it_has_not_seen_and_is_the_same_for_a_seed(bank):
    torch.manual_seed(0)
    meaning, answers = torch.randn(160, 3).sign(), torch.randn(9, 32)
    features = answers + torch.einsum("bk,kld->bld", meaning, torch.randn(3, 9, 32))
    states = (meaning @ torch.randn(3, 20))[:, None] + 0.1 * torch.randn(160, 4, 20)
    states[::2, 3] = 0.0  # shorter answers
    rows = TrainingBatch(features, features, states)
    attention, config = PromptAttention(bank), LossConfig(0.0, 1.0, 1.0, llm="decoded", decoder_steps=60, sentences=32)
    train = rows.rows(torch.arange(128), "cpu")
    options = {"seed": 0, "device": "cpu", "precision": "fp32"}
    (decoder, value), (again, other) = (fit_decoder(train, attention, config, **options) for _ in range(2))
    assert value == other and all(torch.equal(a, b) for a, b in zip(decoder.parameters(), again.parameters(), strict=True))
    assert not any(p.requires_grad for p in decoder.parameters())
    new = rows.rows(torch.arange(128, 160), "cpu")
    s = attention.sample(8, torch.Generator())
    target = attention.attend(s, new.complex)
    error, mean_error = (
        attention.losses([(target, o)], [slice(None)])[0]
        for o in (attention.attend(s, decoder(new.teacher)), target.mean(0, keepdim=True).expand_as(target))
    )
    assert error < mean_error, "better than one answer for all sentences"


def test_a_decoder_that_cannot_make_the_answers_is_warned_of(capsys, caplog):
    say_how_well_answers_are_decoded(0.11)
    assert "makes the answers' features with loss 0.11" in capsys.readouterr().out and not caplog.messages
    say_how_well_answers_are_decoded(0.52)
    (warning,) = caplog.messages
    assert "loss 0.52, expected at most 0.25" in warning and "set cache.llm.pooling to tokens" in warning


def test_states_of_tokens_are_averaged_over_the_tokens_that_exist():
    states = torch.cat([torch.randn(4, 3, 20), torch.zeros(4, 2, 20)], 1)
    assert torch.allclose(mean_over_tokens(states), states[:, :3].mean(1)) and mean_over_tokens(states[:, 0]) is not None
