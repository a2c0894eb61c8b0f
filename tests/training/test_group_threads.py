"""Groups of prompts that threads compute side by side: the gradients of one graph, and the same bytes for any number of threads."""

import threading
from functools import partial

import pytest
import torch
from helpers import training_setup as setup
from helpers.training_setup import (
    adapter,
    cached,
    cached_sentences,
    features,
    fit,
    layers,
    sentences,
    stage_params,
    train_stage,
)

from sur_adapter.models.torch_utils import autocast, single_thread
from sur_adapter.training import objective as objectives
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.config import LossConfig
from sur_adapter.training.diffusion_loss import DiffusionLoss
from sur_adapter.training.group_threads import GroupThreads
from sur_adapter.training.objective import Objective
from sur_adapter.training.teacher import AnswerDecoder

LOSSES = {
    "words": {"llm": "words"},
    "kl of the prompts": {"llm": "words", "prompt": "kl"},
    "kl": {"llm": "kl", "projection": "trained"},
    "decoded": {"llm": "decoded"},
    "diffusion": {"llm": "words", "w_diffusion": 1.0},
}


@pytest.fixture(scope="module")
def unet():
    return setup.unet()


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(objectives, "GROUP_SIZE", 6)


@pytest.fixture
def set_threads():
    """Sets the number of torch's threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def pairs(n: int = 16) -> TrainingBatch:
    lengths = torch.randint(2, 9, (2, n), generator=torch.Generator().manual_seed(7))
    return features(n, simple_length=lengths[0], complex_length=lengths[1])


def goal(unet, llm: str, w_diffusion: float = 0.0, **config) -> Objective:
    loss = LossConfig(w_diffusion, 1.0, 0.5, llm=llm, sentences=8, complex_prompt_prob=0.3, **config)
    diffusion = DiffusionLoss(loss, unet, setup.scheduler(), {"scaling_factor": 1.0}) if w_diffusion else None
    torch.manual_seed(4)
    decoder = AnswerDecoder(20, 32).requires_grad_(False) if llm == "decoded" else None
    return Objective(loss, layers=layers(unet), diffusion_loss=diffusion, padding_tokens=2, decoder=decoder)


def gradients(made, objective: Objective, text: TrainingBatch, threads: GroupThreads | None) -> dict[str, torch.Tensor]:
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    options = {"map_groups": threads.map} if threads else {}
    loss, _ = objective(made, pairs(), generators[0], None, text, generators[1], **options)
    loss.backward()
    if threads:
        threads.backward()
    return {name: p.grad for name, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradients_of_threads_are_those_of_one_graph(unet, name):
    text = sentences(8) if LOSSES[name]["llm"] == "decoded" or name == "kl" else TrainingBatch(**vars(sentences(8)) | {"teacher": None})
    alone, side_by_side = adapter(trained=True).train(), adapter(trained=True).train()
    threads = GroupThreads(side_by_side.parameters(), 3, 4, partial(autocast, "cpu", "fp32", share_casts=False))
    expected = gradients(alone, goal(unet, **LOSSES[name]), text, None)
    found = gradients(side_by_side, goal(unet, **LOSSES[name]), text, threads)
    threads.close()
    assert found.keys() == expected.keys() and len(found) > 10
    for key, gradient in expected.items():
        assert torch.allclose(found[key], gradient, rtol=1e-4, atol=1e-6 * max(1.0, float(gradient.abs().max()))), key


@pytest.mark.parametrize(("num_pairs", "num_text", "sizes"), [(16, 8, [6] * 4), (10, 0, [5, 5]), (3, 0, [3]), (4, 2, [3, 3])])
def test_a_small_batch_has_a_group_for_each_of_two_threads(unet, num_pairs, num_text, sizes):
    objective = Objective(LossConfig(0.0, 1.0, float(num_text > 0), sentences=num_text or 96), layers=layers(unet), padding_tokens=2)
    length = torch.full((num_pairs + num_text,), 4)
    made = objective._prompts(adapter().train(), torch.zeros(num_pairs + num_text, 12, 32), length)
    assert [len(x) for x, _ in made.groups] == sizes and objective.num_groups(num_pairs) == len(sizes)


def test_each_group_is_computed_by_one_thread_of_torch_and_several_at_a_time(set_threads):
    set_threads(2)
    parameter, seen, meeting = torch.nn.Parameter(torch.ones(3)), [], threading.Barrier(2, timeout=60)
    threads = GroupThreads([parameter], 2, 4, partial(autocast, "cpu", "bf16", share_casts=False))

    def compute(number: int) -> tuple:
        meeting.wait()  # neither ends before the other begins
        seen.append((threading.get_ident(), torch.get_num_threads(), torch.is_autocast_cache_enabled()))
        return (parameter * number).sum(), [number]

    results = threads.map(compute, 4)
    assert [value[1] for value in results] == [[0], [1], [2], [3]] and all(value[0].is_leaf for value in results)
    sum(value[0] for value in results).backward()
    assert parameter.grad is None
    threads.backward()
    assert parameter.grad.tolist() == [6.0] * 3
    assert len({ident for ident, *_ in seen}) == 2 and {row[1:] for row in seen} == {(1, False)}
    threads.close()


@pytest.mark.parametrize(("num_threads", "num_groups", "workers", "each"), [(1, 4, 1, 1), (7, 4, 7, 1), (8, 4, 4, 2), (16, 1, 1, 16)])
def test_from_twice_as_many_threads_as_groups_on_several_share_a_group(set_threads, num_threads, num_groups, workers, each):
    set_threads(1)
    threads = GroupThreads([], num_threads, num_groups, partial(autocast, "cpu", "fp32"))
    assert threads.pool._max_workers == workers
    assert threads.map(lambda number: (torch.get_num_threads(),), num_groups) == [(each,)] * num_groups
    threads.close()


def test_the_unet_of_the_diffusion_loss_has_all_threads(unet, set_threads, monkeypatch):
    set_threads(2)
    seen, forward = [], DiffusionLoss.__call__
    monkeypatch.setattr(DiffusionLoss, "__call__", lambda *batch: seen.append(torch.get_num_threads()) or forward(*batch))
    fit(adapter(), goal(unet, "words", w_diffusion=1.0), pairs(), pairs(4), steps=1, batch_size=8, lr=1e-3)
    assert seen[0] == 2


def test_an_error_of_a_group_is_raised():
    threads = GroupThreads([], 2, 2, partial(autocast, "cpu", "fp32"))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        threads.map(lambda number: (_ for _ in ()).throw(RuntimeError("can't allocate memory")), 2)
    threads.close()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_training_has_the_same_weights_for_any_number_of_threads(unet, set_threads, accumulation):
    text = {"train": sentences(48), "validation": sentences(16, seed=6)}
    config = {"steps": 6, "batch_size": 16, "lr": 3e-3, "eval_steps": 3, "gradient_accumulation_steps": accumulation, "precision": "bf16"}

    def trained(threads: int) -> tuple[list[dict], torch.Tensor]:
        set_threads(threads)
        made = adapter()
        history = fit(made, goal(unet, "words"), pairs(48), pairs(8), text=text, **config)
        assert torch.get_num_threads() == threads
        return history, torch.cat([p.detach().flatten() for p in made.parameters()])

    (history, weights), *others = (trained(threads) for threads in (1, 2, 3))
    for other_history, other_weights in others:
        assert other_history == history and torch.equal(other_weights, weights)


def test_the_number_of_threads_is_restored_after_an_error(set_threads):
    set_threads(2)
    with pytest.raises(KeyError), single_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("llm", ["words", "decoded"])
def test_the_stage_writes_the_same_bytes_for_any_number_of_threads(tmp_path, own_work, set_threads, llm):
    loss = {"w_diffusion": 0.0, "w_prompt": 1.0, "w_llm": 0.5, "llm": llm, "sentences": 8, "decoder_steps": 5, "complex_prompt_prob": 0.2}
    written = []
    for threads in (1, 2, 3):
        paths = cached(tmp_path / str(threads))
        rows = cached_sentences(tmp_path / f"{threads}/sentences", [-0.1] * 48)
        set_threads(threads)
        params = stage_params(loss, {"precision": "bf16", "padding_tokens": 4})
        train_stage(paths, rows, params | {"adapter": {"heads": 4, "whiten": True}})
        written.append({file.name: file.read_bytes() for folder in paths[4:] for file in sorted(folder.glob("*"))})
    assert len(written[0]) >= 3 and all(other == written[0] for other in written[1:])
