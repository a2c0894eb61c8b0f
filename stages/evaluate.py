"""evaluate: whether plain prompts became as good as keyword prompts, with intervals, and a report that stands alone."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

import sur_adapter.report as pages
import sur_adapter.vote as vote
from sur_adapter.clip_score import Clip, distances, score
from sur_adapter.confusion import asked_for
from sur_adapter.metrics import ARMS, JUDGEMENTS, figures
from sur_adapter.prompts import read_prompts
from sur_adapter.quality import MEASURES
from sur_adapter.records import open_image, read_table, read_tar, write_table
from sur_adapter.schema import plugin, settings
from sur_adapter.sheet import sheet
from sur_adapter.vote_page import vote_page

BATCH = 32  # pictures that CLIP sees at once


def evaluate(
    prompts: Path,
    images: Path,
    funnel: Path,
    training: Path,
    adapter: Path,
    metrics: Path,
    report: Path,
    votes: Path | None = None,
    *,
    evaluate: dict,
    generate: dict | None = None,
    models: dict | None = None,
) -> None:
    """Beside `metrics` lie notes.json (what is left out, and why), judgements.parquet (a row a picture), same_seed.png and plots/;
    beside `report` the page to vote on, ab_vote.html, and its key, ab_key.csv. votes: what was voted there; generate, models: to be told.
    """
    judge, clip, resamples, seed, pairs = options(**settings(options, evaluate, "evaluate"))
    asked = {p["id"]: p for p in read_prompts(prompts)}
    voted = vote.read_votes(votes) if votes else None
    table = look(images, asked, judge, clip)
    rows, drawn = pages.choose(table, seed), vote.lots(table, pairs, seed)
    wanted = {key for keys in rows.values() for key in keys} | set(drawn)  # (prompt id, seed)
    pictures = {key: data for key, data in _members(images, list(table.arm.unique())) if key[1:] in wanted}
    numbers, notes = figures(table, {key for key, p in asked.items() if p.get("complex_prompt")}, resamples, seed)
    key = vote.key(drawn, asked, pictures, seed)
    human, unvoted = vote.figures(voted, key, resamples, seed) if votes else ({}, {})
    numbers, notes = numbers | human, notes | left_out(table, judge, clip) | unvoted
    metrics.parent.mkdir(parents=True, exist_ok=True)
    _write_json(metrics, numbers)
    _write_json(metrics.parent / "notes.json", notes)
    write_table(metrics.parent / "judgements.parquet", table, JUDGEMENTS)
    plots(numbers, table, metrics.parent / "plots")
    beside(rows["random"], asked, pictures).save(metrics.parent / "same_seed.png")
    made = {"funnel": _read_json(funnel), "history": _read_json(training / "history.json"), "config": _read_json(adapter / "config.json")}
    made["params"] = {"evaluate": evaluate, "generate": generate or {}, "models": models or {}}
    card = funnel.with_name("data.md")
    made["data"] = card.read_text(encoding="utf-8") if card.exists() else ""
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(pages.page(numbers, notes, table, asked, rows, pictures, **made), encoding="utf-8", newline="\n")
    report.with_name("ab_vote.html").write_text(vote_page(key, asked, pictures), encoding="utf-8", newline="\n")
    key.to_csv(report.with_name("ab_key.csv"), index=False, lineterminator="\n")
    print(summary(numbers, notes))


def options(*, judge: str | None = None, clip: str | None = None, resamples: int = 10_000, seed: int = 0, pairs: int = 20) -> tuple:
    """The keys of params.yaml: evaluate. judge: a file of sur_adapter/judges; clip: a model; either may be null. pairs: to vote on, of
    each category."""
    if not isinstance(resamples, int) or resamples < 100:
        raise ValueError(f"params.yaml: evaluate.resamples is {resamples}: an interval needs at least 100, better 10000")
    if not isinstance(pairs, int) or pairs < 1:
        raise ValueError(f"params.yaml: evaluate.pairs is {pairs!r}: a page to vote on needs at least 1 pair of each category")
    return plugin("sur_adapter.judges", judge) if judge else None, Clip(clip, "evaluate.clip") if clip else None, resamples, seed, pairs


def look(images: Path, asked: dict[str, dict], judge, clip: Clip | None) -> pd.DataFrame:
    """A row a picture: id, category, arm, seed, text, shown, clip_score, distance, quality. Arms are held to the same prompts and seeds."""
    arms = [arm for arm in ARMS if (images / arm).is_dir()]
    for arm in ("baseline", "adapter"):
        if arm not in arms:
            raise FileNotFoundError(f"{images / arm} is missing: draw that arm first (`dvc repro`)")
    texts = {(arm, row.id): row.text for arm in arms for row in read_table(images / arm / "prompts.parquet").itertuples()}
    size = sum(file.stat().st_size for arm in arms for file in (images / arm).glob("*.tar"))
    rows, vectors, members = [], [], _members(images, arms)
    with tqdm(total=size, desc="evaluate", unit="B", unit_scale=True, disable=None) as bar:
        while batch := list(islice(members, BATCH)):
            pictures = [open_image(data) for _, data in batch]
            rows += [_row(key, picture, asked, texts.get(key[:2], ""), judge) for (key, _), picture in zip(batch, pictures, strict=True)]
            vectors += [clip.images(pictures)] if clip else []
            bar.update(sum(len(data) for _, data in batch))
    table = pd.DataFrame(rows, columns=[c for c in JUDGEMENTS.names if c not in ("clip_score", "distance")])
    _paired(table, arms, images)
    agreement, apart = _clip_columns(table, np.concatenate(vectors), asked, clip) if clip else (np.nan, np.nan)
    return table.assign(clip_score=agreement, distance=apart)


def _row(key: tuple[str, str, int], picture: Image.Image, asked: dict[str, dict], text: str, judge) -> dict:
    arm, name, k = key
    if name not in asked:
        raise ValueError(f"the arm {arm} holds a picture of {name!r}, which is no prompt of the list: draw the arm again with this list")
    shown = float(judge.judge(picture, asked[name])) if judge else np.nan
    row = {"id": name, "category": asked[name]["category"], "arm": arm, "seed": k, "text": text, "shown": shown}
    wanted, counts = asked_for(asked[name]), getattr(judge, "counted", None)
    row |= {"asked": wanted, "counted": counts(picture, asked[name]) if counts and wanted == wanted else np.nan}
    return row | {measure: of(picture) for measure, of in MEASURES.items()}


def _members(images: Path, arms: list[str]) -> Iterator[tuple[tuple[str, str, int], bytes]]:
    """((arm, prompt id, seed), bytes) of every picture."""
    for arm in arms:
        for key, _, data in read_tar(images / arm):
            name, dash, k = key.rpartition("-")
            if not dash or not k.isdigit():
                raise ValueError(f"{images / arm} holds a picture named {key!r}: expected the prompt's id, a hyphen, a number")
            yield (arm, name, int(k)), data


def _paired(table: pd.DataFrame, arms: list[str], images: Path) -> None:
    """Other prompts or seeds for other arms would compare luck: refused."""
    held = {arm: set(zip(rows.id, rows.seed, strict=True)) for arm, rows in table.groupby("arm")} if len(table) else {}
    for arm in arms:
        other = held.get(arm, set()) ^ held.get("baseline", set())
        if other or arm not in held:
            name, k = min(other, default=("all", 0))
            raise ValueError(f"{images / arm} and {images / 'baseline'} hold other pictures ({name}, seed {k}): use the same prompts")
    if table.groupby("id").seed.nunique().nunique() > 1:
        raise ValueError(f"{images} holds more seeds for some prompts than for others: remove it and run `dvc repro`")


def _clip_columns(table: pd.DataFrame, vectors: np.ndarray, asked: dict, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """(100 · score with the plain prompt, whatever words the arm was given; distance to the prompt's other seeds), one each a picture."""
    names = list(dict.fromkeys(table.id))
    words = dict(zip(names, clip.texts([asked[name]["prompt"] for name in names]), strict=True))
    apart = np.empty(len(table))
    for rows in table.groupby(["arm", "id"]).indices.values():
        apart[rows] = distances(vectors[rows])
    return 100 * score(vectors, np.stack([words[name] for name in table.id])), apart


def beside(rows: list[tuple[str, int]], asked: dict, pictures: dict) -> Image.Image:
    """The plain prompts that were drawn by lot, without and with the adapter: same seed, same noise."""
    arms = {"baseline": "without", "adapter": "with the adapter"}
    columns = [(asked[name]["prompt"], [open_image(pictures[arm, name, k]) for arm in arms]) for name, k in rows]
    return sheet(columns, list(arms.values()))


def left_out(table: pd.DataFrame, judge, clip) -> dict:
    reasons = {}
    if not judge:
        reasons["semantic"] = "evaluate.judge is null: nobody decided what the pictures show"
    if not clip:
        reasons |= dict.fromkeys(("clip_score", "diversity"), "evaluate.clip is null: name an independent CLIP")
    elif table.seed.nunique() < 2:
        reasons["diversity"] = "one seed for each prompt: there is nothing to differ from"
    return reasons | {f"semantic.*.{arm}": "this arm was not drawn" for arm in ARMS if arm not in set(table.arm)}


def plots(numbers: dict, table: pd.DataFrame, folder: Path) -> None:
    """CSV files for `dvc plots`: accuracy.csv (category, arm), arms.csv (arm; what is measured without a judge)."""
    folder.mkdir(parents=True, exist_ok=True)
    arms, semantic = [arm for arm in ARMS if arm in set(table.arm)], numbers.get("semantic", {})
    names = [name for name in sorted(semantic) if name not in ("difference", "gap_closed")]
    cells = [(name, arm, semantic[name][arm]) for name in names for arm in arms]
    accuracy = [(name, arm, f"{name}, {arm}", found["value"], found["low"], found["high"]) for name, arm, found in cells]
    pd.DataFrame(accuracy, columns=["category", "arm", "label", "accuracy", "low", "high"]).to_csv(folder / "accuracy.csv", index=False)
    measured = {k: numbers[k] for k in ("clip_score", "diversity") if k in numbers} | {m: numbers["quality"][m] for m in MEASURES}
    pd.DataFrame([{"arm": arm} | {k: v[arm] for k, v in measured.items()} for arm in arms]).to_csv(folder / "arms.csv", index=False)


def summary(numbers: dict, notes: dict) -> str:
    """The table that is printed: arms × categories, and the gap closed."""
    semantic = numbers.get("semantic")
    if not semantic:
        return "\n".join([f"{arm:<10}{v:>10.2f} CLIP score" for arm, v in numbers.get("clip_score", {}).items() if arm in ARMS])
    names = [n for n in semantic if n not in ("difference", "gap_closed", "overall")] + ["overall"]
    arms = [arm for arm in ARMS if arm in semantic["overall"]]
    lines = [f"{'':<10}" + "".join(f"{n:>10}" for n in names)]
    lines += [f"{arm:<10}" + "".join(f"{semantic[n][arm]['value']:>10.3f}" for n in names) for arm in arms]
    gap = semantic["gap_closed"]
    closed = f"{gap['value']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}]" if "value" in gap else f"left out: {notes['semantic.gap_closed']}"
    return "\n".join([*lines, f"gap closed {closed}"])


def _write_json(path: Path, tree: dict) -> None:
    path.write_text(json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: run the stage that writes it (`dvc repro`)") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): remove it and run `dvc repro`") from error
