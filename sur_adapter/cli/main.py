"""The command line, `sur-adapter` or `python -m sur_adapter`: what may be given, and how it ends (0, 1 for bad input, 2 for a wrong call).

Nothing heavy is imported here, so that help comes at once.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from math import isfinite
from pathlib import Path

ADAPTER = Path("models/adapter")  # where a training leaves it; a Path, so that it is never looked for on the hub
MODEL = "a diffusion model: a folder, or a name on the hub (that which the adapter was trained for)"

GENERATE = """
examples:
  %(prog)s "three white kittens" --compare -o out.png       # without and with the adapter, same seed and noise
  %(prog)s "three white kittens" --adapter owner/adapter --model stable-diffusion-v1-5/stable-diffusion-v1-5
  %(prog)s "there are three red circles in the picture" --strength 0.5 --steps 30 --seed 7

Without --model the model is that which the adapter was trained for. How it was drawn stands in the PNG, in the text chunk `sur-adapter`.
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

`SURAdapter.push_to_hub` sends it along with the weights.
"""
CONVERT = """
examples:
  %(prog)s adapter_checkpoint5000.pt models/official --base-model stable-diffusion-v1-5/stable-diffusion-v1-5
  %(prog)s models/official out.pt          # 48 tensors, as the published code loads them

A checkpoint does not say which model it was trained for, nor its strength: what is given here is kept in config.json, and `attach`
refuses a pipeline with another text encoder if its mark is known (--text-encoder-hash, as the command `fingerprint` prints it).
"""
FINGERPRINT = """
examples:
  %(prog)s stable-diffusion-v1-5/stable-diffusion-v1-5
"""
SERVE = """
examples:
  %(prog)s                                 # http://127.0.0.1:7860, for this machine alone
  %(prog)s --adapter owner/adapter --port 8000
"""
ALL = """
examples:
  %(prog)s generate "three white kittens" --compare -o out.png
  %(prog)s info models/adapter
  %(prog)s convert adapter_checkpoint5000.pt models/official

`%(prog)s COMMAND --help` has more of them.
"""


def parser(prog: str = "sur-adapter") -> argparse.ArgumentParser:
    kind = partial(argparse.ArgumentParser, formatter_class=argparse.RawDescriptionHelpFormatter)
    made = kind(prog, epilog=ALL, description="Plain sentences that draw as well as keyword prompts (SUR-adapter, arXiv 2305.05189).")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=kind)
    _generate(commands.add_parser("generate", help="a picture of a prompt; --compare: with and without the adapter", epilog=GENERATE))
    info = commands.add_parser("info", help="what an adapter is, and what it was trained for", epilog=INFO)
    info.add_argument("adapter", metavar="ADAPTER", help="a folder, or a name on the hub")
    info.add_argument("--json", action="store_true", help="as JSON: the whole config")
    card = commands.add_parser("card", help="the model card of an adapter, in Markdown", epilog=CARD)
    card.add_argument("adapter", metavar="ADAPTER", help="a folder, or a name on the hub")
    card.add_argument("--metrics", metavar="FILE", type=Path, help="the metrics.json whose figures are its own")
    card.add_argument("--licence", metavar="NAME", help="of the weights, as the hub names it (mit, openrail); not stated unless given")
    card.add_argument("--dataset", metavar="NAME", action="append", help="a data set on the hub that it was trained on; may be repeated")
    for command in (info, card):
        command.add_argument("--revision", metavar="NAME", help="a branch, tag or commit of the hub")
    _convert(commands.add_parser("convert", help="a published checkpoint to a folder, or a folder to a checkpoint", epilog=CONVERT))
    mark = commands.add_parser("fingerprint", help="the mark of a text encoder", epilog=FINGERPRINT)
    mark.add_argument("model", metavar="MODEL", help="a diffusion model: a folder, or a name on the hub")
    serve = commands.add_parser("serve", help="a web page to try prompts on", epilog=SERVE)
    serve.add_argument("--adapter", metavar="ADAPTER", default=ADAPTER, help="a folder, or a name on the hub (%(default)s)")
    serve.add_argument("--model", metavar="MODEL", help=MODEL)
    serve.add_argument("--host", default="127.0.0.1", help="the address that it listens on (%(default)s: this machine alone)")
    serve.add_argument("--port", type=_whole(1, 65535), default=7860, help="%(default)s unless given")
    return made


def main(argv: list[str], prog: str = "sur-adapter") -> str:
    """What the command has to say. ValueError or OSError of one sentence for bad input."""
    given = parser(prog).parse_args(argv)
    from sur_adapter.cli import commands

    return getattr(commands, given.command)(given)


def run(prog: str = "sur-adapter") -> None:
    """The command as a process: words on stdout and 0, or one sentence on stderr and 1. A wrong call ends with 2."""
    try:
        if words := main(sys.argv[1:], prog):
            print(words)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)  # as shells have it


def _generate(command: argparse.ArgumentParser) -> None:
    command.add_argument("prompt", metavar="PROMPT", type=_words, help="a plain sentence")
    command.add_argument("--adapter", metavar="ADAPTER", default=ADAPTER, help="a folder, or a name on the hub (%(default)s)")
    command.add_argument("--model", metavar="MODEL", help=MODEL)
    command.add_argument("--revision", metavar="NAME", help="a branch, tag or commit of the adapter on the hub")
    command.add_argument("--compare", action="store_true", help="side by side: without and with the adapter, same seed and noise")
    command.add_argument("-o", "--out", metavar="FILE", type=Path, help="a PNG (picture.png, or the next name that is free)")
    command.add_argument("--seed", type=_whole(0, 2**63 - 1), default=0, help="of the noise (%(default)s)")
    command.add_argument("--steps", type=_whole(1, 1000), default=20, help="of the sampler (%(default)s)")
    command.add_argument("--guidance", metavar="SCALE", type=_number, help="classifier-free guidance (the model's own)")
    command.add_argument("--strength", metavar="ETA", type=_number, help="of the adapter (its own): 0 is the base model, 1 all of it")
    command.add_argument("--negative", metavar="PROMPT", default="", help="what is not wanted; it is not adapted")
    command.add_argument("--size", metavar="WxH", type=_size, help="in pixels, or one number for a square (the model's own)")


def _convert(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="FROM", type=Path, help="a checkpoint of the published code, or a folder with an adapter")
    command.add_argument("target", metavar="TO", type=Path, help="the folder, or the checkpoint, to be written; must not be there yet")
    command.add_argument("--base-model", metavar="NAME", help="the diffusion model that the checkpoint was trained for")
    command.add_argument("--text-encoder-hash", metavar="MARK", help="the mark of that model's text encoder")
    command.add_argument("--strength", metavar="ETA", type=float, help="weight of the adapter's output (0.1, as published)")
    command.add_argument("--token-attention", action="store_true", help="attend over tokens, which the checkpoint was not trained for")


def _words(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: write what the picture should show")
    return text


def _whole(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} to {most}")
        return int(text)

    return number


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not isfinite(found):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number")
    return found


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(s.isdecimal() and 0 < int(s) <= 4096 for s in sides):
        raise argparse.ArgumentTypeError(f"{text!r}: give pixels as 512 or 768x512")
    return int(sides[0]), int(sides[-1])
