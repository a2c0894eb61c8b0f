"""The sweep over scales gives the images of the base model at 0 and of the adapter at 1; and the text of each arm."""

from pathlib import Path

import pytest
import torch
from helpers.repository import ROOT
from helpers.small_models import digest
from helpers.stages import generate, sweep

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.generation.arms import ARMS, STOCK_KEYWORDS
from sur_adapter.io.shards import read_tar

MODELS = {"diffusion": str(ROOT / "models/miniature/stable-diffusion"), "resolution": 64}
GENERATE = {"prompts": "not read", "per_category": 2, "seeds": 2, "num_inference_steps": 2, "guidance_scale": 3.0, "batch_size": 4}
PROMPT = {"prompt": "three red circles", "complex_prompt": "3 circles, red, 8k"}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("adapter")
    model = SURAdapter(AdapterConfig(128, depth=1, heads=2))
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights))  # an untrained adapter changes almost nothing
    model.save_pretrained(folder)
    return folder


def swept(out: Path, adapter: Path, **changes) -> dict[str, dict[str, bytes]]:
    options = {"strengths": [0, 0.5, 1], "per_category": 1} | changes
    sweep(ROOT / "prompts/plain", out, adapter, models=MODELS, generate=GENERATE, sweep=options)
    return {place.name: {key: data for key, _, data in read_tar(place)} for place in out.iterdir()}


def test_scales_0_and_1_give_the_images_of_two_arms_and_the_scale_between_others(adapter, tmp_path):
    arms = {}
    for name in ("baseline", "adapter"):
        with_it = adapter if name == "adapter" else None
        generate(ROOT / "prompts/plain", tmp_path / name, with_it, models=MODELS, generate=GENERATE | {"per_category": 1, "seeds": 1})
        arms[name] = {key: data for key, _, data in read_tar(tmp_path / name)}
    images = swept(tmp_path / "drawn", adapter)
    assert set(images) == {"0", "0.5", "1"} and len(arms["baseline"]) == 3
    assert images["0"] == arms["baseline"] and images["1"] == arms["adapter"]
    assert all(len({images[eta][key] for eta in images}) == 3 for key in arms["baseline"])


def test_equal_runs_write_equal_bytes(adapter, tmp_path):
    for name in ("one", "two"):
        swept(tmp_path / name, adapter, strengths=[0.5], seeds=2)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_an_empty_list_of_strengths_generates_and_loads_nothing(adapter, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "diffusion", "a model that is not there")
    assert swept(tmp_path / "drawn", adapter, strengths=[]) == {}


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"strengths": "all"}, "sweep.strengths is 'all': give a list, each item a number"),
        ({"strengths": [0, float("nan")]}, "give a number"),
        ({"strengths": [1, 1.0]}, "name each strength once"),
        ({"seeds": 0}, "sweep.seeds is 0: give a whole number of at least 1"),
        ({"per_categories": 2}, "per_category"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_sentence(changes, sentence, adapter, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        swept(tmp_path / "drawn", adapter, **changes)


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


@pytest.mark.parametrize("name, with_adapter", [("baseline", True), ("complex_adapter", False)])
def test_an_arm_without_the_adapter_it_needs_or_with_one_it_does_not_take_is_refused(name, with_adapter, adapter, tmp_path):
    with pytest.raises(ValueError, match=f"the arm {name} is generated with"):
        generate(ROOT / "prompts/plain", tmp_path / name, adapter if with_adapter else None, models=MODELS, generate=GENERATE)
