"""SUR-adapter (arXiv 2305.05189): plain sentences that draw as well as keyword prompts.

handle = attach(pipe, SURAdapter.from_pretrained("models/adapter"), strength=1.0)
"""

__all__ = ["SURAdapter", "attach"]


def __getattr__(name: str):
    """Torch is loaded when it is needed: the crawler does without."""
    if name not in __all__:
        raise AttributeError(f"module 'sur_adapter' has no attribute {name!r}")
    from sur_adapter import adapter, guest

    return {"SURAdapter": adapter.SURAdapter, "attach": guest.attach}[name]
