"""The strict loader of params.yaml: the error for a wrong value is one sentence with its key and the allowed values."""

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers.repository import ROOT
from ruamel.yaml import YAML

from sur_adapter.config import Params, from_dict
from sur_adapter.io.text import did_you_mean
from sur_adapter.registry import load, names


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5

    def __post_init__(self):
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate is {self.rate:g}: give a number from 0 to 1")


@dataclass(frozen=True)
class Example:
    steps: int
    lr: float = 1e-3
    save_best: bool = False
    name: str = "a"
    folder: Path = Path("x")
    optimizer: Literal["muon", "adamw"] = "muon"
    bits: Literal[8, 4] | None = None
    workers: int | Literal["auto"] = "auto"
    limit: float | None = None
    layers: list[int] | Literal["all"] = "all"
    betas: tuple[float, float] = (0.9, 0.99)
    sizes: tuple[int, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    inner: Inner = Inner()
    optional: Inner | None = None
    anything: Any = None

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}: give at least 1")


def read(**values) -> Example:
    return from_dict(Example, {"steps": 1} | values, "train")


@pytest.mark.parametrize(
    "key, value, loaded",
    [
        ("lr", 2, 2.0),
        ("lr", 1e-05, 1e-05),
        ("save_best", True, True),
        ("folder", "a/b", Path("a/b")),
        ("optimizer", "adamw", "adamw"),
        ("bits", 4, 4),
        ("bits", None, None),
        ("workers", 3, 3),
        ("workers", "auto", "auto"),
        ("limit", 7, 7.0),
        ("limit", None, None),
        ("layers", [1, 2], [1, 2]),
        ("layers", "all", "all"),
        ("betas", [0, 1], (0.0, 1.0)),
        ("sizes", [1, 2, 3], (1, 2, 3)),
        ("weights", {"a": 1}, {"a": 1.0}),
        ("inner", {"rate": 1}, Inner(1.0)),
        ("inner", None, Inner()),
        ("optional", {"rate": 0.25}, Inner(0.25)),
        ("optional", None, None),
        ("anything", [{"a": None}], [{"a": None}]),
    ],
)
def test_a_value_of_the_right_type_is_loaded(key, value, loaded):
    result = getattr(read(**{key: value}), key)
    assert result == loaded and type(result) is type(loaded)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("steps", "many", "train.steps is 'many': give a whole number"),
        ("steps", 1.5, "train.steps is 1.5: give a whole number"),
        ("steps", True, "train.steps is True: give a whole number"),
        ("steps", None, "train.steps is None: give a whole number"),
        ("steps", 0, "train.steps is 0: give at least 1"),
        ("lr", "fast", "train.lr is 'fast': give a number"),
        ("lr", True, "train.lr is True: give a number"),
        ("lr", float("nan"), "train.lr is nan: give a number"),
        ("lr", float("inf"), "train.lr is inf: give a number"),
        ("save_best", 1, "train.save_best is 1: give true or false"),
        ("save_best", "yes", "train.save_best is 'yes': give true or false"),
        ("name", 5, "train.name is 5: give a text"),
        ("folder", 5, "train.folder is 5: give a path"),
        ("optimizer", "adam", "train.optimizer is 'adam' (did you mean 'adamw'?): choose muon or adamw"),
        ("optimizer", ["muon"], "train.optimizer is ['muon']"),
        ("bits", 8.0, "train.bits is 8.0"),
        ("bits", 3, "train.bits is 3: give 8 or 4 or null"),
        ("workers", "atuo", "train.workers is 'atuo' (did you mean 'auto'?): give a whole number or auto"),
        ("workers", False, "train.workers is False: give a whole number or auto"),
        ("limit", "none", "train.limit is 'none': give a number or null"),
        ("limit", float("nan"), "train.limit is nan: give a number or null"),
        ("layers", [1, "two"], "train.layers[1] is 'two': give a whole number"),
        ("layers", "al", "train.layers is 'al' (did you mean 'all'?): give a list, each item a whole number or all"),
        ("layers", {"a": 1}, "train.layers is {'a': 1}: give a list, each item a whole number"),
        ("betas", [0.9], "train.betas is [0.9]: give a list of 2: a number, a number"),
        ("betas", 0.9, "train.betas is 0.9: give a list of 2"),
        ("sizes", [1, True], "train.sizes[1] is True: give a whole number"),
        ("sizes", "12", "train.sizes is '12': give a list, each item a whole number"),
        ("weights", {"a": "b"}, "train.weights.a is 'b': give a number"),
        ("weights", [1], "train.weights is [1]: give keys with values"),
        ("inner", 5, "train.inner is 5: give keys with values"),
        ("inner", {"rat": 1}, "train.inner.rat is unknown (did you mean 'rate'?): known keys are rate"),
        ("inner", {"rate": "x"}, "train.inner.rate is 'x': give a number"),
        ("inner", {"rate": 2}, "train.inner.rate is 2: give a number from 0 to 1"),
        ("optional", {"rate": 2}, "train.optional.rate is 2: give a number from 0 to 1"),
        ("optional", "x", "train.optional is 'x': give the keys rate or null"),
        ("stepps", 1, "train.stepps is unknown (did you mean 'steps'?): known keys are steps, lr"),
        (5, 1, "train.5 is unknown: known keys are steps, lr"),
    ],
)
def test_a_wrong_value_is_reported_in_one_sentence(key, value, message):
    with pytest.raises(ValueError, match=rf"^params.yaml: {re.escape(message)}") as raised:
        from_dict(Example, {"steps": 1} | {key: value}, "train")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("values", [{}, None])
def test_a_key_without_a_default_is_required(values):
    with pytest.raises(ValueError, match="^params.yaml: train.steps is missing: add it, as in presets/miniature.yaml$"):
        from_dict(Example, values, "train")


@pytest.mark.parametrize("values", [5, "steps", [1]])
def test_a_section_is_a_mapping(values):
    with pytest.raises(ValueError, match="^params.yaml: train is .*: give keys with values"):
        from_dict(Example, values, "train")


def test_an_optional_section_has_its_defaults_and_a_required_one_is_named_if_it_is_missing():
    params = Params({"cahce": {"llm": {"rate": 1}}, "empty": None}, "mine.yaml")
    assert params.section("inner", Inner, required=False) == params.section("empty", Inner) == Inner()
    assert params.section("cahce.llm", Inner) == Inner(1.0)
    with pytest.raises(ValueError, match=r"^mine.yaml has no section 'cache' \(did you mean 'cahce'\?\): add it"):
        params.section("cache", Inner)
    with pytest.raises(ValueError, match=r"^mine.yaml has no section 'lmm' \(did you mean 'llm'\?\): add it"):
        params.raw("cahce.lmm")


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "p.yaml is missing: run from the project's folder, or copy a preset"),
        ("a: [1", "p.yaml is not valid YAML .*: correct it, or copy a preset"),
        ("a: 1\na: 2", "p.yaml is not valid YAML .*duplicate key"),
        ("- a", "p.yaml holds a list: give sections with keys"),
    ],
)
def test_a_file_that_cannot_be_read_is_reported_in_one_sentence(tmp_path, text, message):
    if text is not None:
        (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        Params.read(tmp_path / "p.yaml")
    assert "\n" not in str(raised.value)


def test_the_file_is_params_yaml_here_or_what_the_environment_names(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("train: {rate: 1e-3}")
    (tmp_path / "other.yaml").write_text("train: {rate: 1}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SUR_PARAMS", raising=False)
    assert Params.read().section("train", Inner) == Inner(1e-3), "1e-3 is a number, as DVC writes it"
    monkeypatch.setenv("SUR_PARAMS", "other.yaml")
    assert Params.read().section("train", Inner) == Inner(1.0)


def test_a_plug_in_is_found_by_its_file_name_and_a_wrong_name_lists_them():
    assert "phash" in names("sur_adapter.data.scores") and load("sur_adapter.data.scores", "phash").__name__.endswith("scores.phash")
    with pytest.raises(ValueError, match=r"^params.yaml: scores has no 'phsah' \(did you mean 'phash'\?\): choose one of .*nsfw"):
        load("sur_adapter.data.scores", "phsah")
    assert did_you_mean("zebra", ["phash"]) == ""


def test_a_wrong_type_ends_the_training_in_one_sentence(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text((ROOT / "params.yaml").read_text().replace("\n  steps: ", "\n  steps: many #", 1))
    arguments = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["train"]["cmd"].split()[1:]
    result = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, env={"SUR_PARAMS": str(params), "PATH": ""}
    )
    assert result.stderr.startswith("error: params.yaml: train.steps is 'many': give a whole number"), result.stderr
    assert result.returncode == 1 and result.stderr.count("\n") == 1
