"""Options and errors for loading pretrained models: safetensors only, no remote code."""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

# what the libraries raise where a model is missing, holds a pickle or code, or is broken
BROKEN = (OSError, ValueError, AttributeError, ImportError, KeyError, RecursionError, TypeError, SafetensorError)


NO_REMOTE_CODE = {"trust_remote_code": False}  # unless told, the libraries ask on a terminal whether to run what lies beside a model


SAFETENSORS_ONLY = NO_REMOTE_CODE | {"use_safetensors": True}  # never a pickle


LONGEST = 160  # characters told of what a library says


@contextmanager
def loading_errors(param: str, model: str, what: str = "model") -> Iterator[None]:
    """Loading a model that params.yaml names: FileNotFoundError in one sentence where there is none, whatever the library says."""
    try:
        yield
    except BROKEN as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:LONGEST].rstrip(" .:")
        raise FileNotFoundError(
            f"params.yaml: {param} is {model!r}, where no {what} can be loaded ({why}): name a folder that holds one, or a model of the "
            "hub; weights are read from safetensors alone, never from a pickle, and no code that comes with a model is run"
        ) from error
