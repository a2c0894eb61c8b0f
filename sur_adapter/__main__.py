"""Checkpoints of the published code to adapters of this one, and back: `python -m sur_adapter convert FROM TO`."""

import argparse
import re
import sys
from pathlib import Path

MARK = re.compile(r"([0-9a-f]{16})?(\.[0-9a-f]{16}){2}|[0-9a-f]{16}")

EXAMPLE = """
examples:
  python -m sur_adapter convert adapter_checkpoint5000.pt models/official --base-model stable-diffusion-v1-5/stable-diffusion-v1-5
  python -m sur_adapter convert models/official out.pt          # 48 tensors, as the published code loads them

A checkpoint does not say which model it was trained for, nor its strength: what is given here is kept in config.json, and `attach`
refuses a pipeline with another text encoder if its mark is known (--text-encoder-hash, as `python -m sur_adapter fingerprint` prints it).
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m sur_adapter", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLE)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    kind = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": EXAMPLE}
    convert = commands.add_parser("convert", help="a checkpoint (.pt, .safetensors) to a folder, or a folder to a checkpoint", **kind)
    convert.add_argument("source", metavar="FROM", type=Path, help="a checkpoint of the published code, or a folder with an adapter")
    convert.add_argument("target", metavar="TO", type=Path, help="the folder, or the checkpoint, to be written; must not be there yet")
    convert.add_argument("--base-model", metavar="NAME", help="the diffusion model that the checkpoint was trained for")
    convert.add_argument("--text-encoder-hash", metavar="MARK", help="the mark of that model's text encoder")
    convert.add_argument("--strength", metavar="ETA", type=float, help="weight of the adapter's output (0.1, as published)")
    convert.add_argument("--token-attention", action="store_true", help="attend over tokens, which the checkpoint was not trained for")
    mark = commands.add_parser("fingerprint", help="the mark of a text encoder", **kind)
    mark.add_argument("model", metavar="MODEL", help="a diffusion model: a folder, or a name on the hub")
    return made


def convert(source: Path, target: Path, given: argparse.Namespace) -> str:
    """Writes `target`; returns what is to be said of it. ValueError or FileNotFoundError, and nothing written, for bad input."""
    if target.exists():
        raise ValueError(f"{target} is there already: name another place, or remove it first")
    if not source.exists():
        raise FileNotFoundError(f"{source} is neither a checkpoint nor a folder: name one that is there")
    if source.is_dir():
        return _to_checkpoint(source, target, given)
    from sur_adapter import published

    if target.suffix in (".pt", ".safetensors"):
        raise ValueError(f"{source} is a checkpoint, so {target} must be a folder: name one without {target.suffix}")
    if given.text_encoder_hash and not MARK.fullmatch(given.text_encoder_hash):
        raise ValueError(f"--text-encoder-hash is {given.text_encoder_hash!r}: give what `python -m sur_adapter fingerprint MODEL` prints")
    about = {"base_model": given.base_model, "text_encoder": given.text_encoder_hash}
    adapter = published.read(
        source,
        published_attention=not given.token_attention,
        strength=given.strength,
        about={key: value for key, value in about.items() if value},
    )
    adapter.save_pretrained(target)
    return f"{target}: text features {adapter.config.width} wide, strength {adapter.config.strength}"


def _to_checkpoint(source: Path, target: Path, given: argparse.Namespace) -> str:
    from sur_adapter import published
    from sur_adapter.adapter import SURAdapter

    if target.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"{source} is a folder, so {target} must be a checkpoint: let its name end in .pt or .safetensors")
    for name in ("base_model", "text_encoder_hash", "strength", "token_attention"):
        if getattr(given, name) is not None and getattr(given, name) is not False:
            raise ValueError(f"--{name.replace('_', '-')} has no place in a checkpoint, which holds tensors alone: leave it out")
    adapter = SURAdapter.from_pretrained(source)
    published.write(adapter, target)
    lost = "" if adapter.config.published_attention else " Trained with attention over tokens: it draws otherwise in the published code."
    return f"{target}: 48 tensors; strength {adapter.config.strength}, base model and the teacher's projection are not among them.{lost}"


def fingerprint(model: str) -> str:
    """The mark of a diffusion model's text encoder."""
    from transformers import CLIPTextModel

    from sur_adapter.fingerprint import fingerprint

    try:
        return fingerprint(CLIPTextModel.from_pretrained(model, subfolder="text_encoder"))
    except OSError as error:
        raise FileNotFoundError(
            f"{model} has no text_encoder that can be loaded: name a folder that holds one, or a model of the hub"
        ) from error


def main(argv: list[str]) -> str:
    given = parser().parse_args(argv)
    return convert(given.source, given.target, given) if given.command == "convert" else fingerprint(given.model)


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
