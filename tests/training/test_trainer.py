"""The trainer: what a step changes, what is saved, and that processes, micro-batches and kills make no difference."""

import pytest
import torch
from accelerate.tracking import GeneralTracker
from helpers import training_setup as setup
from helpers.training_setup import adapter, features, fit, layers, objective

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.models.stable_diffusion import load_frozen_unet, load_vae_config
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.config import LossConfig
from sur_adapter.training.diffusion_loss import DiffusionLoss
from sur_adapter.training.objective import Objective
from sur_adapter.training.optim import MUON_PARTS, build_optimizers, lr_lambda


@pytest.fixture(scope="module")
def unet():
    return setup.unet()


def test_training_lowers_the_loss_and_is_deterministic(unet):
    def trained():
        made, config = adapter(), {"steps": 60, "batch_size": 16, "lr": 3e-3, "eval_steps": 20}
        history = fit(made, objective(0.0, 1.0, 0.01, layers=layers(unet)), features(64), features(8), **config)
        return history, made(features().simple)

    (first, a), (second, b) = trained(), trained()
    assert first == second and torch.equal(a, b)
    assert first[-1]["prompt"] < 0.8 * first[0]["prompt"]
    assert [row["step"] for row in first] == [20, 40, 60] and "validation_loss" in first[0]


@pytest.mark.parametrize("variant", ["sur", "official"])
def test_training_neither_uses_nor_changes_the_global_random_state(variant, unet):
    """The published network has dropout, which can draw only from the global generator: the step's own one stands in for it."""

    def trained(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        made = SURAdapter(AdapterConfig(32, 20, heads=4, variant=variant))
        goal = objective(0.1, 1.0, 0.01, layers=layers(unet), unet=unet, scheduler=setup.scheduler(), complex_prompt_prob=0.1)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        train, validation = features(16), features(4)
        torch.set_rng_state(before)
        fit(made, goal, train, validation, steps=4, batch_size=8, lr=1e-3, eval_steps=2)
        assert torch.equal(torch.get_rng_state(), before)
        return weights(made)

    assert torch.equal(trained(1), trained(2))


def test_dropout_of_the_published_network_is_on_in_training_and_differs_between_micro_batches():
    torch.manual_seed(0)
    made, batch, generator = SURAdapter(AdapterConfig(32, 20, heads=4, variant="official")).train(), features(), torch.Generator()
    first, second = (text_only()(made, batch, generator)[1]["llm"] for _ in range(2))
    again = text_only()(made, batch, torch.Generator())[1]["llm"]
    assert first != second and first == again


def test_muon_updates_the_matrices_and_adamw_the_rest_and_no_parameter_is_left_out():
    made = adapter()
    *muons, adamw = build_optimizers(made, 1e-3)
    assert len(muons) == MUON_PARTS and not any(isinstance(o, torch.optim.AdamW) for o in muons)
    held = [[p for group in o.param_groups for p in group["params"]] for o in (*muons, adamw)]
    assert {p.ndim for part in held[:-1] for p in part} == {2} and all(p.ndim != 2 for p in held[-1])
    assert sorted(id(p) for part in held for p in part) == sorted(id(p) for p in made.parameters()), "each exactly once"
    work = [sum(min(p.shape) * p.numel() for p in part) for part in held[:-1]]
    assert max(work) < 1.5 * sum(work) / len(work), "the threads that take their steps end together"


@pytest.mark.parametrize("lr_scheduler", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [2, 10, 1700])
def test_the_learning_rate_rises_and_falls_for_any_number_of_steps(steps, lr_scheduler):
    assert lr_lambda(0, 1) == 1
    factors = [lr_lambda(step, steps, lr_scheduler) for step in range(steps + 1)]
    assert max(factors) == 1 and factors[0] > 0 and factors[-1] == pytest.approx(0, abs=1e-9)
    top = factors.index(1)
    assert sorted(factors[: top + 1]) == factors[: top + 1] and sorted(factors[top:], reverse=True) == factors[top:]


def test_a_constant_learning_rate_stays_and_without_warmup_it_starts_at_the_top():
    assert [lr_lambda(step, 100, "constant") for step in range(9, 101)] == [1] * 92 and lr_lambda(4, 100, "constant") == 0.5
    assert lr_lambda(0, 100, "linear", warmup_ratio=0) == 1
    assert lr_lambda(50, 101, "linear", warmup_ratio=0) == pytest.approx(0.51)


def test_half_precision_trains_as_well_and_leaves_the_weights_in_fp32(unet):
    def trained(precision):
        made, config = adapter(), {"steps": 60, "batch_size": 16, "lr": 3e-3, "eval_steps": 20, "precision": precision}
        history = fit(made, objective(0.0, 1.0, 0.01, layers=layers(unet)), features(64), features(8), **config)
        assert {p.dtype for p in made.parameters()} == {torch.float32}
        return [row["loss"] for row in history]

    assert trained("bf16") == pytest.approx(trained("fp32"), rel=0.05) == trained("fp16")
    with pytest.raises(ValueError, match="precision is 'fp8': choose fp32 or bf16"):
        trained("fp8")


def test_the_frozen_unet_stays_frozen(unet):
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    goal = objective(1.0, 0.0, 0.0, unet=unet, scheduler=setup.scheduler())
    fit(adapter(), goal, features(), features(4), steps=3, batch_size=4, lr=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())


def text_only() -> Objective:
    """It draws no random numbers, and its mean over a batch is the mean over parts of the batch."""
    return objective(0.0, 1.0, 0.1)


CONFIG = {"steps": 40, "batch_size": 16, "lr": 3e-3, "eval_steps": 10}


def trained(goal=None, **config) -> tuple[SURAdapter, list[dict]]:
    made = adapter()
    return made, fit(made, goal or text_only(), features(64), features(16), **CONFIG | config)


def weights(made) -> torch.Tensor:
    return torch.cat([p.flatten() for p in made.state_dict().values()])


def test_two_micro_batches_are_one_step_on_both():
    once, twice = (trained(batch_size=size, gradient_accumulation_steps=steps) for size, steps in ((16, 1), (8, 2)))
    assert (weights(once[0]) - weights(twice[0])).norm() < 0.01 * (weights(once[0]) - weights(adapter())).norm()
    assert [row["loss"] for row in twice[1]] == pytest.approx([row["loss"] for row in once[1]], rel=1e-4)


def test_adamw_trains_too_and_its_norms_and_biases_do_not_decay():
    made, history = trained(optimizer="adamw", weight_decay=0.01, betas=(0.9, 0.999))
    assert history[-1]["prompt"] < history[0]["prompt"]
    (adamw,) = build_optimizers(made, 1e-3, "adamw", 0.01)
    assert {(p.ndim == 2, group["weight_decay"]) for group in adamw.param_groups for p in group["params"]} == {(True, 0.01), (False, 0.0)}


def test_gradients_are_clipped_to_max_grad_norm():
    free, clipped = (trained(max_grad_norm=norm, optimizer="adamw", steps=1) for norm in (None, 1e-12))
    start = weights(adapter())
    assert (weights(clipped[0]) - start).abs().max() < 0.1 * (weights(free[0]) - start).abs().max()
    assert clipped[1][0]["gradient_norm"] == free[1][0]["gradient_norm"] > 0.01  # before clipping


def test_the_moving_average_of_the_weights_is_what_is_saved_and_validated():
    last, mean, none = trained()[0], trained(ema_decay=0.9), trained(ema_decay=1e-9)
    start = weights(adapter())
    assert 0.1 < (weights(mean[0]) - start).norm() / (weights(last) - start).norm() < 0.95
    assert torch.allclose(weights(none[0]), weights(last), atol=1e-6)
    assert text_only()(mean[0], features(16))[0].item() == pytest.approx(mean[1][-1]["validation_loss"], rel=1e-5)


def test_the_best_weights_are_saved_and_training_stops_after_patience():
    unstable = {"lr": 0.05, "lr_scheduler": "constant", "optimizer": "adamw", "save_best": True, "steps": 400}
    made, history = trained(**unstable, patience=3)
    losses = [row["validation_loss"] for row in history]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 3 < 40
    assert text_only()(made, features(16))[0].item() == pytest.approx(losses[best], rel=1e-5)
    assert text_only()(trained(**unstable | {"save_best": False}, patience=3)[0], features(16))[0].item() > losses[best]


class Recording(GeneralTracker):
    """A tracker that keeps what it gets."""

    name = "recording"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self):
        super().__init__()
        self.rows = []

    @property
    def tracker(self):
        return self.rows

    def store_init_configuration(self, values: dict) -> None: ...

    def log(self, values: dict, step: int | None = None, **kwargs) -> None:
        self.rows.append({"step": step} | values)


@pytest.mark.parametrize(
    "stopped, config",
    [
        (7, {}),
        (20, {"ema_decay": 0.9, "optimizer": "adamw"}),
        (33, {"precision": "fp16", "save_best": True, "gradient_accumulation_steps": 2}),
    ],
)
def test_a_killed_training_resumes_and_ends_in_the_same_bits(stopped, config, tmp_path, monkeypatch):
    monkeypatch.setenv("SUR_WORK", str(tmp_path))
    uninterrupted, history = trained(**config)
    calls, made = [], adapter()

    class Stopping(Objective):
        def __call__(self, *batch, **options):
            calls.append(1)
            if len(calls) == limit:
                raise KeyboardInterrupt
            return super().__call__(*batch, **options)

    goal, accumulation = Stopping(text_only().config), config.get("gradient_accumulation_steps", 1)
    limit = stopped * accumulation + stopped // 10  # also called by the validation
    with pytest.raises(KeyboardInterrupt), WorkCache("train", config=config) as cache:
        fit(made, goal, features(64), features(16), cache, **CONFIG | config, checkpointing_steps=3)
    calls, limit, tracker = [], None, Recording()
    with WorkCache("train", config=config) as cache:
        resumed = fit(made := adapter(), goal, features(64), features(16), cache, tracker, **CONFIG | config, checkpointing_steps=3)
    assert torch.equal(weights(made), weights(uninterrupted)) and resumed == history == tracker.rows
    assert len(calls) <= (40 - stopped + 1 + 3) * accumulation + 4


def test_a_training_that_stopped_early_is_complete_when_it_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setenv("SUR_WORK", str(tmp_path))
    unstable = {"lr": 0.05, "lr_scheduler": "constant", "optimizer": "adamw", "steps": 400}
    config = CONFIG | unstable | {"patience": 2, "checkpointing_steps": 10}
    with pytest.raises(OSError), WorkCache("train", a=1) as cache:
        first = fit(made := adapter(), text_only(), features(64), features(16), cache, **config)
        raise OSError("killed before the adapter was written")
    with WorkCache("train", a=1) as cache:
        again = fit(other := adapter(), text_only(), features(64), features(16), cache, **config)
    assert again == first and torch.equal(weights(made), weights(other))


def test_short_memory_and_a_loss_that_is_not_finite_are_reported_in_one_sentence():
    hint = "does not hold a batch of 1000000000000000: lower train.batch_size and raise train.gradient_accumulation_steps"
    with pytest.raises(ValueError, match=hint):
        trained(batch_size=10**15)
    corrupt = features(64)
    corrupt.simple[:] = torch.nan
    with pytest.raises(ValueError, match="the loss is nan before step 10: lower train.lr"):
        fit(adapter(), text_only(), corrupt, features(16), **CONFIG)


def test_checkpointing_and_channels_last_change_no_loss_and_are_really_used(unet):
    def loss_of(**options):
        model = "models/miniature/stable-diffusion"
        made, scheduler = load_frozen_unet(model, "cpu", torch.float32, **options)
        calls = []
        for module in (m for m in made.modules() if hasattr(m, "_gradient_checkpointing_func")):
            own = module._gradient_checkpointing_func
            module._gradient_checkpointing_func = lambda *a, own=own: calls.append(1) or own(*a)
        torch.manual_seed(0)
        embeds = torch.randn(4, 40, 128)
        student = SURAdapter(AdapterConfig(128, 0, heads=4))
        batch = TrainingBatch(embeds, embeds, None, torch.randn(4, 2, 4, 8, 8))
        config = LossConfig(1.0, 0.0, 0.0)
        value, _ = Objective(config, diffusion_loss=DiffusionLoss(config, made, scheduler, load_vae_config(model)))(student, batch)
        value.backward()
        last = made.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        return value.item(), student.block.g.weight.grad, len(calls), last

    plain, saving = loss_of(), loss_of(gradient_checkpointing=True, channels_last=True)
    assert saving[0] == pytest.approx(plain[0], rel=1e-4) and torch.allclose(saving[1], plain[1], rtol=1e-3, atol=1e-6)
    assert plain[2:] == (0, False) and saving[2] > 5 and saving[3]
