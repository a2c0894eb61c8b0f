"""judge-sealed: draws and judges all arms on a list of prompts that is not in the repository, and logs that it was opened.

The list holds sentences that the developers of a release have not seen. Each run of this command is an opening: a line of the log, also if
it fails, because a list that was opened twice is no longer sealed. The images are removed, because they show the prompts.
"""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from ruamel.yaml import YAML

from sur_adapter.config import Params
from sur_adapter.evaluation.evaluator import EvaluateConfig, evaluate_images
from sur_adapter.evaluation.measurements import Measurements
from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.prompts import MAIN, PromptSets, read_prompts
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.hashing import file_digest, folder_digest
from sur_adapter.models.config import ModelsConfig
from sur_adapter.reporting.plots import text_table

FIGURES = ("difference", "gap_closed", "against_complex", "on_complex")  # of metrics.json: semantic


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the sealed prompts: one JSON object per line, as in prompts/")
    parser.add_argument("--adapter", type=Path, default=Path("models/adapter"), help="folder of the trained adapter (models/adapter)")
    parser.add_argument("--log", type=Path, default=Path("reports/sealed.json"), help="the log of openings (reports/sealed.json)")


def run(args: Namespace, params: Params) -> None:
    """Prints the accuracies and adds one line to the log. Raises ValueError for a list that cannot be read, or a log that is damaged."""
    rows, openings = read_prompts(args.file), read_log(args.log)
    config, models = params.section("evaluate", EvaluateConfig), params.section("models", ModelsConfig)
    sealed = params.section("prompt_sets", PromptSets, required=False).sealed
    if config.judge is None:
        raise ValueError("params.yaml: evaluate.judge is null, and sealed prompts need a judge: name one")
    if not args.adapter.is_dir():
        raise FileNotFoundError(f"{args.adapter} is missing: train an adapter first (`dvc repro`), or name another --adapter")
    opening = {"sha256": file_digest(args.file), "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit()}
    opening |= {"adapter": folder_digest(args.adapter, "*.safetensors"), "prompts": len(rows)}
    if earlier := [line["date"] for line in openings if line["sha256"] == opening["sha256"]]:
        print(f"this list was opened before, on {', '.join(earlier)}: it is no longer sealed")
    if opening["sha256"] not in sealed:
        print(f"the SHA-256 of {args.file} is not among prompt_sets.sealed: nothing shows that the list was fixed before the release")
    opening |= {"announced": opening["sha256"] in sealed}
    write_log(args.log, [*openings, opening])
    arms = [name for name, arm in ARMS.items() if arm.prompt != "rewritten" or models.llm]
    with TemporaryDirectory(prefix="sealed-") as folder:
        images = Path(folder) / "images"
        for with_adapter in (False, True):
            _generate([arm for arm in arms if ARMS[arm].with_adapter == with_adapter], args, params, len(rows), images)
        evaluation = evaluate_images(config, Measurements(config.judge, config.clip), {MAIN: rows}, images, args.adapter)
    semantic = evaluation.metrics["semantic"]
    opening |= {"accuracy": {arm: semantic["overall"][arm] for arm in arms}}
    opening |= {name: semantic[name] for name in FIGURES if semantic.get(name)}
    write_log(args.log, [*openings, opening])
    print(text_table(evaluation.metrics, evaluation.notes))
    print(f"{args.log}: opening {len(openings) + 1}, SHA-256 {opening['sha256'][:16]}…, {len(rows)} prompts")


def _generate(arms: list[str], args: Namespace, params: Params, number: int, images: Path) -> None:
    """Runs the stage generate on all `number` prompts."""
    values = deepcopy(params.values)
    values["generate"]["per_category"] = number
    settings = images.parent / "params.yaml"
    YAML(typ="safe").dump(values, settings)
    words = ["generate", "--arms", *arms, "--prompts", str(args.file), "--out", str(images)]
    words += ["--adapter", str(args.adapter)] if ARMS[arms[0]].with_adapter else []
    done = subprocess.run([sys.executable, "-m", "stages", *words], env=os.environ | {"SUR_PARAMS": str(settings)}, check=False)
    if done.returncode:
        raise ValueError(f"the images of {', '.join(arms)} could not be generated (see above): the opening is logged, without figures")


def read_log(file: Path) -> list[dict]:
    """Reads the openings. Raises ValueError for a file that is no list of them."""
    if not file.exists():
        return []
    try:
        openings = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(openings, list) and all(isinstance(line, dict) and {"sha256", "date"} <= line.keys() for line in openings):
            return openings
    except ValueError:
        pass
    raise ValueError(
        f"{file} is no list of openings with sha256 and date: restore it from git (git checkout {file}), or name another --log"
    )


def write_log(file: Path, openings: list[dict]) -> None:
    """Writes a JSON list with one opening per line."""
    lines = ",\n".join(json.dumps(line, ensure_ascii=False) for line in openings)
    atomic_write_text(file, f"[\n{lines}\n]\n")


def commit() -> str | None:
    """Returns the commit of the working tree, followed by + if tracked files differ from it; None outside of git."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return None
    changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
