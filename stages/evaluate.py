"""evaluate: whether plain prompts became as good as keyword prompts, with intervals, and a report that stands alone."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from tqdm import tqdm

import sur_adapter.evaluation.human_votes as vote
import sur_adapter.reporting.report as pages
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.config import settings
from sur_adapter.evaluation import image_quality as quality
from sur_adapter.evaluation.counting import asked_for
from sur_adapter.evaluation.embedding_distance import nearness
from sur_adapter.evaluation.measurement_cache import Picture
from sur_adapter.evaluation.measurements import Measurements
from sur_adapter.evaluation.strength_sweep import strengths
from sur_adapter.evaluation.summary import JUDGEMENTS, categories, figures, plain
from sur_adapter.features.store import Store
from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.image_grid import sheet
from sur_adapter.generation.prompts import read_prompts
from sur_adapter.io.atomic import atomic_write, atomic_write_text
from sur_adapter.io.images import open_image
from sur_adapter.io.shards import read_table, read_tar, write_table
from sur_adapter.models.clip import Clip, distances, score
from sur_adapter.reporting.vote_page import vote_page

BATCH = 32  # pictures that a measure sees at once


def evaluate(
    prompts: Path,
    images: Path,
    funnel: Path,
    training: Path,
    adapter: Path,
    metrics: Path,
    report: Path,
    features: Path | None = None,
    votes: Path | None = None,
    sweep: Path | None = None,
    *,
    evaluate: dict,
    generate: dict | None = None,
    models: dict | None = None,
) -> None:
    """Beside `metrics` lie notes.json (what is left out, and why), judgements.parquet (a row a picture), same_seed.png and plots/;
    beside `report` the page to vote on, ab_vote.html, and its key, ab_key.csv.

    features: the cached ones of the text encoder, where the adapter can be looked at without a picture. votes: what was voted on that
    page; sweep: pictures by strength; generate, models: to be told.
    """
    gauges, pairs, reckoning = options(**settings(options, evaluate, "evaluate"))
    asked = {p["id"]: p for p in read_prompts(prompts)}
    voted = vote.read_votes(votes) if votes else None
    table, vectors = look(images, asked, gauges)
    seed = reckoning["seed"]
    rows, drawn = pages.choose(table, seed), vote.lots(table, pairs, seed)
    wanted = {key for keys in rows.values() for key in keys} | set(drawn)  # (prompt id, seed)
    pictures = {key: data for key, data in _members(images, list(table.arm.unique())) if key[1:] in wanted}
    with_complex = {key for key, p in asked.items() if p.get("complex_prompt")}
    numbers, notes = figures(table, with_complex, measures=gauges.measures, **reckoning)
    notes |= left_out(table, gauges)
    key = vote.key(drawn, asked, pictures, seed)
    human = vote.figures(voted, key, reckoning["resamples"], seed) if votes else ({}, {})
    for found, why in (compared(table, vectors, gauges.sets), embedding(adapter, features), by_strength(sweep, asked, gauges), human):
        numbers, notes = numbers | plain(found), notes | why
    _write_json(metrics, numbers)
    _write_json(metrics.parent / "notes.json", notes)
    schema = pa.schema([*JUDGEMENTS, *((name, pa.float32()) for name in gauges.measures)])
    write_table(metrics.parent / "judgements.parquet", table, schema)
    plots(numbers, table, metrics.parent / "plots")
    with atomic_write(metrics.parent / "same_seed.png") as part:
        beside(rows["random"], asked, pictures).save(part, "png")
    made = {"funnel": _read_json(funnel), "history": _read_json(training / "history.json"), "config": _read_json(adapter / "config.json")}
    made["params"] = {"evaluate": evaluate, "generate": generate or {}, "models": models or {}}
    card = funnel.with_name("data.md")
    made["data"] = card.read_text(encoding="utf-8") if card.exists() else ""
    atomic_write_text(report, pages.page(numbers, notes, table, asked, rows, pictures, **made))
    atomic_write_text(report.with_name("ab_vote.html"), vote_page(key, asked, pictures))
    atomic_write_text(report.with_name("ab_key.csv"), key.to_csv(index=False, lineterminator="\n"))
    print(summary(numbers, notes))


def options(
    *,
    judge: str | dict | None = None,
    clip: str | None = None,
    measures: list | dict | None = None,
    tolerance: float = 0.05,
    resamples: int = 10_000,
    seed: int = 0,
    pairs: int = 20,
) -> tuple[Measurements, int, dict]:
    """The keys of params.yaml: evaluate. judge, clip, measures: as Gauges takes them; pairs: to vote on, of each category; the others: how
    `figures` reckons."""
    if not isinstance(resamples, int) or resamples < 100:
        raise ValueError(f"params.yaml: evaluate.resamples is {resamples}: an interval needs at least 100, better 10000")
    if not isinstance(tolerance, (int, float)) or not 0 <= tolerance < 1:
        raise ValueError(f"params.yaml: evaluate.tolerance is {tolerance!r}: give the share of a measure that may be lost, 0 to 1")
    if not isinstance(pairs, int) or pairs < 1:
        raise ValueError(f"params.yaml: evaluate.pairs is {pairs!r}: a page to vote on needs at least 1 pair of each category")
    return Measurements(judge, clip, measures), pairs, {"resamples": resamples, "seed": seed, "tolerance": tolerance}


def look(images: Path, asked: dict[str, dict], gauges: Measurements) -> tuple[pd.DataFrame, np.ndarray | None]:
    """(a row a picture: JUDGEMENTS and gauges.measures; CLIP's vectors, (N, d)). Arms are held to the same prompts and seeds."""
    arms = [arm for arm in ARMS if (images / arm).is_dir()]
    for arm in ("baseline", "adapter"):
        if arm not in arms:
            raise FileNotFoundError(f"{images / arm} is missing: draw that arm first (`dvc repro`)")
    texts = {(arm, row.id): row.text for arm in arms for row in read_table(images / arm / "prompts.parquet").itertuples()}
    size = sum(file.stat().st_size for arm in arms for file in (images / arm).glob("*.tar"))
    rows, found, members = [], {name: [] for name in gauges.each}, _members(images, arms)
    with tqdm(total=size, desc="evaluate", unit="B", unit_scale=True, disable=None) as bar:
        while batch := list(islice(members, BATCH)):
            rows += [_row(key, asked, texts.get(key[:2], "")) for key, _ in batch]
            pictures = [Picture(data, asked[key[1]]) for key, data in batch]
            for name, gauge in gauges.each.items():
                found[name].append(gauge(pictures))
            bar.update(sum(len(data) for _, data in batch))
    table = pd.DataFrame(rows, columns=["id", "category", "arm", "seed", "text", "asked"])
    _paired(table, arms, images)
    found = {name: np.concatenate(values) for name, values in found.items()}  # name -> (N, K)
    verdicts, vectors = found.get("judge"), found["clip"].astype(np.float32) if gauges.clip else None
    table["shown"] = np.nan if verdicts is None else verdicts[:, 0]
    table["soft"] = np.nan if verdicts is None or verdicts.shape[1] < 2 else verdicts[:, 1]
    table["counted"] = found["counted"][:, 0] if "counted" in found else np.nan
    table["clip_score"], table["distance"] = (np.nan, np.nan) if vectors is None else _clip_columns(table, vectors, asked, gauges.clip)
    columns = dict(zip(quality.MEASURES, found["classical"].T, strict=True)) | {name: found[name][:, 0] for name in gauges.measures}
    return table.assign(**columns), vectors


def _row(key: tuple[str, str, int], asked: dict[str, dict], text: str) -> dict:
    arm, name, k = key
    if name not in asked:
        raise ValueError(f"the arm {arm} holds a picture of {name!r}, which is no prompt of the list: draw the arm again with this list")
    return {"id": name, "category": asked[name]["category"], "arm": arm, "seed": k, "text": text, "asked": asked_for(asked[name])}


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


def left_out(table: pd.DataFrame, gauges: Measurements) -> dict:
    reasons = {}
    if not gauges.judge:
        reasons["semantic"] = "evaluate.judge is null: nobody decided what the pictures show"
    if not gauges.clip:
        reasons |= dict.fromkeys(("clip_score", "diversity"), "evaluate.clip is null: name an independent CLIP")
    elif table.seed.nunique() < 2:
        reasons["diversity"] = "one seed for each prompt: there is nothing to differ from"
    return reasons | {f"semantic.*.{arm}": "this arm was not drawn" for arm in ARMS if arm not in set(table.arm)}


def compared(table: pd.DataFrame, vectors: np.ndarray | None, sets: dict[str, ModuleType]) -> tuple[dict, dict]:
    """(metrics, notes): how far each arm's pictures lie from those of the keyword prompts, by each module of `sets`."""
    arms, found, notes = [arm for arm in ARMS if arm in set(table.arm)], {}, {}
    each = len(table) // len(arms)
    for name, module in sets.items():
        if vectors is None or "complex" not in arms:
            notes[f"distance.{name}"] = "it needs evaluate.clip and the arm `complex`"
        elif each < module.LEAST:
            notes[f"distance.{name}"] = f"it needs {module.LEAST} pictures an arm, and there are {each}: draw more prompts or seeds"
        else:
            held = {arm: vectors[(table.arm == arm).to_numpy()] for arm in arms}
            found[name] = {arm: module.compare(held[arm], held["complex"]) for arm in arms if arm != "complex"}
    return {"distance": found} if found else {}, notes


def embedding(adapter: Path, features: Path | None) -> tuple[dict, dict]:
    """(metrics, notes): how near the adapter brings the text features of plain prompts to those of keyword prompts, on the test split."""
    rows = Store(features) if features else None
    if rows is None or not len(rows.where("test")):
        return {}, {"embedding": "no pair of the test split is cached" if features else "no cached features were given"}
    return {"embedding": nearness(SURAdapter.from_pretrained(adapter), rows)}, {}


def by_strength(sweep: Path | None, asked: dict, gauges: Measurements) -> tuple[dict, dict]:
    """(metrics, notes): accuracy at each strength of the adapter."""
    found = strengths(sweep, asked, gauges.each["judge"]) if sweep and gauges.judge else {}
    why = "evaluate.judge is null" if sweep and not gauges.judge else "no pictures by strength were drawn (sweep.strengths)"
    return ({"strength": found}, {}) if found else ({}, {"strength": why})


def plots(numbers: dict, table: pd.DataFrame, folder: Path) -> None:
    """CSV files for `dvc plots`: accuracy.csv (category, arm), arms.csv (arm; what is measured without a judge), strength.csv."""
    arms, semantic = [arm for arm in ARMS if arm in set(table.arm)], numbers.get("semantic", {})
    names = sorted([*categories(semantic), "overall"]) if semantic else []
    cells = [(name, arm, semantic[name][arm]) for name in names for arm in arms]
    accuracy = [(name, arm, f"{name}, {arm}", found["value"], found["low"], found["high"]) for name, arm, found in cells]
    _write_csv(folder / "accuracy.csv", pd.DataFrame(accuracy, columns=["category", "arm", "label", "accuracy", "low", "high"]))
    measured = {k: numbers[k] for k in ("clip_score", "diversity") if k in numbers} | {m: numbers["quality"][m] for m in quality.MEASURES}
    _write_csv(folder / "arms.csv", pd.DataFrame([{"arm": arm} | {k: v[arm] for k, v in measured.items()} for arm in arms]))
    curve = [(float(eta), at["value"], at["low"], at["high"]) for eta, at in numbers.get("strength", {}).items()]
    _write_csv(folder / "strength.csv", pd.DataFrame(sorted(curve), columns=["strength", "accuracy", "low", "high"]))


def summary(numbers: dict, notes: dict) -> str:
    """The table that is printed: arms × categories, and the gap closed."""
    semantic = numbers.get("semantic")
    if not semantic:
        return "\n".join([f"{arm:<16}{v:>10.2f} CLIP score" for arm, v in numbers.get("clip_score", {}).items() if arm in ARMS])
    names = [*categories(semantic), "overall"]
    arms = [arm for arm in ARMS if arm in semantic["overall"]]
    lines = [f"{'':<16}" + "".join(f"{n:>10}" for n in names)]
    lines += [f"{arm:<16}" + "".join(f"{semantic[n][arm]['value']:>10.3f}" for n in names) for arm in arms]
    gap = semantic["gap_closed"]
    closed = f"{gap['value']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}]" if "value" in gap else f"left out: {notes['semantic.gap_closed']}"
    return "\n".join([*lines, f"gap closed {closed}"])


def _write_json(path: Path, tree: dict) -> None:
    atomic_write_text(path, json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    atomic_write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: run the stage that writes it (`dvc repro`)") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): remove it and run `dvc repro`") from error
