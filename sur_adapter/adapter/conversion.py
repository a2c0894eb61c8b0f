"""Checkpoints of the published code (`adapter_checkpoint*.pt`): a bare state_dict of 48 tensors, d = 768 or 1024.

Three times the twelve tensors of an encoder layer (`encoder_layer`, a template that is never run, and
`transformer_encoder.layers.{0,1}`), then `attention.{query_layer,key_layer,value_layer,output_layer.0,output_layer.2}` (`value_layer` is
never run) and `fc`, each with weight and bias. The tensors that are never run are ignored on reading and written as zeros. Such a file
stores neither eta nor depth, base model, LLM or layer.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.adapter.official import OfficialBlock
from sur_adapter.io.atomic import atomic_write
from sur_adapter.io.hashing import short_digest

DEPTH, HEADS = 2, 8  # fixed in the published code
UNUSED = ("encoder_layer.", "attention.value_layer.")


def read_checkpoint(
    file: str | Path, *, published_attention: bool = True, strength: float | None = None, about: dict | None = None
) -> SURAdapter:
    """Reads the adapter of a checkpoint, .pt or .safetensors, in evaluation mode. No code in the file is run. strength: 0.1 by default.

    Raises FileNotFoundError if there is none, and ValueError if it holds anything but the tensors named above.
    """
    file = Path(file)
    tensors = _load(file)
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{file}: {name!r} is of type {type(tensor).__name__}, not a tensor: give the bare state_dict of the adapter")
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(f"{file}: {name!r} is a tensor of {tensor.dtype} without plain values: save it again as float32")
    width = tensors["fc.weight"].shape[0] if tensors.get("fc.weight", torch.empty(0)).ndim == 2 else 0
    if not width or width % HEADS:
        raise ValueError(
            f"{file} has no square `fc.weight` whose width is divisible by {HEADS}: it is not a checkpoint of the published adapter"
        )
    _check(file, tensors, checkpoint_shapes(width))
    about = (about or {}) | {"checkpoint": short_digest(file.read_bytes())}
    config = AdapterConfig(
        width, depth=DEPTH, heads=HEADS, strength=strength, variant="official", published_attention=published_attention, about=about
    )
    adapter = SURAdapter(config)
    adapter.block.load_state_dict({name: tensor.float() for name, tensor in tensors.items() if not name.startswith(UNUSED)})
    return adapter.eval().requires_grad_(False)


def write_checkpoint(adapter: SURAdapter, file: str | Path) -> None:
    """Writes the 48 tensors, float32, as the published code loads them: as safetensors if the name ends so, else as torch.load reads them.

    Raises ValueError if the adapter's network is not the published one.
    """
    config, file = adapter.config, Path(file)
    if config.variant != "official":
        raise ValueError(f"the adapter is of the variant {config.variant}: the published code runs only `official`; train that one")
    if (config.depth, config.heads) != (DEPTH, HEADS):
        raise ValueError(
            f"the adapter has depth {config.depth} and {config.heads} heads, the published code {DEPTH} and {HEADS}: train one with those"
        )
    if config.pooled_width:
        raise ValueError("the adapter changes SDXL's pooled vector, which the published code does not have: train one without it")
    own = adapter.block.state_dict()
    tensors = {
        name: own[name].detach().float().cpu().contiguous() if name in own else torch.zeros(shape)
        for name, shape in checkpoint_shapes(config.width).items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        save_file(tensors, part) if file.suffix == ".safetensors" else torch.save(tensors, part)


def checkpoint_shapes(width: int) -> dict[str, torch.Size]:
    """Returns name -> shape of the 48 tensors."""
    with torch.device("meta"):
        block = OfficialBlock(AdapterConfig(width, depth=DEPTH, heads=HEADS, variant="official"))
    used = {name: tensor.shape for name, tensor in block.state_dict().items()}
    template = {
        name.replace("transformer_encoder.layers.0", "encoder_layer"): shape for name, shape in used.items() if ".layers.0." in name
    }
    value = {name.replace("key", "value"): shape for name, shape in used.items() if "key_layer" in name}
    return template | used | value


def _load(file: Path) -> dict:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file: name a checkpoint of the published adapter (`adapter_checkpoint*.pt`)")
    try:
        tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a corrupt or hostile file can make the reader fail in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{file} cannot be read as a file of tensors only ({reason}): download it again, and only from a source you trust"
        ) from error
    if not isinstance(tensors, dict) or not tensors:
        raise ValueError(f"{file} holds a {type(tensors).__name__} without tensors: give the bare state_dict of the adapter")
    return tensors


def _check(file: Path, tensors: dict[str, Tensor], expected: dict[str, torch.Size]) -> None:
    """Raises ValueError for missing or unknown names, wrong shapes, and values that are not finite."""
    missing = [name for name in expected if name not in tensors and not name.startswith(UNUSED)]
    unknown = [name for name in tensors if name not in expected]
    if missing or unknown:
        parts = [
            f"{verb} {len(names)} tensors, e.g. {names[0]!r}" for verb, names in (("lacks", missing), ("has unknown", unknown)) if names
        ]
        raise ValueError(f"{file} {' and '.join(parts)}: it is not a checkpoint of the published adapter")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name]:
            raise ValueError(f"{file}: {name!r} is {list(tensor.shape)}, but must be {list(expected[name])}: download it again")
        if not name.startswith(UNUSED) and not tensor.isfinite().all():
            raise ValueError(f"{file}: {name!r} holds values that are not finite: the training that wrote it failed; use an earlier one")
