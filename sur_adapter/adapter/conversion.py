"""Checkpoints of the published code (`adapter_checkpoint*.pt`): a bare state_dict of 48 tensors, d = 768 or 1024.

Twelve tensors of an encoder layer thrice (`encoder_layer`, a template that is never run, and `transformer_encoder.layers.{0,1}`),
`attention.{query_layer,key_layer,value_layer,output_layer.0,output_layer.2}` (`value_layer` is never run) and `fc`, each with
weight and bias. The twelve of the template and the two of `value_layer` are read over, and written as noughts. Neither eta nor
depth, base model, LLM or layer stands in such a file.
"""

from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.adapter.official import OfficialAdapter
from sur_adapter.io.atomic import atomic_write

DEPTH, HEADS = 2, 8  # fixed in the published code
DEAD = ("encoder_layer.", "attention.value_layer.")


def read(file: str | Path, *, published_attention: bool = True, strength: float | None = None, about: dict | None = None) -> SURAdapter:
    """The adapter in a checkpoint, .pt or .safetensors, in evaluation mode; no code in the file is run. strength is 0.1 unless given.

    Raises FileNotFoundError where there is none, ValueError where it holds anything but the tensors named above.
    """
    file = Path(file)
    found = _load(file)
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{file}: {name!r} is a {type(tensor).__name__}, not a tensor: give the bare state_dict of the adapter")
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(f"{file}: {name!r} is a tensor of {tensor.dtype} without plain numbers: save it anew as float32")
    width = found["fc.weight"].shape[0] if found.get("fc.weight", torch.empty(0)).ndim == 2 else 0
    if not width or width % HEADS:
        raise ValueError(f"{file} has no square `fc.weight` whose width {HEADS} divides: it is not a checkpoint of the published adapter")
    _refuse(file, found, expected(width))
    digest = sha256(file.read_bytes()).hexdigest()[:16]
    about = (about or {}) | {"checkpoint": digest}
    config = AdapterConfig(
        width, depth=DEPTH, heads=HEADS, strength=strength, variant="official", published_attention=published_attention, about=about
    )
    adapter = SURAdapter(config)
    adapter.load_state_dict({name: tensor.float() for name, tensor in found.items() if not name.startswith(DEAD)})
    return adapter.eval().requires_grad_(False)


def write(adapter: SURAdapter, file: str | Path) -> None:
    """The 48 tensors, float32, as the published code loads them; .safetensors where the name ends so, else what torch.load reads.

    Raises ValueError where the adapter is of another network than the published one.
    """
    config, file = adapter.config, Path(file)
    if config.variant != "official":
        raise ValueError(f"the adapter is of the variant {config.variant}: the published code runs `official` alone; train that one")
    if (config.depth, config.heads) != (DEPTH, HEADS):
        raise ValueError(
            f"the adapter has depth {config.depth} and {config.heads} heads, the published code {DEPTH} and {HEADS}: train one with those"
        )
    if config.pooled_width:
        raise ValueError("the adapter changes SDXL's pooled vector, which the published code knows nothing of: train one without")
    own = adapter.state_dict()
    tensors = {
        name: own[name].detach().float().cpu().contiguous() if name in own else torch.zeros(shape)
        for name, shape in expected(config.width).items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        save_file(tensors, part) if file.suffix == ".safetensors" else torch.save(tensors, part)


def expected(width: int) -> dict[str, torch.Size]:
    """name -> shape of the 48 tensors."""
    with torch.device("meta"):
        network = OfficialAdapter(AdapterConfig(width, depth=DEPTH, heads=HEADS, variant="official"))
    living = {name: tensor.shape for name, tensor in network.state_dict().items()}
    template = {
        name.replace("transformer_encoder.layers.0", "encoder_layer"): shape for name, shape in living.items() if ".layers.0." in name
    }
    value = {name.replace("key", "value"): shape for name, shape in living.items() if "key_layer" in name}
    return template | living | value


def _load(file: Path) -> dict:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file: name a checkpoint of the published adapter (`adapter_checkpoint*.pt`)")
    try:
        found = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a stranger's file can break the reader in any way
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file} cannot be read as tensors alone ({first}): fetch it again, and only from whom you trust") from error
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{file} holds a {type(found).__name__} without tensors: give the bare state_dict of the adapter")
    return found


def _refuse(file: Path, found: dict[str, Tensor], wanted: dict[str, torch.Size]) -> None:
    missing, unknown = [n for n in wanted if n not in found and not n.startswith(DEAD)], [n for n in found if n not in wanted]
    if missing or unknown:
        parts = [f"{what} {len(names)} tensors, as {names[0]!r}" for what, names in (("lacks", missing), ("has unknown", unknown)) if names]
        raise ValueError(f"{file} {' and '.join(parts)}: it is not a checkpoint of the published adapter")
    for name, tensor in found.items():
        if tensor.shape != wanted[name]:
            raise ValueError(
                f"{file}: {name!r} is {list(tensor.shape)}, but must be {list(wanted[name])} beside the others: fetch it again"
            )
        if not name.startswith(DEAD) and not tensor.isfinite().all():
            raise ValueError(
                f"{file}: {name!r} holds numbers that are not finite: the training that wrote it has failed; take an earlier one"
            )
