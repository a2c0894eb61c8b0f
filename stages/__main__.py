"""Command line of the pipeline: `python -m stages STAGE --option …`, as dvc.yaml calls it.

A stage is a module of its name in stages/ with two functions:

    add_arguments(parser)   its paths, as named options
    run(args, params)       reads its sections of params.yaml, calls the library, writes its outs

Tools that no stage of dvc.yaml runs (`export`, `forget`, `plan`, …) are modules of sur_adapter/tools with the same two functions.
"""

import os
import sys
from argparse import ArgumentParser
from contextlib import nullcontext
from importlib import import_module
from types import ModuleType

from sur_adapter.config import Params
from sur_adapter.io.atomic import friendly_disk_errors
from sur_adapter.io.text import did_you_mean
from sur_adapter.tools import timing

STAGES = {
    "crawl": "fetch images with their keyword prompts from one source",
    "caption": "caption each image with a plain sentence (BLIP)",
    "score": "score image-text agreement, hashes and lengths",
    "filter": "select pairs, group near-duplicates, assign splits",
    "sentences": "collect sentences without images for the language model",
    "cache": "cache the features of one frozen model",
    "train": "train the adapter from cached features",
    "generate": "generate the images of one or more arms",
    "sweep": "generate images at several adapter scales",
    "evaluate": "measure all arms and write the report",
}
TOOLS = {  # name: (module, help)
    "export": ("sur_adapter.tools.export", "export the kept pairs in SURD's layout"),
    "suite": ("sur_adapter.tools.held_out_prompts", "export the test pairs as evaluation prompts"),
    "forget": ("sur_adapter.tools.forget", "remove samples and keep them out of future crawls"),
    "judge-sealed": ("sur_adapter.tools.judge_sealed", "judge all arms on prompts that are not in the repository"),
    "plan": ("sur_adapter.tools.planner.planner", "estimate rows, disk, time and memory of a run"),
    "timing": ("sur_adapter.tools.timing", "show what each stage took in its last run"),
    "verify": ("sur_adapter.tools.verify", "read every output and name corrupt files"),
}
COMMANDS = STAGES | {name: text for name, (_, text) in TOOLS.items()}


def main(argv: list[str]) -> None:
    """Runs one stage or tool. Raises ValueError or FileNotFoundError with one sentence for bad input."""
    name = argv[0] if argv else "--help"
    if not name.startswith("-") and name not in COMMANDS:
        raise ValueError(f"there is no stage {name!r}{did_you_mean(name, COMMANDS)}: see `python -m stages --help`")
    parser = ArgumentParser(
        "python -m stages", description="Runs one stage of the pipeline, or a tool beside it; `dvc repro` runs them all."
    )
    subparsers = parser.add_subparsers(title="stages and tools", metavar="NAME", required=True)
    for command, text in COMMANDS.items():
        subparser = subparsers.add_parser(command, help=text, description=text[0].upper() + text[1:] + ".")
        if command == name:  # only the one that runs is imported
            module = _import(command)
            module.add_arguments(subparser)
    args = parser.parse_args(argv or [name])
    params = Params.read()
    is_measured = name in STAGES and os.environ.get("RANK", "0") == "0"  # of several processes of a training, the first one
    with timing.measured(argv, STAGES[name], params) if is_measured else nullcontext():
        module.run(args, params)


def _import(command: str) -> ModuleType:
    module = import_module(f"stages.{command}" if command in STAGES else TOOLS[command][0])
    if "torch" in sys.modules:
        from sur_adapter.models.torch_utils import keep_freed_memory

        keep_freed_memory()
    return module


def _set_library_defaults() -> None:
    """Turns off the libraries' own progress bars and reports where stderr is no terminal."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


if __name__ == "__main__":
    _set_library_defaults()
    try:
        with friendly_disk_errors():
            main(sys.argv[1:])
    except (FileNotFoundError, ValueError) as error:
        if os.environ.get("SUR_DEBUG"):
            raise
        sys.exit(f"error: {error}")
