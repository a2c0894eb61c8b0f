"""The signature is the schema: settings are checked against the function that takes them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, signature
from pkgutil import iter_modules
from types import ModuleType

from safetensors import SafetensorError

# what the libraries raise where a model is missing, holds a pickle or code, or is broken
BROKEN = (OSError, ValueError, AttributeError, ImportError, KeyError, RecursionError, TypeError, SafetensorError)
SETTINGS_ALONE = {"trust_remote_code": False}  # unless told, the libraries ask on a terminal whether to run what lies beside a model
WEIGHTS_ALONE = SETTINGS_ALONE | {"use_safetensors": True}  # never a pickle
LONGEST = 160  # characters told of what a library says


def nearest(word: str, known) -> str:
    """ " (did you mean 'x'?)", or nothing."""
    near = get_close_matches(str(word), list(map(str, known)), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def choose(key: str, value, known) -> None:
    """ValueError that names the key of params.yaml and what there is, if `value` is none of `known`."""
    if value not in known:
        raise ValueError(f"params.yaml: {key} is {value!r}{nearest(value, known)}: choose {' or '.join(known)}")


def settings(function: Callable, values: dict | None, section: str) -> dict:
    """`values` as they are, if `function` takes each of them by keyword and gets all it needs; else one sentence.

    Raises ValueError that names the key of params.yaml, what is known, and the nearest right one.
    """
    values = dict(values or {})
    takes = {p.name: p for p in signature(function).parameters.values() if p.kind is Parameter.KEYWORD_ONLY}
    for key in values:
        if key not in takes:
            raise ValueError(f"params.yaml: {section}.{key} is unknown{nearest(key, takes)}; known are {', '.join(takes) or 'none'}")
    for name, p in takes.items():
        if p.default is Parameter.empty and name not in values:
            raise ValueError(f"params.yaml: {section}.{name} is missing: add it, as in presets/miniature.yaml")
    return values


def plugin(package: str, name: str) -> ModuleType:
    """The module `name` of `package`, e.g. plugin("sur_adapter.scores", "clip"); else a sentence that lists what exists."""
    known = [m.name for m in iter_modules(import_module(package).__path__)]
    if name not in known:
        raise ValueError(f"params.yaml: {package.rpartition('.')[2]} has no {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    return import_module(f"{package}.{name}")


@contextmanager
def named(param: str, model: str, what: str = "model") -> Iterator[None]:
    """Loading a model that params.yaml names: FileNotFoundError in one sentence where there is none, whatever the library says."""
    try:
        yield
    except BROKEN as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:LONGEST].rstrip(" .:")
        raise FileNotFoundError(
            f"params.yaml: {param} is {model!r}, where no {what} can be loaded ({why}): name a folder that holds one, or a model of the "
            "hub; weights are read from safetensors alone, never from a pickle, and no code that comes with a model is run"
        ) from error
