"""Runs a stage in this process as the command line does: through its own parser and the checks of params.yaml."""

from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path

from sur_adapter.config import Params


def run_stage(name: str, params: dict, **options) -> None:
    """Runs stages/<name>.py with sections of params.yaml. options: its command line options, `_` for `-`; None leaves one out."""
    stage = import_module(f"stages.{name}")
    parser = ArgumentParser(name, exit_on_error=False)
    stage.add_arguments(parser)
    words = [word for key, value in options.items() if value is not None for word in (f"--{key.replace('_', '-')}", str(value))]
    stage.run(parser.parse_args(words), Params(params))


def caption(raw: Path, out: Path, *, caption: dict, executor: dict | None = None) -> None:
    run_stage("caption", {"caption": caption, "executor": executor}, raw=raw, out=out)
