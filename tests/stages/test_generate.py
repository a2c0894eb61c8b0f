"""Several arms of one process are the files of single arms; a group is all with or all without the adapter; the text of each arm."""

import json
from itertools import count, islice

import pytest
from helpers.miniature_adapter import random_adapter
from helpers.repository import ROOT
from helpers.small_models import digest
from helpers.stages import generate, run_stage

from sur_adapter.generation import writer
from sur_adapter.generation.arms import ARMS, STOCK_KEYWORDS
from sur_adapter.generation.sampling import ImageJob
from sur_adapter.io.shards import read_tar

PROMPTS = ROOT / "prompts/plain"  # three categories
MODELS = {"diffusion": str(ROOT / "models/miniature/stable-diffusion"), "llm": str(ROOT / "models/miniature/llama"), "resolution": 64}
GENERATE = {"per_category": 1, "seeds": 2, "num_inference_steps": 2, "guidance_scale": 3.0, "batch_size": 4}
SETTINGS = {"models": MODELS, "generate": GENERATE}
PROMPT = {"prompt": "three red circles", "complex_prompt": "3 circles, red, 8k"}
WITHOUT = ("baseline", "complex", "expansion")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return random_adapter(tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The pipelines that are loaded in this process, by name."""
    own, names = writer.load_pipeline, []
    monkeypatch.setattr(writer, "load_pipeline", lambda name, *more: names.append(name) or own(name, *more))
    return names


@pytest.mark.parametrize("arms", [WITHOUT, ("complex_adapter", "adapter")])
def test_arms_of_one_process_are_the_files_of_single_arms_and_the_pipeline_is_loaded_once(arms, adapter, loads, tmp_path):
    with_it = adapter if ARMS[arms[0]].with_adapter else None
    generate(PROMPTS, tmp_path / "group", *arms, adapter=with_it, **SETTINGS)
    assert len(loads) == 1
    for arm in arms:
        generate(PROMPTS, tmp_path / "single", arm, adapter=with_it, **SETTINGS)
    assert len(loads) == 1 + len(arms)
    files = digest(tmp_path / "group")
    assert files == digest(tmp_path / "single")
    assert files.keys() == {f"{arm}/{name}" for arm in arms for name in ("images-000000.tar", "prompts.parquet")}
    assert len({value for name, value in files.items() if name.endswith(".tar")}) == len(arms), "each arm has images of its own"


def test_in_a_group_only_the_arm_rewrite_has_answers_and_their_size(tmp_path, loads):
    (tmp_path / "choices.txt").write_text("1 green circle\n3 red stars\n")
    sections = SETTINGS | {"cache": {"sentences": {"choices": str(tmp_path / "choices.txt")}}}
    run_stage("generate", sections, arms=["rewrite", "baseline"], prompts=PROMPTS, out=tmp_path / "images", timings=tmp_path / "timings")
    generate(PROMPTS, tmp_path / "single", "baseline", **SETTINGS)
    group, single = digest(tmp_path / "images"), digest(tmp_path / "single")
    assert single.items() <= group.items() and group.keys() - single.keys() == {
        "rewrite/images-000000.tar", "rewrite/prompts.parquet", "rewrite/llm.json"
    }  # fmt: skip
    seconds = {arm: json.loads((tmp_path / f"timings/{arm}.json").read_text()) for arm in ("rewrite", "baseline")}
    assert seconds["rewrite"].keys() == {"rewriting_per_prompt", "per_image"} and seconds["baseline"].keys() == {"per_image"}
    assert seconds["baseline"]["per_image"] > 0


def test_seconds_per_image_are_those_of_the_arm_without_the_first_batch_of_all():
    jobs = [ImageJob("a", "a circle", index) for index in range(4)]
    batches = [writer.Batch(arm, number, jobs[:size]) for arm, number, size in (("x", 0, 4), ("x", 1, 2), ("y", 0, 4), ("y", 1, 1))]
    done = list(islice(count(100.0, 10.0), 4))
    assert writer._seconds_per_image(batches, done) == {"x": 10 / 2, "y": 20 / 5}
    assert writer._seconds_per_image(batches[:1], done[:1]) == writer._seconds_per_image([], []) == {}


@pytest.mark.parametrize("name, with_adapter", [("baseline", True), ("complex_adapter", False)])
def test_an_arm_without_the_adapter_it_needs_or_with_one_it_does_not_take_is_refused(name, with_adapter, adapter, tmp_path):
    with pytest.raises(ValueError, match=f"the arm {name} is generated with"):
        generate(PROMPTS, tmp_path, name, adapter=adapter if with_adapter else None, **SETTINGS)


@pytest.mark.parametrize("with_adapter", [True, False])
def test_a_group_of_arms_with_and_without_the_adapter_is_refused(with_adapter, adapter, tmp_path, loads):
    message = "the arms adapter, complex_adapter need the adapter and the arms baseline do without: give them to two calls"
    with pytest.raises(ValueError, match=message):
        generate(PROMPTS, tmp_path, "adapter", "baseline", "complex_adapter", adapter=adapter if with_adapter else None, **SETTINGS)
    assert not loads and not list(tmp_path.iterdir())


def test_an_arm_that_is_named_twice_is_drawn_once(tmp_path):
    generate(PROMPTS, tmp_path, "baseline", "baseline", **SETTINGS)
    assert len(list(read_tar(tmp_path / "baseline"))) == 3 * 2


def test_each_arm_has_its_own_text():
    answer = "red, 3 circles"
    texts = {name: arm.text(PROMPT | {"rewritten": answer}) for name, arm in ARMS.items()}
    plain, keyword = PROMPT["prompt"], PROMPT["complex_prompt"]
    assert texts == {
        "baseline": plain, "adapter": plain, "complex": keyword, "complex_adapter": keyword, "expansion": f"{plain}, {STOCK_KEYWORDS}",
        "rewrite": answer,
    }  # fmt: skip
    assert ARMS["complex"].text({"prompt": plain}) == plain
    assert {name for name, arm in ARMS.items() if arm.with_adapter} == {"adapter", "complex_adapter"}
