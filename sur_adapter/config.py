"""Loads params.yaml into frozen dataclasses.

Each consumer of settings defines its dataclass beside it: `TrainConfig` in training/, `ExecutorConfig` in executors/, and so on. Field
types are checked here, ranges in the dataclass's own `__post_init__`. Each error is one sentence that names the key of params.yaml:

    @dataclass(frozen=True)
    class TrainConfig:
        steps: int
        optimizer: Literal["muon", "adamw"] = "muon"

        def __post_init__(self):
            if self.steps < 1:
                raise ValueError(f"steps is {self.steps}: give at least 1")  # the loader adds `params.yaml: train.` in front

    Params.read().section("train", TrainConfig)
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sur_adapter.io.text import did_you_mean

T = TypeVar("T")
DESCRIPTIONS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null", dict: "keys with values"}


class Params:
    """The values of a params.yaml file, by section."""

    def __init__(self, values: Mapping, file: str | Path = "params.yaml"):
        self.values, self.file = dict(values), file

    @classmethod
    def read(cls, file: str | Path | None = None) -> "Params":
        """Reads `file`; by default $SUR_PARAMS, or params.yaml here. Raises ValueError if it is missing or is not a YAML mapping."""
        file = Path(file or os.environ.get("SUR_PARAMS", "params.yaml"))
        if not file.exists():
            raise ValueError(
                f"{file} is missing: run from the project's folder, or copy a preset (`cp presets/miniature.yaml params.yaml`)"
            )
        try:
            values = YAML(typ="safe").load(file) or {}
        except YAMLError as error:
            reason = str(error).replace("\n", " ")
            raise ValueError(f"{file} is not valid YAML ({reason}): correct it, or copy a preset") from error
        if not isinstance(values, dict):
            raise ValueError(f"{file} holds a {type(values).__name__}: give sections with keys, as in presets/miniature.yaml")
        return cls(values, file)

    def raw(self, section: str, required: bool = True) -> Any:
        """Returns the unchecked values of a section, or of a nested one such as `cache.llm`; None if an optional one is missing."""
        values: Any = self.values
        for name in section.split("."):
            known = values if isinstance(values, Mapping) else {}
            if name not in known:
                if not required:
                    return None
                raise ValueError(f"{self.file} has no section {name!r}{did_you_mean(name, known)}: add it, as in presets/miniature.yaml")
            values = known[name]
        return values

    def section(self, name: str, cls: type[T], required: bool = True, prepare: Callable[[Any], Any] | None = None) -> T:
        """Returns a section as the dataclass `cls`, checked; an optional one that is missing gives the defaults of `cls`.

        prepare: turns the raw values into the fields of `cls`, for a section whose keys are not all fixed.
        """
        values = self.raw(name, required)
        return from_dict(cls, prepare(values) if prepare else values, name)


def from_dict(cls: type[T], values: Mapping | None, section: str) -> T:
    """Builds the dataclass `cls` from the values of a section of params.yaml.

    Raises ValueError for an unknown key (with the closest known one), a missing key, a wrong type, or a value out of range.
    """
    if values is not None and not isinstance(values, Mapping):
        raise ValueError(f"params.yaml: {section} is {values!r}: give {DESCRIPTIONS[dict]}, as in presets/miniature.yaml")
    values = dict(values or {})
    known = {field.name: field for field in fields(cls) if field.init}
    for key in values:
        if key not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(f"params.yaml: {section}.{key} is unknown{did_you_mean(key, known)}: known keys are {listed}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"params.yaml: {section}.{name} is missing: add it, as in presets/miniature.yaml")
    hints = get_type_hints(cls)
    checked = {key: _convert(value, hints[key], f"{section}.{key}") for key, value in values.items()}
    try:
        return cls(**checked)
    except ValueError as error:
        raise ValueError(f"params.yaml: {section}.{error}") from error


def _convert(value: Any, hint: Any, key: str) -> Any:
    """Checks a value against a type hint; converts a list to a tuple and a whole number to a float where the hint asks for it."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _convert_union(value, hint, key)
    if origin is Literal:
        if value in args and type(value) in map(type, args):
            return value
        raise ValueError(f"params.yaml: {key} is {value!r}{did_you_mean(value, args)}: choose {_describe(hint)}")
    if is_dataclass(hint):
        return from_dict(hint, value, key)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return _convert_list(value, hint, key)
    if origin is dict and isinstance(value, Mapping):
        return {k: _convert(v, args[1], f"{key}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is not float and isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(f"params.yaml: {key} is {value!r}: give {_describe(hint)}")


def _convert_union(value: Any, hint: Any, key: str) -> Any:
    if value is None and NoneType in get_args(hint):
        return None
    for choice in get_args(hint):
        try:
            return _convert(value, choice, key)
        except ValueError as error:
            if is_dataclass(choice) and isinstance(value, Mapping):
                raise  # the error names the nested key
            is_list = get_origin(choice) in (list, tuple) and isinstance(value, list | tuple)
            if is_list or (get_origin(choice) is dict and isinstance(value, Mapping)):
                raise error from None
    texts = [a for choice in get_args(hint) if get_origin(choice) is Literal for a in get_args(choice)]
    raise ValueError(f"params.yaml: {key} is {value!r}{did_you_mean(value, texts)}: give {_describe(hint)}")


def _convert_list(value: list | tuple, hint: Any, key: str) -> list | tuple:
    origin, args = get_origin(hint), get_args(hint)
    if origin is list or args[-1] is Ellipsis:
        return origin(_convert(item, args[0], f"{key}[{number}]") for number, item in enumerate(value))
    if len(value) != len(args):
        raise ValueError(f"params.yaml: {key} is {list(value)!r}: give {_describe(hint)}")
    return tuple(_convert(item, arg, f"{key}[{number}]") for number, (item, arg) in enumerate(zip(value, args, strict=True)))


def _describe(hint: Any) -> str:
    """Describes what a type accepts, for an error message."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_describe, args)))
    if origin is Literal:
        return " or ".join(str(a) for a in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return f"a list of {len(args)}: {', '.join(map(_describe, args))}"
    if origin in (list, tuple):
        return f"a list, each item {_describe(args[0])}"
    if origin is dict:
        return DESCRIPTIONS[dict]
    if is_dataclass(hint):
        return f"the keys {', '.join(field.name for field in fields(hint))}"
    return DESCRIPTIONS.get(hint, "a path" if hint is Path else getattr(hint, "__name__", str(hint)))
