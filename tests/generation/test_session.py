"""One prompt, drawn twice on the same noise: without the adapter it is the pipeline's own picture, with it the guest's."""

from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from helpers.repository import ROOT

import sur_adapter.models.stable_diffusion as diffusion
from sur_adapter import SURAdapter, attach
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.generation.session import LONGEST, SEEDS, STEPS, ComparisonSession, load

MODEL = str(ROOT / "models/miniature/stable-diffusion")
PROMPT = "three red circles"
FEW = {"steps": 2, "guidance": 3.0}


def perturbed(folder: Path) -> Path:
    """An adapter for the miniature's width, which does something: untrained, it would be nearly nothing."""
    torch.manual_seed(0)
    model = SURAdapter(AdapterConfig(128, depth=1, heads=2))
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return perturbed(tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def studio(adapter) -> ComparisonSession:
    return load(adapter, MODEL)


def pixels(*images) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in images]


def test_the_plain_picture_is_the_pipelines_and_the_adapted_one_the_guests_of_the_same_seed(studio, adapter):
    pair = studio.draw(PROMPT, "blue", seed=7, strength=0.5, **FEW)
    pipe = diffusion.load_pipeline(MODEL)
    handle = attach(pipe, SURAdapter.from_pretrained(adapter))
    for strength, image in ((0, pair.plain), (0.5, pair.adapted)):
        handle.strength = strength
        alone = pipe(
            PROMPT,
            negative_prompt="blue",
            num_inference_steps=2,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(7),
        ).images[0]
        assert pixels(image) == pixels(alone)
    assert pixels(pair.plain) != pixels(pair.adapted)


def test_at_strength_0_both_are_one_picture_and_no_word_gains_or_loses(studio):
    pair = studio.draw(PROMPT, strength=0, **FEW)
    assert pixels(pair.plain) == pixels(pair.adapted)
    assert [word for word, *_ in pair.looked] == PROMPT.split()
    assert all(before == after > 0 for _, before, after in pair.looked)


def test_the_adapter_moves_the_attention(studio):
    assert any(abs(before - after) > 1e-4 for _, before, after in studio.draw(PROMPT, **FEW).looked)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"negative": "red"}, {"steps": 3}, {"guidance": 9.0}])
def test_every_field_counts(studio, changes):
    assert pixels(studio.draw(PROMPT, **FEW).plain) != pixels(studio.draw(PROMPT, **FEW | changes).plain)


def test_it_tells_how_far_it_is(studio):
    told = []
    studio.draw(PROMPT, **FEW, tell=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_who_comes_second_waits_and_gets_their_own(studio):
    alone = {seed: pixels(studio.draw(PROMPT, seed=seed, strength=seed / 4, **FEW).adapted) for seed in (1, 2, 3)}
    order, found = [], {}

    def ask(seed):
        pair = studio.draw(PROMPT, seed=seed, strength=seed / 4, **FEW, tell=lambda _: order.append(seed))
        found[seed] = pixels(pair.adapted)

    threads = [Thread(target=ask, args=(seed,)) for seed in alone]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == alone
    turns = [seed for i, seed in enumerate(order) if i == 0 or order[i - 1] != seed]
    assert sorted(turns) == [1, 2, 3], "one is done before the next begins"


def test_nobody_asks_the_tokenizer_while_another_draws(studio, monkeypatch):
    """Counting the tokens turns its cutting and padding off, in the midst of which a prompt would be read whole."""
    free = []

    def look():
        free.append(studio._busy.acquire(blocking=False))
        if free[-1]:
            studio._busy.release()

    def counted(*_):
        thread = Thread(target=look)
        thread.start(), thread.join()
        return [0]

    monkeypatch.setattr("sur_adapter.generation.session.too_long", counted)
    assert studio.unread(PROMPT, "blue") == [] and free == [False, False]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"prompt": " \n"}, "the prompt is empty: write what the picture should show"),
        ({"prompt": None}, "the prompt is empty"),
        ({"prompt": "a" * (LONGEST + 1)}, "the prompt has 2,001 characters: shorten it to 2,000"),
        ({"negative": "a" * 12_000}, "the negative prompt has 12,000 characters"),
        ({"steps": 100_000}, f"the number of steps is 100000: give a whole number from 1 to {STEPS}"),
        ({"steps": 0}, "the number of steps is 0"),
        ({"steps": 2.5}, "the number of steps is 2.5: give a whole number"),
        ({"steps": None}, "the number of steps is missing"),
        ({"seed": -1}, f"the seed is -1: give a whole number from 0 to {SEEDS}"),
        ({"seed": float("nan")}, "the seed is nan"),
        ({"strength": 2.1}, "the strength is 2.1: give a number from 0 to 2"),
        ({"strength": float("inf")}, "the strength is inf"),
        ({"guidance": 1e9}, "the guidance is 1000000000: give a number from 1 to 30"),
    ],
)
def test_what_makes_no_sense_gets_a_sentence_and_no_picture(studio, changes, said):
    told = []
    with pytest.raises(ValueError, match=said):
        studio.draw(**{"prompt": PROMPT} | FEW | changes, tell=told.append)
    assert told == []


def test_a_prompt_that_is_cut_is_drawn_and_said_to_be_cut(studio):
    length = studio.pipe.tokenizer.model_max_length
    (note,) = studio.draw("red " * length, **FEW).notes
    assert note == "The last 2 tokens of the prompt were not read: it is too long for the text encoder."
    (note,) = studio.draw("red", "red " * length, **FEW).notes
    assert "of the negative prompt" in note
    assert studio.draw("red", **FEW).notes == []


def test_without_a_word_on_guidance_the_pipelines_own_holds(studio):
    assert studio.guidance == 7.5
    assert pixels(studio.draw(PROMPT, steps=2).plain) == pixels(studio.draw(PROMPT, steps=2, guidance=7.5).plain)


def test_a_prompt_that_is_empty_or_too_long_is_refused_for_one_picture_too(studio):
    for prompt, said in ((" ", "the prompt is empty"), ("a" * (LONGEST + 1), "the prompt has 2,001 characters")):
        with pytest.raises(ValueError, match=said):
            studio.picture(prompt, strength=1.0, **FEW)


def test_no_model_and_no_adapter_get_a_sentence_each(adapter, tmp_path):
    with pytest.raises(FileNotFoundError, match="the model is '.*nowhere', where no diffusion model can be loaded: give --model"):
        load(adapter, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no config.json: train an adapter"):
        load(tmp_path, MODEL)
    SURAdapter(AdapterConfig(64)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="text features 64 wide"):
        load(tmp_path, MODEL)
