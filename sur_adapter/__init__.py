"""SUR-adapter (arXiv 2305.05189): plain sentences that draw as well as keyword prompts.

handle = attach(pipe, SURAdapter.from_pretrained("models/adapter"), strength=1.0)
"""

from importlib import import_module

__all__ = ["SURAdapter", "attach"]

_HOME = {"SURAdapter": "adapter.adapter", "attach": "generation.attach", "fetch": "hub", "push": "hub"}


def __getattr__(name: str):
    """Torch is loaded when it is needed: the crawler does without."""
    if name not in _HOME:
        raise AttributeError(f"module 'sur_adapter' has no attribute {name!r}")
    return getattr(import_module(f"sur_adapter.{_HOME[name]}"), name)
