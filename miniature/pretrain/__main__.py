"""The door: `python -m miniature.pretrain STAGE PATH…`, numbers from miniature/params.yaml, or from $MINIATURE_PARAMS.

A stage is a function of its files (positional) and of sections of the params file (keyword-only): `main` of its module, or the one after a
point.
"""

import os
import sys
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path

from ruamel.yaml import YAML

PARAMS = Path(__file__).parents[1] / "params.yaml"
STAGES = ("world", "vae", "clip", "diffusion", "blip", "llama", "card", "smollm2.convert", "smollm2.tune", "smollm2.answer")


def main(argv: list[str]) -> None:
    if not argv or argv[0] not in STAGES:
        sys.exit(f"usage: python -m miniature.pretrain STAGE PATH…, with STAGE one of {', '.join(STAGES)}")
    stage, *paths = argv
    module, _, function = stage.partition(".")
    run = getattr(import_module(f"miniature.pretrain.{module}"), function or "main")
    sections = [p.name for p in signature(run).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    params = YAML(typ="safe").load(Path(os.environ.get("MINIATURE_PARAMS") or PARAMS))
    if sections == ["settings"]:  # one stage run twice: its first word says with which section
        params["settings"] = params[paths.pop(0)]
    run(*map(Path, paths), **{name: params[name] for name in sections})


if __name__ == "__main__":
    main(sys.argv[1:])
