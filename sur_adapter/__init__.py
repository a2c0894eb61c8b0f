"""SUR-adapter (arXiv 2305.05189): plain sentences that draw as well as keyword prompts.

handle = attach(pipe, SURAdapter.from_pretrained("models/adapter"), scale=1.0)
"""

from importlib import import_module

from sur_adapter.extras import name_extras_in_errors
from sur_adapter.version import __version__

__all__ = ["SURAdapter", "__version__", "attach"]

_MODULES = {"SURAdapter": "sur_adapter.hub", "attach": "sur_adapter.generation.attach"}

name_extras_in_errors()


def __getattr__(name: str):
    """Imports the public names on first use, so that the crawler and `--help` do not load torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'sur_adapter' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
