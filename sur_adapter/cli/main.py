"""The command line, `sur-adapter` or `python -m sur_adapter`. Exit codes: 0, 1 for bad input, 2 for wrong arguments.

Heavy libraries are imported by the commands only, so that help is shown at once.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from math import isfinite
from pathlib import Path
from textwrap import fill

from sur_adapter.cli.known_models import MINIATURE_DRAWS
from sur_adapter.version import __version__

ADAPTER_HELP = "the adapter: a folder, or a name on the hub"
DEFAULT_ADAPTER = f"{ADAPTER_HELP} (default: models/adapter if it is here, else models/miniature/adapter)"
MODEL_HELP = "the diffusion model: a folder, a .safetensors file, or a name on the hub (default: the one that the adapter was trained for)"
DRAWS = fill(f"The miniature, the small model that comes with the project, draws only {MINIATURE_DRAWS}.", 100)

GENERATE = f"""
examples:
  %(prog)s "there are three red circles in the picture" --compare -o out.png  # without and with the adapter
  %(prog)s "I can see a green robot who is running" --scale 0.5 --steps 30 --seed 7
  %(prog)s "three white kittens play with a ball of yarn" --adapter owner/adapter --model realistic.safetensors --dtype fp16

{DRAWS}

The PNG holds its settings as JSON in the text chunk `sur-adapter`.
"""
INFO = """
examples:
  %(prog)s models/adapter
  %(prog)s owner/adapter --json
"""
CARD = """
examples:
  %(prog)s models/adapter --metrics reports/metrics.json > card.md
  %(prog)s models/adapter --metrics reports/metrics.json --licence mit --dataset owner/pairs

`SURAdapter.push_to_hub` uploads the card with the weights.
"""
CONVERT = """
examples:
  %(prog)s adapter_checkpoint5000.pt models/official --base-model SG161222/Realistic_Vision_V2.0
  %(prog)s models/official out.pt          # 48 tensors, as the published code loads them

A checkpoint holds neither its base model nor its scale. They are stored in config.json as given here. With --text-encoder-hash,
`attach` refuses pipelines with another text encoder; `sur-adapter fingerprint MODEL` prints the hash.
"""
FINGERPRINT = """
examples:
  %(prog)s stable-diffusion-v1-5/stable-diffusion-v1-5
"""
DEMO = f"""
examples:
  %(prog)s                                 # http://127.0.0.1:7860, only for this machine
  %(prog)s --adapter owner/adapter --port 8000
  %(prog)s --host ::1 --device cpu

{DRAWS}
"""
MAIN = f"""
examples:
  %(prog)s generate "there are three red circles in the picture" --compare -o out.png
  %(prog)s demo
  %(prog)s info models/adapter
  %(prog)s convert adapter_checkpoint5000.pt models/official

{DRAWS}

Run `%(prog)s COMMAND --help` for the options of a command.
"""


def build_parser(prog: str = "sur-adapter") -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    parser_class = partial(argparse.ArgumentParser, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser = parser_class(prog, epilog=MAIN, description="Use SUR-adapters (arXiv 2305.05189) with Stable Diffusion.")
    parser.add_argument("--version", action="version", version=f"sur-adapter {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=parser_class)

    def add(name: str, text: str, epilog: str, *aliases: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, aliases=aliases, help=text, description=text[0].upper() + text[1:] + ".", epilog=epilog)
        command.set_defaults(function=name)
        return command

    _add_generate(add("generate", "generate an image from a prompt; --compare adds the one without the adapter", GENERATE))
    info = add("info", "show the facts about an adapter", INFO)
    info.add_argument("adapter", metavar="ADAPTER", help=ADAPTER_HELP)
    info.add_argument("--json", action="store_true", help="print the whole config as JSON")
    card = add("card", "print the model card of an adapter, in Markdown", CARD)
    card.add_argument("adapter", metavar="ADAPTER", help=ADAPTER_HELP)
    card.add_argument("--metrics", metavar="FILE", type=Path, help="metrics.json of this adapter, whose results the card shows")
    card.add_argument(
        "--licence", metavar="NAME", help="licence of the weights, as an identifier of the hub such as mit (default: not specified)"
    )
    card.add_argument("--dataset", metavar="NAME", action="append", help="data set on the hub that it was trained on; may be repeated")
    for command in (info, card):
        command.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the hub")
    _add_convert(add("convert", "convert a checkpoint of the published code to an adapter, or back", CONVERT))
    fingerprint = add("fingerprint", "print the fingerprint of a model's text encoder", FINGERPRINT)
    fingerprint.add_argument("model", metavar="MODEL", help="the diffusion model: a folder, or a name on the hub")
    demo = add("demo", "serve a web page that compares images without and with the adapter", DEMO, "serve")
    _add_models(demo)
    demo.add_argument("--host", default="127.0.0.1", help="address to listen on, such as ::1 (default: %(default)s, only this machine)")
    demo.add_argument("--port", type=_whole_number(1, 65535), default=7860, help="port to listen on (default: %(default)s)")
    return parser


def main(argv: list[str], prog: str = "sur-adapter") -> str:
    """Runs a command and returns the text to print. Raises ValueError or OSError with one sentence for bad input."""
    args = build_parser(prog).parse_args(argv)
    from sur_adapter.cli import commands

    return getattr(commands, args.function)(args)


def run(prog: str = "sur-adapter") -> None:
    """Runs the command of sys.argv as a process: text on stdout and 0, or one sentence on stderr and 1; wrong arguments end with 2."""
    try:
        if text := main(sys.argv[1:], prog):
            print(text)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)  # the shells' code for an interrupt


def _add_models(command: argparse.ArgumentParser) -> None:
    command.add_argument("--adapter", metavar="ADAPTER", help=DEFAULT_ADAPTER)
    command.add_argument("--model", metavar="MODEL", help=MODEL_HELP)
    command.add_argument("--device", default="auto", help="device of torch, such as cpu, cuda:1 or mps (default: the GPU if there is one)")
    dtypes = "precision of all parts of the model (default: %(default)s)"
    command.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32", help=dtypes)


def _add_generate(command: argparse.ArgumentParser) -> None:
    command.add_argument("prompt", metavar="PROMPT", type=_prompt, help="a plain sentence")
    _add_models(command)
    command.add_argument("--revision", metavar="NAME", help="branch, tag or commit of the adapter on the hub")
    command.add_argument("--compare", action="store_true", help="write two images side by side: without and with the adapter")
    command.add_argument("-o", "--out", metavar="FILE", type=Path, help="PNG file (default: picture.png, or the next unused name)")
    command.add_argument("--seed", type=_whole_number(0, 2**63 - 1), default=0, help="seed of the initial noise (default: %(default)s)")
    command.add_argument("--steps", type=_whole_number(1, 1000), default=20, help="number of inference steps (default: %(default)s)")
    guidance = {"dest": "guidance_scale", "metavar": "SCALE", "type": _number}
    command.add_argument("--guidance-scale", "--guidance", **guidance, help="classifier-free guidance (default: the model's own)")
    scale = "weight of the adapter: 0 is the base model, 1 the whole adapter (default: the adapter's own)"
    command.add_argument("--scale", "--strength", dest="scale", metavar="SCALE", type=_number, help=scale)
    command.add_argument("--negative", metavar="PROMPT", default="", help="negative prompt, which is not adapted")
    command.add_argument("--size", metavar="WxH", type=_size, help="pixels, or one number for a square (default: the model's)")


def _add_convert(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="FROM", type=Path, help="a checkpoint of the published code, or an adapter's folder")
    command.add_argument("target", metavar="TO", type=Path, help="the folder or the checkpoint to write; it must not exist")
    command.add_argument("--base-model", metavar="NAME", help="diffusion model that the checkpoint was trained for")
    command.add_argument("--text-encoder-hash", metavar="HASH", help="fingerprint of that model's text encoder")
    scale = "weight of the adapter (default: 0.1, as published)"
    command.add_argument("--scale", "--strength", dest="scale", metavar="SCALE", type=float, help=scale)
    command.add_argument("--token-attention", action="store_true", help="attend over tokens; published checkpoints are trained otherwise")


def _prompt(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: write what the image should show")
    return text


def _whole_number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {low} to {high}")
        return int(text)

    return parse


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number")
    return value


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 0 < int(side) <= 4096 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r}: give pixels as 512 or 768x512")
    return int(sides[0]), int(sides[-1])
