"""Measures the judge of the miniature: which faults it lets pass, which good pictures it refuses, and what that changes of the closed gap.

    python -m experiments.judge [FOLDER]     # writes judge.json and judge.md beside this file

FOLDER holds a finished `dvc repro` (default: this folder), whose images are judged again at each strictness. The runs of the row `full` of
experiments.ablations that lie there are further trainings.
"""

import json
from argparse import ArgumentParser
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from experiments.ablations.__main__ import run_command
from experiments.ablations.runs import WITH, WITHOUT
from miniature import faulty_pictures, good_pictures
from miniature.judge import STRICTNESS, shows
from sur_adapter.evaluation.generated_images import generated_arms, pipeline_texts, read_images
from sur_adapter.evaluation.statistics import wilson
from sur_adapter.evaluation.trainings import summarize_trainings
from sur_adapter.generation.prompts import MAIN, read_prompts
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.images import open_image

HERE = Path(__file__).parent
EACH, FIRST = 100, 20_000  # pictures of a kind; seed of their first scene: no threshold was chosen on these scenes
ARMS_JUDGED = (*WITHOUT, *WITH)
TABLES = {"refused": "fault", "not_seen": "fault", "good": "variation"}  # key of judge.json: head of its first column
GAP = {  # figures of the main set: label
    ("accuracy", "baseline"): "plain prompt",
    ("accuracy", "adapter"): "plain prompt with the adapter",
    ("accuracy", "complex"): "keyword prompt",
    ("gap_closed",): "gap closed",
    ("on_complex",): "keyword prompt with the adapter − without",
}
PAGE = """# The judge of the miniature

Written by `python -m experiments.judge`; the same figures are in `judge.json`. {each} pictures of each kind, of scenes on which no
threshold was chosen; shares with Wilson's 95 % interval. The judge has three levels of strictness ([code](../miniature/judge.py)).

## Pictures with one fault: share that passes

Each picture shows what was asked for, but for one fault that a person sees ([code](../miniature/faulty_pictures.py)). 0 is best.

{refused}

Together: {refused_sum}.

Two more faults are below the noise of decoded pictures, or too small for 64 × 64 pixels. The judge is not expected to see them.

{not_seen}

## Good pictures: share that is refused

Clean drawings, varied as a person does not mind ([code](../miniature/good_pictures.py)). 0 is best. The pipeline judges PNG files: JPEG is
here for images from elsewhere, at 64 × 64 pixels and with the usual halved resolution of colors.

{good}

Together: {good_sum}.

## The closed gap

Images of the default on the main set, {trainings} trainings, {prompts} prompts × {seeds} images of each arm, judged again at each
strictness. 95 % intervals over trainings and prompts together, as in [seeds.md](seeds.md).

{gap}
"""


def main(argv: list[str]) -> bool:
    """Raises ValueError or FileNotFoundError, one sentence, for a folder without a finished run."""
    parser = ArgumentParser("python -m experiments.judge", description="Measures the judge of the miniature.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="the folder of a finished `dvc repro` (default: this folder)")
    folder = parser.parse_args(argv).folder
    figures = {"gap": closed_gap(folder)} | measure_pictures(EACH)
    atomic_write_text(HERE / "judge.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    atomic_write_text(HERE / "judge.md", format_page(figures))
    print(format_page(figures))
    return True


def measure_pictures(each: int) -> dict:
    """Returns {"each", "refused" and "not_seen": kind of fault -> strictness -> those that pass, "good": variation -> those refused}."""

    def shares(kinds: dict, module, passes: bool) -> dict:
        return {name: _shares(list(module.pictures(kind, each, FIRST)), passes) for name, kind in kinds.items()}

    faults = {"refused": faulty_pictures.REFUSED, "not_seen": faulty_pictures.NOT_SEEN}
    figures = {name: shares(kinds, faulty_pictures, passes=True) for name, kinds in faults.items()}
    return {"each": each} | figures | {"good": shares(good_pictures.VARIATIONS, good_pictures, passes=False)}


def _shares(pictures: list[tuple], passes: bool) -> dict:
    """Returns strictness -> the number of pictures that pass, or that do not, and its share with the interval."""
    result = {}
    for strictness in STRICTNESS:
        count = sum(shows(image, include, strictness) == passes for image, include in pictures)
        share = count / len(pictures)
        result[strictness] = {"count": count} | _interval((share, *wilson(share, len(pictures))))
    return result


def closed_gap(folder: Path) -> dict:
    """Judges the images of the main set again. Returns {"trainings", "main": strictness -> the block of `summarize_trainings`}.

    Raises FileNotFoundError if images are missing, ValueError if they are of other prompts than those of params.yaml.
    """
    first, *others = [folder / "data/images", *sorted(folder.glob("data/ablations/full-s[0-9]*/images"))]
    generated_arms(first)
    path = YAML(typ="safe").load(folder / "params.yaml")["generate"]["prompts"]
    prompts = {row["id"]: row for row in read_prompts(folder / path)}
    judged = [_judge(first, prompts, ARMS_JUDGED)] + [_judge(images, prompts, WITH) for images in others]
    blocks = {strictness: summarize_trainings([tables[strictness] for tables in judged])[MAIN] for strictness in STRICTNESS}
    return {"trainings": len(judged), "main": blocks}


def _judge(images: Path, prompts: dict[str, dict], arms: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """Returns strictness -> a row per image of the prompts, with the columns that `summarize_trainings` reads."""
    for (_, name), text in pipeline_texts(images, ["adapter"]).items():
        if name in prompts and prompts[name]["prompt"] != text:
            raise ValueError(f"{images} was generated for another prompt {name!r} than that of params.yaml: run `dvc repro` first")
    rows = []
    for (arm, name, seed), data in read_images(images, list(arms)):
        if prompt := prompts.get(name):
            image = open_image(data)
            shown = {strictness: float(shows(image, prompt["include"], strictness)) for strictness in STRICTNESS}
            rows.append({"set": MAIN, "id": name, "category": prompt["category"], "arm": arm, "seed": seed} | shown)
    table = pd.DataFrame(rows)
    return {strictness: table.rename(columns={strictness: "shown"}) for strictness in STRICTNESS}


def format_page(figures: dict) -> str:
    """Formats the figures as Markdown."""
    gap = figures["gap"]["main"]
    rows = {label: {name: _at(block, key) for name, block in gap.items()} for key, label in GAP.items()}
    counts = {key: gap["default"][key] for key in ("prompts", "seeds")}
    counts |= {"each": figures["each"], "trainings": figures["gap"]["trainings"]}
    counts |= {f"{name}_sum": _sum(figures[name], figures["each"]) for name in ("refused", "good")}
    return PAGE.format(**counts, gap=_table("", rows), **{name: _table(head, figures[name]) for name, head in TABLES.items()})


def _table(head: str, rows: dict[str, dict]) -> str:
    lines = [[head, *STRICTNESS], ["---"] * (len(STRICTNESS) + 1)]
    lines += [[name, *(_share(of[strictness]) for strictness in STRICTNESS)] for name, of in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _sum(rows: dict[str, dict], each: int) -> str:
    counts = (f"{name} {sum(of[name]['count'] for of in rows.values()):,}" for name in STRICTNESS)
    return f"{', '.join(counts)} of {each * len(rows):,}"


def _share(interval: dict[str, float] | None) -> str:
    if interval is None:
        return "no gap"
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(interval[name] for name in ("value", "low", "high"))).replace("-", "−")


def _at(block: dict, key: tuple[str, ...]) -> dict | None:
    """Returns the interval of a figure of GAP; None for a gap that is not above 0."""
    for name in key:
        block = block.get(name)
    return block["overall"] if key[0] == "accuracy" else block


def _interval(values: tuple[float, float, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in zip(("value", "low", "high"), values, strict=True)}


if __name__ == "__main__":
    run_command(main)
