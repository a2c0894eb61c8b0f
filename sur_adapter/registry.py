"""Finds plug-ins by name. A plug-in is one module of a package, and its file name is its name in params.yaml."""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from sur_adapter.io.text import did_you_mean


def names(package: str) -> list[str]:
    """Lists the plug-ins of a package, sorted: all modules but `base` and those that begin with an underscore."""
    modules = (module.name for module in iter_modules(import_module(package).__path__))
    return sorted(name for name in modules if name != "base" and not name.startswith("_"))


def load(package: str, name: str) -> ModuleType:
    """Imports the plug-in `name`, e.g. load("sur_adapter.data.scores", "clip"). Raises ValueError that lists what exists."""
    known = names(package)
    if name not in known:
        kind = package.rpartition(".")[2]
        raise ValueError(f"params.yaml: {kind} has no {name!r}{did_you_mean(name, known)}: choose one of {', '.join(known)}")
    return import_module(f"{package}.{name}")
