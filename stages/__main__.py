"""The one door: `python -m stages VERB PATH…`.

A verb is a function of its own name in stages/VERB.py. Its positional arguments are its files, from the command line;
its keyword-only arguments are sections of params.yaml. The signature is the schema.
"""

import os
import sys
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path

from ruamel.yaml import YAML

from sur_adapter.schema import nearest

VERBS = ("crawl", "caption", "score", "filter", "cache", "train", "generate", "evaluate")


def main(argv: list[str]) -> None:
    if not argv or argv[0] not in VERBS:
        hint = nearest(argv[0], VERBS) if argv else ""
        raise ValueError(f"usage: python -m stages VERB PATH…, with VERB one of {', '.join(VERBS)}{hint}")
    verb, *paths = argv
    run = getattr(import_module(f"stages.{verb}"), verb)
    arguments = signature(run).parameters.values()
    files = [a for a in arguments if a.kind is Parameter.POSITIONAL_OR_KEYWORD]
    least = sum(a.default is Parameter.empty for a in files)
    if not least <= len(paths) <= len(files):
        raise ValueError(f"{verb} takes {', '.join(a.name for a in files)}: {len(paths)} paths were given")
    sections = [a.name for a in arguments if a.kind is Parameter.KEYWORD_ONLY]
    run(*map(Path, paths), **_sections(Path(os.environ.get("SUR_PARAMS", "params.yaml")), sections))


def _sections(file: Path, names: list[str]) -> dict:
    if not file.exists():
        raise ValueError(f"{file} is missing: run from the project's folder, or copy a preset (`cp presets/miniature.yaml params.yaml`)")
    params = YAML(typ="safe").load(file) or {}
    for name in names:
        if name not in params:
            raise ValueError(f"{file} has no section {name!r}{nearest(name, params)}: add it, as in presets/miniature.yaml")
    return {name: params[name] for name in names}


def _quiet() -> None:
    """The libraries' own bars and reports stay out of logs; ours look at the terminal themselves."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


if __name__ == "__main__":
    _quiet()
    try:
        main(sys.argv[1:])
    except (FileNotFoundError, ValueError) as error:
        if os.environ.get("SUR_DEBUG"):
            raise
        sys.exit(f"error: {error}")
