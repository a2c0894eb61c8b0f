"""A comparison gives two images of one seed: that of the pipeline, and that of the pipeline with an attached adapter."""

from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from helpers.miniature_adapter import MINIATURE, random_adapter

from sur_adapter import SURAdapter, attach
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.cli.loading import load_session
from sur_adapter.generation.session import MAX_PROMPT_LENGTH, MAX_SEED, MAX_STEPS, ComparisonSession
from sur_adapter.models.stable_diffusion import load_pipeline

PROMPT = "three red circles"
FEW_STEPS = {"num_inference_steps": 2, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return random_adapter(tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def session(adapter) -> ComparisonSession:
    return load_session(adapter, MINIATURE)


def pixels(*images) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in images]


def test_both_images_are_those_of_the_pipeline_without_and_with_the_adapter_for_the_same_seed(session, adapter):
    pair = session.compare(PROMPT, "blue", seed=7, scale=0.5, **FEW_STEPS)
    pipe = load_pipeline(MINIATURE)
    handle = attach(pipe, SURAdapter.from_pretrained(adapter))
    for scale, image in ((0, pair.plain), (0.5, pair.adapted)):
        handle.scale = scale
        alone = pipe(
            PROMPT,
            negative_prompt="blue",
            num_inference_steps=2,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(7),
        ).images[0]
        assert pixels(image) == pixels(alone)
    assert pixels(pair.plain) != pixels(pair.adapted)


def test_at_scale_0_both_images_and_their_attention_are_equal(session):
    pair = session.compare(PROMPT, scale=0, **FEW_STEPS)
    assert pixels(pair.plain) == pixels(pair.adapted)
    assert [word for word, *_ in pair.attention] == PROMPT.split()
    assert all(before == after > 0 for _, before, after in pair.attention)


def test_the_adapter_changes_the_attention(session):
    assert any(abs(before - after) > 1e-4 for _, before, after in session.compare(PROMPT, **FEW_STEPS).attention)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"negative_prompt": "red"}, {"num_inference_steps": 3}, {"guidance_scale": 9.0}])
def test_each_setting_changes_the_image(session, changes):
    assert pixels(session.compare(PROMPT, **FEW_STEPS).plain) != pixels(session.compare(PROMPT, **FEW_STEPS | changes).plain)


def test_progress_is_reported(session):
    progress = []
    session.compare(PROMPT, **FEW_STEPS, on_progress=progress.append)
    assert progress == [0.25, 0.5, 0.75, 1.0]


def test_calls_from_several_threads_run_one_after_another(session):
    alone = {seed: pixels(session.compare(PROMPT, seed=seed, scale=seed / 4, **FEW_STEPS).adapted) for seed in (1, 2, 3)}
    order, results = [], {}

    def compare(seed):
        pair = session.compare(PROMPT, seed=seed, scale=seed / 4, **FEW_STEPS, on_progress=lambda _: order.append(seed))
        results[seed] = pixels(pair.adapted)

    threads = [Thread(target=compare, args=(seed,)) for seed in alone]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert results == alone
    turns = [seed for i, seed in enumerate(order) if i == 0 or order[i - 1] != seed]
    assert sorted(turns) == [1, 2, 3], "each call ends before the next one starts"


def test_tokens_are_not_counted_while_an_image_is_generated(session, monkeypatch):
    """Counting disables truncation and padding of the tokenizer, so a concurrent image would use the whole prompt."""
    free = []

    def try_lock():
        free.append(session._lock.acquire(blocking=False))
        if free[-1]:
            session._lock.release()

    def count_tokens(*_):
        thread = Thread(target=try_lock)
        thread.start(), thread.join()
        return [0]

    monkeypatch.setattr("sur_adapter.generation.session.count_excess_tokens", count_tokens)
    assert session.truncation_warnings(PROMPT, "blue") == [] and free == [False, False]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"prompt": " \n"}, "the prompt is empty: write what the image should show"),
        ({"prompt": None}, "the prompt is empty"),
        ({"prompt": "a" * (MAX_PROMPT_LENGTH + 1)}, "the prompt has 2,001 characters: shorten it to 2,000"),
        ({"negative_prompt": "a" * 12_000}, "the negative prompt has 12,000 characters"),
        ({"num_inference_steps": 100_000}, f"the number of steps is 100000: give a whole number from 1 to {MAX_STEPS}"),
        ({"num_inference_steps": 0}, "the number of steps is 0"),
        ({"num_inference_steps": 2.5}, "the number of steps is 2.5: give a whole number"),
        ({"num_inference_steps": None}, "the number of steps is missing"),
        ({"seed": -1}, f"the seed is -1: give a whole number from 0 to {MAX_SEED}"),
        ({"seed": float("nan")}, "the seed is nan"),
        ({"scale": 2.1}, "the scale is 2.1: give a number from 0 to 2"),
        ({"scale": float("inf")}, "the scale is inf"),
        ({"guidance_scale": 1e9}, "the guidance scale is 1000000000: give a number from 1 to 30"),
    ],
)
def test_a_value_out_of_range_is_reported_in_one_sentence_and_nothing_is_generated(session, changes, message):
    progress = []
    with pytest.raises(ValueError, match=message):
        session.compare(**{"prompt": PROMPT} | FEW_STEPS | changes, on_progress=progress.append)
    assert progress == []


def test_a_truncated_prompt_gives_an_image_and_a_warning(session):
    length = session.pipe.tokenizer.model_max_length
    (note,) = session.compare("red " * length, **FEW_STEPS).warnings
    assert note == "The last 2 tokens of the prompt were not read: it is too long for the text encoder."
    (note,) = session.compare("red", "red " * length, **FEW_STEPS).warnings
    assert "of the negative prompt" in note
    assert session.compare("red", **FEW_STEPS).warnings == []


def test_the_default_guidance_scale_is_the_pipelines(session):
    assert session.default_guidance_scale == 7.5
    assert pixels(session.compare(PROMPT, num_inference_steps=2).plain) == pixels(
        session.compare(PROMPT, **FEW_STEPS | {"guidance_scale": 7.5}).plain
    )


def test_generate_refuses_an_empty_or_too_long_prompt(session):
    for prompt, message in ((" ", "the prompt is empty"), ("a" * (MAX_PROMPT_LENGTH + 1), "the prompt has 2,001 characters")):
        with pytest.raises(ValueError, match=message):
            session.generate(prompt, scale=1.0, **FEW_STEPS)


def test_a_missing_model_and_a_missing_adapter_are_reported_in_one_sentence_each(adapter, tmp_path):
    with pytest.raises(FileNotFoundError, match="the model is '.*nowhere', where no diffusion model can be loaded: give --model"):
        load_session(adapter, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no config.json: train an adapter"):
        load_session(tmp_path, MINIATURE)
    SURAdapter(AdapterConfig(64)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="text features of width 64"):
        load_session(tmp_path, MINIATURE)
