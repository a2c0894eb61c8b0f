"""SUR-adapter (arXiv 2305.05189): plain sentences that draw as well as keyword prompts.

handle = attach(pipe, SURAdapter.from_pretrained("models/adapter"), scale=1.0)
"""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["SURAdapter", "attach"]

_MODULES = {"SURAdapter": "sur_adapter.hub", "attach": "sur_adapter.generation.attach"}


def __getattr__(name: str):
    """Imports the public names on first use, so that the crawler and `--help` do not load torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'sur_adapter' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
