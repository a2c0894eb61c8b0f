"""Options and errors for loading pretrained models: safetensors only, no remote code."""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

NO_REMOTE_CODE = {"trust_remote_code": False}  # by default the libraries ask on a terminal whether to run a model's own code
SAFETENSORS_ONLY = NO_REMOTE_CODE | {"use_safetensors": True}  # never a pickle
LOADING_ERRORS = (  # what the libraries raise if a model is missing or corrupt, or is a pickle or code
    OSError,
    ValueError,
    AttributeError,
    ImportError,
    KeyError,
    RecursionError,
    TypeError,
    SafetensorError,
)
MAX_REASON = 160  # characters of a library's message in ours


@contextmanager
def loading_errors(param: str, model: str, what: str = "model") -> Iterator[None]:
    """Turns what a library raises into a FileNotFoundError of one sentence. param: the key of params.yaml that names the model."""
    try:
        yield
    except LOADING_ERRORS as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:MAX_REASON].rstrip(" .:")
        raise FileNotFoundError(
            f"params.yaml: {param} is {model!r}, where no {what} can be loaded ({reason}): name a folder that holds one, or a model of the "
            "hub; weights are read from safetensors alone, never from a pickle, and no code that comes with a model is run"
        ) from error
