"""The sweep over scales gives the images of the base model at 0 and of the adapter at its own scale, and takes them from the arms."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.repository import ROOT
from helpers.small_models import digest
from helpers.stages import generate, sweep

from stages import sweep as sweep_stage
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.io.shards import read_tar

MODELS = {"diffusion": str(ROOT / "models/miniature/stable-diffusion"), "resolution": 64}
GENERATE = {"prompts": "not read", "per_category": 2, "seeds": 2, "num_inference_steps": 2, "guidance_scale": 3.0, "batch_size": 4}
PROMPTS = ROOT / "prompts/plain"  # three categories


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


def swept(out: Path, adapter: Path, images: Path | None = None, **changes) -> dict[str, dict[str, bytes]]:
    options = {"strengths": [0, 0.5, 1], "per_category": 1} | changes
    sweep(PROMPTS, out, adapter, images, models=MODELS, generate=GENERATE, sweep=options)
    return {place.name: read(place) for place in out.iterdir()}


def read(folder: Path) -> dict[str, bytes]:
    return {key: data for key, _, data in read_tar(folder)}


@pytest.fixture(scope="module")
def images(adapter, tmp_path_factory) -> Path:
    """The two arms that a sweep takes images from: two prompts of each category, two images of each."""
    folder = tmp_path_factory.mktemp("images")
    for name, with_it in (("baseline", None), ("adapter", adapter)):
        generate(PROMPTS, folder, name, adapter=with_it, models=MODELS, generate=GENERATE)
    return folder


def test_scales_0_and_1_give_the_images_of_two_arms_and_the_scale_between_others(adapter, tmp_path):
    for name, with_it in (("baseline", None), ("adapter", adapter)):
        generate(PROMPTS, tmp_path, name, adapter=with_it, models=MODELS, generate=GENERATE | {"per_category": 1, "seeds": 1})
    arms = {name: read(tmp_path / name) for name in ("baseline", "adapter")}
    images = swept(tmp_path / "drawn", adapter)
    assert set(images) == {"0", "0.5", "1"} and len(arms["baseline"]) == 3
    assert images["0"] == arms["baseline"] and images["1"] == arms["adapter"]
    assert all(len({images[eta][key] for eta in images}) == 3 for key in arms["baseline"])


def count_scales(monkeypatch) -> list[float]:
    """Returns a list that gets the scale of each batch that the sweep generates."""
    own, scales = sweep_stage.generate_images, []

    def counted(pipe, *rest):
        scales.append(vars(pipe)["encode_prompt"].__self__.scale)
        return own(pipe, *rest)

    monkeypatch.setattr(sweep_stage, "generate_images", counted)
    return scales


def test_images_that_the_arms_have_are_taken_from_them_in_the_order_of_the_prompts(images, adapter, tmp_path, monkeypatch):
    scales = count_scales(monkeypatch)
    taken = swept(tmp_path / "taken", adapter, images)
    assert scales == [0.5]
    generated = swept(tmp_path / "generated", adapter)
    assert scales[1:] == [0, 0.5, 1] and {eta: list(part) for eta, part in taken.items()} == {
        eta: list(part) for eta, part in generated.items()
    }
    for eta, arm in (("0", "baseline"), ("1", "adapter")):
        assert taken[eta].items() <= read(images / arm).items() and len(taken[eta]) == 3
    assert taken["0.5"] == generated["0.5"]


def test_a_pipeline_is_not_loaded_if_the_arms_have_all_images(images, adapter, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "diffusion", "a model that is not there")
    assert len(swept(tmp_path / "taken", adapter, images, strengths=[1, 0], per_category=2, seeds=2)["0"]) == 3 * 2 * 2


@pytest.mark.parametrize("changes", [{"per_category": 3}, {"seeds": 3}])
def test_images_that_an_arm_lacks_are_generated(changes, images, adapter, tmp_path, monkeypatch):
    scales = count_scales(monkeypatch)
    assert len(swept(tmp_path / "drawn", adapter, images, strengths=[0, 1], **changes)["0"]) == 9
    assert scales == [0, 1]


def test_images_of_another_text_and_of_an_arm_that_was_not_generated_are_not_taken(images, adapter, tmp_path, monkeypatch):
    scales = count_scales(monkeypatch)
    shutil.copytree(images / "baseline", tmp_path / "images/baseline")
    file = tmp_path / "images/baseline/prompts.parquet"
    table = pd.read_parquet(file)
    table.assign(text=table.text + ", 8k").to_parquet(file)
    swept(tmp_path / "drawn", adapter, tmp_path / "images", strengths=[0, 1])
    assert scales == [0, 1]


def test_the_arm_with_the_adapter_gives_the_scale_that_is_saved_with_it(images, adapter, tmp_path, monkeypatch):
    scales = count_scales(monkeypatch)
    shutil.copytree(adapter, tmp_path / "weak")
    config = json.loads((tmp_path / "weak/config.json").read_text())
    (tmp_path / "weak/config.json").write_text(json.dumps(config | {"strength": 0.5}))
    generate(PROMPTS, tmp_path / "images", "adapter", adapter=tmp_path / "weak", models=MODELS, generate=GENERATE)
    taken = swept(tmp_path / "taken", tmp_path / "weak", tmp_path / "images", strengths=[0.5, 1])
    assert scales == [1] and taken["0.5"].items() <= read(tmp_path / "images/adapter").items()


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
