"""The loop: what a step changes, what is kept, and in which way processes, passes and kills make no difference."""

import pytest
import torch
from helpers import training_setup as taught
from helpers.training_setup import adapter, features, layers

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.models.stable_diffusion import load_frozen_unet
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.objective import Objective
from sur_adapter.training.optim import optimizers_of, share
from sur_adapter.training.trainer import fit


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


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [2, 10, 1700])
def test_the_learning_rate_goes_up_and_down_whatever_the_number_of_steps(steps, schedule):
    assert share(0, 1) == 1
    shares = [share(k, steps, schedule) for k in range(steps + 1)]
    assert max(shares) == 1 and shares[0] > 0 and shares[-1] == pytest.approx(0, abs=1e-9)
    top = shares.index(1)
    assert sorted(shares[: top + 1]) == shares[: top + 1] and sorted(shares[top:], reverse=True) == shares[top:]


def test_a_constant_learning_rate_stays_and_no_warm_up_starts_at_the_top():
    assert [share(k, 100, "constant") for k in range(9, 101)] == [1] * 92 and share(4, 100, "constant") == 0.5
    assert share(0, 100, "linear", warmup=0) == 1 and share(50, 101, "linear", warmup=0) == pytest.approx(0.51)


def test_half_precision_trains_as_well_and_leaves_the_weights_whole(unet):
    def trained(precision):
        made = adapter()
        objective = Objective(0.0, 1.0, 0.01, layers=layers(unet))
        history, _ = fit(made, objective, features(64), features(8), steps=60, batch=16, lr=3e-3, every=20, precision=precision)
        assert {p.dtype for p in made.parameters()} == {torch.float32}
        return [row["loss"] for row in history]

    assert trained("bf16") == pytest.approx(trained("fp32"), rel=0.05) == trained("fp16")
    with pytest.raises(ValueError, match="precision is 'fp8': choose fp32 or bf16"):
        trained("fp8")


def test_the_frozen_unet_stays_frozen(unet):
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    fit(adapter(), Objective(1.0, 0.0, 0.0, unet=unet, scheduler=taught.scheduler()), features(), features(4), steps=3, batch=4, lr=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())


def words_alone() -> Objective:
    """Nothing in it is drawn, and its mean over a batch is the mean over the batch's parts."""
    return Objective(0.0, 1.0, 0.1)


HOW = {"steps": 40, "batch": 16, "lr": 3e-3, "every": 10}


def learned(objective=None, **how) -> tuple[SURAdapter, list[dict]]:
    made = adapter()
    history, _ = fit(made, objective or words_alone(), features(64), features(16), **HOW | how)
    return made, history


def weights(made) -> torch.Tensor:
    return torch.cat([p.flatten() for p in made.state_dict().values()])


def test_two_passes_are_one_step_on_both():
    once, twice = (learned(batch=b, accumulation=a) for b, a in ((16, 1), (8, 2)))
    assert (weights(once[0]) - weights(twice[0])).norm() < 0.01 * (weights(once[0]) - weights(adapter())).norm()
    assert [row["loss"] for row in twice[1]] == pytest.approx([row["loss"] for row in once[1]], rel=1e-4)


def test_adamw_trains_too_and_its_norms_and_biases_do_not_decay():
    made, history = learned(optimizer="adamw", weight_decay=0.01, betas=(0.9, 0.999))
    assert history[-1]["prompt"] < history[0]["prompt"]
    (adamw,) = optimizers_of(made, 1e-3, "adamw", 0.01)
    assert {(p.ndim == 2, group["weight_decay"]) for group in adamw.param_groups for p in group["params"]} == {(True, 0.01), (False, 0.0)}


def test_the_gradient_is_clipped_where_a_step_shall_be_small():
    free, held = (learned(clip=clip, optimizer="adamw", steps=1) for clip in (None, 1e-12))
    start = weights(adapter())
    assert (weights(held[0]) - start).abs().max() < 0.1 * (weights(free[0]) - start).abs().max()
    assert held[1][0]["gradient_norm"] == free[1][0]["gradient_norm"] > 0.01  # as it was before


def test_the_mean_of_the_weights_is_what_is_kept_and_validated():
    last, mean, none = learned()[0], learned(ema=0.9), learned(ema=1e-9)
    start = weights(adapter())
    assert 0.1 < (weights(mean[0]) - start).norm() / (weights(last) - start).norm() < 0.95
    assert torch.allclose(weights(none[0]), weights(last), atol=1e-6)
    assert words_alone()(mean[0], features(16))[0].item() == pytest.approx(mean[1][-1]["validation_loss"], rel=1e-5)


def test_the_best_by_validation_is_kept_and_training_ends_when_no_better_one_comes():
    wild = {"lr": 0.05, "schedule": "constant", "optimizer": "adamw", "keep": "best", "steps": 400}
    made, history = learned(**wild, patience=3)
    looks = [row["validation_loss"] for row in history]
    least = looks.index(min(looks))
    assert len(looks) == least + 1 + 3 < 40
    assert words_alone()(made, features(16))[0].item() == pytest.approx(looks[least], rel=1e-5)
    assert words_alone()(learned(**wild | {"keep": "last"}, patience=3)[0], features(16))[0].item() > looks[least]


@pytest.mark.parametrize(
    "stopped, how", [(7, {}), (20, {"ema": 0.9, "optimizer": "adamw"}), (33, {"precision": "fp16", "keep": "best", "accumulation": 2})]
)
def test_a_training_that_was_stopped_goes_on_where_it_was_and_ends_in_the_same_bits(stopped, how, tmp_path, monkeypatch):
    monkeypatch.setenv("SUR_WORK", str(tmp_path))
    peace, history = learned(**how)
    asked, made = [], adapter()

    class Stopping(Objective):
        def __call__(self, *batch):
            asked.append(1)
            if len(asked) == until:
                raise KeyboardInterrupt
            return super().__call__(*batch)

    goal, passes = Stopping(0.0, 1.0, 0.1), how.get("accumulation", 1)
    until = stopped * passes + stopped // 10  # looks at the validation are calls too
    with pytest.raises(KeyboardInterrupt), WorkCache("train", how=how) as work:
        fit(made, goal, features(64), features(16), work, **HOW | how, checkpoint=3)
    asked, until, told = [], None, []
    with WorkCache("train", how=how) as work:
        again, _ = fit(made := adapter(), goal, features(64), features(16), work, told.append, **HOW | how, checkpoint=3)
    assert torch.equal(weights(made), weights(peace)) and again == history == told
    assert len(asked) <= (40 - stopped + 1 + 3) * passes + 4


def test_a_training_that_ended_early_is_over_when_it_is_taken_up_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SUR_WORK", str(tmp_path))
    how = HOW | {"lr": 0.05, "schedule": "constant", "optimizer": "adamw", "steps": 400, "patience": 2, "checkpoint": 10}
    with pytest.raises(OSError), WorkCache("train", a=1) as work:
        first, _ = fit(made := adapter(), words_alone(), features(64), features(16), work, **how)
        raise OSError("killed before the adapter was written")
    with WorkCache("train", a=1) as work:
        again, _ = fit(other := adapter(), words_alone(), features(64), features(16), work, **how)
    assert again == first and torch.equal(weights(made), weights(other))


def test_short_memory_and_a_loss_that_is_no_number_end_in_a_sentence():
    with pytest.raises(ValueError, match="does not hold a batch of 1000000000000000: lower train.batch and raise train.accumulation"):
        learned(batch=10**15)
    spoilt = features(64)
    spoilt.simple[:] = torch.nan
    with pytest.raises(ValueError, match="the loss is nan before step 10: lower train.lr"):
        fit(adapter(), words_alone(), spoilt, features(16), **HOW)


def test_checkpointing_and_channels_last_change_no_loss_and_are_really_used(unet, monkeypatch):
    def loss_of(**how):
        made, scheduler = load_frozen_unet("models/miniature/stable-diffusion", "cpu", torch.float32, **how)
        called = []
        for module in (m for m in made.modules() if hasattr(m, "_gradient_checkpointing_func")):
            own = module._gradient_checkpointing_func
            module._gradient_checkpointing_func = lambda *a, own=own: called.append(1) or own(*a)
        torch.manual_seed(0)
        words = torch.randn(4, 40, 128)
        pupil = SURAdapter(AdapterConfig(128, 0, heads=4))
        batch = TrainingBatch(words, words, None, torch.randn(4, 2, 4, 8, 8))
        value, _ = Objective(1.0, 0.0, 0.0, unet=made, scheduler=scheduler)(pupil, batch)
        value.backward()
        last = made.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        return value.item(), pupil.g.weight.grad, len(called), last

    plain, saving = loss_of(), loss_of(gradient_checkpointing=True, channels_last=True)
    assert saving[0] == pytest.approx(plain[0], rel=1e-4) and torch.allclose(saving[1], plain[1], rtol=1e-3, atol=1e-6)
    assert plain[2:] == (0, False) and saving[2] > 5 and saving[3]
