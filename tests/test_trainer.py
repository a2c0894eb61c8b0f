"""The loop: what a step changes, what is kept, and in which way processes, passes and kills make no difference."""

import pytest
import taught
import torch
from taught import adapter, features, layers

from sur_adapter.objective import Objective
from sur_adapter.optimizers import optimizers_of, share
from sur_adapter.trainer import fit


@pytest.fixture(scope="module")
def unet():
    return taught.unet()


def test_training_brings_the_loss_down_the_same_way_each_time(unet):
    def trained():
        made = adapter()
        history, _ = fit(
            made, Objective(0.0, 1.0, 0.01, layers=layers(unet)), features(64), features(8), steps=60, batch=16, lr=3e-3, every=20
        )
        return history, made(features().simple)

    (first, a), (second, b) = trained(), trained()
    assert first == second and torch.equal(a, b)
    assert first[-1]["prompt"] < 0.8 * first[0]["prompt"]
    assert [row["step"] for row in first] == [20, 40, 60] and "validation_loss" in first[0]


def test_muon_turns_the_matrices_and_adamw_the_rest_and_no_parameter_is_forgotten():
    made = adapter()
    muon, adamw = optimizers_of(made, 1e-3)
    held = [{id(p): p for group in o.param_groups for p in group["params"]} for o in (muon, adamw)]
    assert {p.ndim for p in held[0].values()} == {2} and held[0].keys().isdisjoint(held[1])
    assert len(held[0]) + len(held[1]) == len(list(made.parameters()))


@pytest.mark.parametrize("steps", [2, 10, 1700])
def test_the_learning_rate_goes_up_and_down_whatever_the_number_of_steps(steps):
    assert share(0, 1) == 1
    shares = [share(k, steps) for k in range(steps + 1)]
    assert max(shares) == 1 and shares[0] > 0 and shares[-1] == pytest.approx(0, abs=1e-9)
    top = shares.index(1)
    assert sorted(shares[: top + 1]) == shares[: top + 1] and sorted(shares[top:], reverse=True) == shares[top:]


def test_half_precision_trains_as_well_and_leaves_the_weights_whole(unet):
    def trained(precision):
        made = adapter()
        objective = Objective(0.0, 1.0, 0.01, layers=layers(unet))
        history, _ = fit(made, objective, features(64), features(8), steps=60, batch=16, lr=3e-3, every=20, precision=precision)
        assert {p.dtype for p in made.parameters()} == {torch.float32}
        return [row["loss"] for row in history]

    assert trained("bf16") == pytest.approx(trained("fp32"), rel=0.05)
    with pytest.raises(ValueError, match="precision is 'fp8': choose fp32 or bf16"):
        trained("fp8")


def test_the_frozen_unet_stays_frozen(unet):
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    fit(adapter(), Objective(1.0, 0.0, 0.0, unet=unet, scheduler=taught.scheduler()), features(), features(4), steps=3, batch=4, lr=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())
