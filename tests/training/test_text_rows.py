"""Text rows: sentences that the LLM answered, beside the pairs. They change no random number of the pairs."""

import json

import pytest
import torch
from helpers import training_setup as setup
from helpers.repository import ROOT
from helpers.training_setup import WORDS, adapter, cached, cached_sentences, features, fit, layers, sentences, stage_params, train_stage

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.features.store import FeatureSplit, FeatureStore
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.training.config import LossConfig
from sur_adapter.training.dataset import keep_sure_answers
from sur_adapter.training.objective import Objective
from sur_adapter.training.teacher import AnswerDecoder

CONFIG = {"steps": 12, "batch_size": 8, "lr": 3e-3, "eval_steps": 4}
TEXT = {"train": sentences(48), "validation": sentences(16, seed=6)}


@pytest.fixture(scope="module")
def bank():
    return layers(setup.unet())


def pairs(n: int = 48):
    lengths = {name: torch.full((n,), 5) for name in ("simple_length", "complex_length")}
    return features(n, **lengths)


class Recording(Objective):
    """An objective that records which pairs it gets, and the loss of an adapter that does not change on them."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.fixed, self.seen = adapter(trained=True).train(), []

    def __call__(self, made, batch, generator=None, context=None, text=None, text_generator=None, **options):
        if made.training:
            copies = [g.clone_state() for g in (generator, text_generator)]
            terms = super().__call__(self.fixed, batch, copies[0], context, text, copies[1])[1]
            self.seen.append((batch.simple.sum().item(), terms["prompt"].item()))
        return super().__call__(made, batch, generator, context, text, text_generator, **options)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_pairs_and_their_random_numbers_are_the_same_with_text_rows_and_without(bank, accumulation):
    seen = []
    for w_llm, text in ((0.0, None), (0.5, TEXT), (2.0, TEXT)):
        goal = Recording(LossConfig(0.0, 1.0, w_llm, sentences=8, complex_prompt_prob=0.3), layers=bank, padding_tokens=2)
        fit(adapter(), goal, pairs(), pairs(8), text=text, **CONFIG | {"gradient_accumulation_steps": accumulation})
        seen.append(goal.seen)
    assert len(seen[0]) == 12 * accumulation
    assert all(pytest.approx(row, rel=1e-5) == other for row, *others in zip(*seen, strict=True) for other in others)


def test_text_rows_do_not_change_the_other_terms_and_add_their_own(bank):
    made = adapter(trained=True).train()

    def terms(text=None, **config):
        goal = Objective(LossConfig(0.0, 1.0, 1.0, **config), layers=bank, padding_tokens=3)
        return goal(made, pairs(), torch.Generator(), None, text, torch.Generator())[1]

    alone, both = terms(), terms(sentences())
    assert alone.keys() == {"prompt"} and both.keys() == {"prompt", "llm"}
    assert torch.allclose(alone["prompt"], both["prompt"], rtol=1e-5)
    goal = Objective(LossConfig(0.0, 0.0, 1.0), layers=bank, padding_tokens=3)
    only = goal(made, pairs(), torch.Generator(), None, sentences(), torch.Generator())[1]
    assert only.keys() == {"llm"} and torch.allclose(only["llm"], both["llm"], rtol=1e-5), "the queries are drawn from the text's generator"
    assert terms(sentences(seed=9))["llm"] != both["llm"]


def test_the_words_of_the_llm_are_the_target_of_the_adapted_sentence(bank):
    """An untrained adapter is the identity, so a sentence that is its own answer has no loss."""
    text, goal = sentences(), Objective(LossConfig(0.0, 1.0, 1.0), layers=bank)
    text.complex, text.complex_length = text.simple, text.simple_length
    assert goal.text_loss(adapter(), text, torch.Generator()) < 1e-6 < goal.text_loss(adapter(), sentences(), torch.Generator())


def test_training_on_text_lowers_the_loss_of_other_pairs_of_that_kind(bank):
    """The answers are a fixed map of the sentences, so what is learned holds for the sentences of the validation too."""
    turn = torch.linalg.qr(torch.randn(32, 32))[0]
    text = {name: sentences(n, seed) for name, n, seed in (("train", 256, 5), ("validation", 32, 6))}
    for rows in text.values():
        rows.complex, rows.complex_length = rows.simple @ turn, rows.simple_length
    goal = Objective(LossConfig(0.0, 1.0, 1.0, sentences=32), layers=bank, padding_tokens=4)
    history = fit(adapter(), goal, pairs(), pairs(8), text=text, **CONFIG | {"steps": 60, "eval_steps": 20})
    assert history[-1]["validation_llm"] < 0.9 * history[0]["validation_llm"] and "validation_loss" in history[0]


def test_two_micro_batches_are_one_step_on_both(bank):
    """The KL losses do not depend on sampled queries, nor on a variance over the batch."""
    weights = []
    for size, count in ((8, 1), (4, 2)):
        made, config = adapter(), LossConfig(0.0, 1.0, 0.5, prompt="kl", llm="kl", sentences=size, projection="trained")
        fit(made, Objective(config), pairs(), pairs(8), text=TEXT, **CONFIG | {"batch_size": size, "gradient_accumulation_steps": count})
        weights.append(torch.cat([p.flatten() for p in made.state_dict().values()]))
    start = torch.cat([p.flatten() for p in adapter().state_dict().values()])
    assert (weights[0] - weights[1]).norm() < 0.01 * (weights[0] - start).norm()


@pytest.mark.parametrize("llm, variant", [("words", "sur"), ("words", "official"), ("decoded", "sur"), ("kl", "paper")])
def test_a_killed_training_on_text_resumes_and_ends_in_the_same_bits(llm, variant, bank, tmp_path, monkeypatch):
    monkeypatch.setenv("SUR_WORK", str(tmp_path))
    torch.manual_seed(0)
    decoder = AnswerDecoder(20, 32).eval().requires_grad_(False)
    config = LossConfig(0.0, 1.0, 0.5, llm=llm, sentences=8, complex_prompt_prob=0.1)
    limit = None

    class Stopping(Objective):
        calls = 0

        def __call__(self, made, *batch, **options):
            Stopping.calls += made.training
            if Stopping.calls == limit:
                raise KeyboardInterrupt
            return super().__call__(made, *batch, **options)

    def run(cache=None):
        torch.manual_seed(1)
        made = SURAdapter(AdapterConfig(32, 20, heads=4, variant=variant))
        goal = Stopping(config, layers=bank, padding_tokens=3, decoder=decoder)
        rows = {"train": TEXT["train"], "validation": TEXT["validation"]}
        history = fit(made, goal, pairs(), pairs(8), cache, text=rows, **CONFIG | {"checkpointing_steps": 3})
        return history, torch.cat([p.flatten() for p in made.state_dict().values()])

    expected = run()
    Stopping.calls, limit = 0, 8
    with pytest.raises(KeyboardInterrupt), WorkCache("train", llm=llm) as cache:
        run(cache)
    limit = None
    with WorkCache("train", llm=llm) as cache:
        resumed = run(cache)
    assert resumed[0] == expected[0] and torch.equal(resumed[1], expected[1])


def test_only_sure_answers_and_ready_ones_are_used(tmp_path):
    cached_sentences(tmp_path, [-0.1, -0.9, float("nan"), -0.5, -3.0])
    counts = {}
    for least in (-0.5, -1.0, None):
        split = FeatureSplit([FeatureStore(tmp_path)], "train")
        keep_sure_answers(split, least)
        counts[least] = split.index.tolist()
    assert counts == {-0.5: [0, 2, 3], -1.0: [0, 1, 2, 3], None: [0, 1, 2, 3, 4]}


@pytest.mark.parametrize("llm", ["words", "decoded", "kl"])
def test_the_stage_trains_on_text_rows(llm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    folder = cached_sentences(tmp_path / "sentences", [-0.1] * 20 + [-2.0] * 4)
    loss = WORDS | {"llm": llm, "decoder_steps": 5, "projection": "standardised"}
    train_stage(cached(tmp_path), folder, stage_params(loss, {}))
    rows = json.loads((tmp_path / "log/history.json").read_text())
    assert {"prompt", "llm", "validation_loss", "validation_llm"} < rows[-1].keys()
    assert "48 pairs and 20 text rows" in capsys.readouterr().out
    made = SURAdapter.from_pretrained(tmp_path / "adapter")
    assert (made.projection is not None) == (llm == "kl")
    assert made.config.about["loss"]["llm"] == llm and made.config.about["llm"] == "none"


def test_without_the_llms_loss_no_text_row_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    train_stage(cached(tmp_path), tmp_path / "nowhere", stage_params(WORDS | {"w_llm": 0.0}, {}))
    assert "validation_llm" not in json.loads((tmp_path / "log/history.json").read_text())[-1]


def test_kl_without_sentences_uses_the_pairs_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    train_stage(cached(tmp_path), None, stage_params(WORDS | {"llm": "kl", "projection": "standardised"}, {}))
    row = json.loads((tmp_path / "log/history.json").read_text())[-1]
    assert "llm" in row and "validation_llm" not in row


def test_what_is_missing_is_said_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    paths = cached(tmp_path)
    for folder, found in ((None, "no folder of sentences is given"), (tmp_path / "nowhere", ".*nowhere is missing")):
        with pytest.raises(FileNotFoundError, match=f"`words` learns from sentences .* {found}: run `dvc repro` .* loss.w_llm to 0"):
            train_stage(paths, folder, stage_params(WORDS, {}))
    unsure = cached_sentences(tmp_path / "unsure", [-2.0] * 5)
    with pytest.raises(ValueError, match="loss.min_logprob is -0.5, and none of the 5 answers .* is as sure: lower it"):
        train_stage(paths, unsure, stage_params(WORDS, {}))
    with pytest.raises(ValueError, match="loss.sentences is 0, and llm 'words' learns from sentences alone"):
        train_stage(paths, unsure, stage_params(WORDS | {"sentences": 0}, {}))
    with pytest.raises(ValueError, match=r"loss.llm is 'word' \(did you mean 'words'\?\): choose words or decoded or kl"):
        train_stage(paths, unsure, stage_params(WORDS | {"llm": "word"}, {}))
