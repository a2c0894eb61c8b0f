"""Blinded votes of people: which of two images of one prompt, seed and noise shows the prompt better, and what the votes say.

A pair is the image of the arm `adapter` and that of `baseline` or of `complex`. The sides are shuffled pair by pair, by a seed. A pair is
named by a hash of its prompt and its two images in the order shown: raters cannot read the sides from it, and votes for an image that has
been generated again do not count any more.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd

from sur_adapter.evaluation.sample_selection import Key
from sur_adapter.evaluation.statistics import sign_flip, wilson, win_tie_loss
from sur_adapter.io.schema import record_id

AGAINST = ("baseline", "complex")  # arms that people compare the adapter with: plain prompts and keyword prompts, both without it
COLUMNS = ["pair", "rater", "vote"]  # of votes.csv
VOTES = ("left", "right", "both_right", "both_wrong", "tie")  # `tie`: neither is better, of older vote pages
KEY_COLUMNS = ["pair", "id", "seed", "category", "left", "right"]  # of ab_key.csv
DIGITS = 4  # of the numbers in metrics.json


def answer_key(pairs: list[Key], prompts: dict[str, dict], images: dict[tuple, bytes], seed: int = 0) -> pd.DataFrame:
    """Shuffles the sides of each pair. Returns KEY_COLUMNS, in the order shown. prompts: by id; images: (arm, prompt id, seed) -> bytes.

    Each of `pairs` is shown once with each arm of AGAINST, if it was generated and, for `complex`, the prompt has a keyword prompt. All
    prompts come once before any comes again, with the arms alternating, so that a rater who stops early has voted on both.
    """
    rows = []
    against = [[arm for arm in AGAINST if _is_compared(arm, key, prompts, images)] for key in pairs]
    for turn in range(len(AGAINST)):
        for place, ((name, number), arms) in enumerate(zip(pairs, against, strict=True)):
            if turn < len(arms):
                arm = arms[(place + turn) % len(arms)]
                suffix = "" if arm == AGAINST[0] else f" {arm}"
                sides = (arm, "adapter") if Random(f"sides {seed} {name} {number}{suffix}").random() < 0.5 else ("adapter", arm)
                shown = b"".join(images[side, name, number] for side in sides)
                pair = record_id(f"{name} {number}{suffix} ".encode() + shown)
                rows.append((pair, name, number, prompts[name]["category"], *sides))
    return pd.DataFrame(rows, columns=KEY_COLUMNS)


def _is_compared(arm: str, key: Key, prompts: dict[str, dict], images: dict[tuple, bytes]) -> bool:
    return (arm, *key) in images and (arm != "complex" or bool(prompts[key[0]].get("complex_prompt")))


def read_votes(path: Path) -> pd.DataFrame:
    """Reads a votes.csv (COLUMNS), which may be several such files one after another. A rater's last vote on a pair counts.

    Raises FileNotFoundError, and ValueError that names the line that is not a vote.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: create it with the header {','.join(COLUMNS)}, and add votes below it")
    votes: dict[tuple[str, str], str] = {}
    try:
        for number, row in _lines(path):
            if row == COLUMNS or not row:
                continue
            if number == 1:
                raise ValueError(
                    f"{path} begins with {','.join(row)[:80]!r}: expected the header {','.join(COLUMNS)}, as the vote page writes it"
                )
            if len(row) != 3 or not all(row) or row[2] not in VOTES:
                line = ",".join(row)[:80]
                raise ValueError(
                    f"{path}, line {number}: {line!r} is not a vote: expected pair,rater,vote with a vote of {', '.join(VOTES)}"
                )
            votes[row[0], row[1]] = row[2]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not CSV in UTF-8 ({error}): use the file as the vote page wrote it") from error
    return pd.DataFrame([(pair, rater, vote) for (pair, rater), vote in votes.items()], columns=COLUMNS)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a byte order mark
        reader = csv.reader(file)
        for row in reader:
            yield reader.line_num, [cell.strip() for cell in row]


def summarize_votes(votes: pd.DataFrame, key: pd.DataFrame, resamples: int = 10_000, seed: int = 0) -> tuple[dict, dict]:
    """Summarizes votes. Returns (metrics, notes): {"human": …}, or {} without votes for the pairs of `key`; reasons for what is left out.

    "human" is about adapter against `baseline`; its block `against_complex` has the same keys about adapter against `complex`. Either is
    left out without votes. answers: numbers of votes for each arm, for both right, both wrong and, from older vote pages, tie.
    win_rate: 1 for a vote for the adapter, 0 for one for the other arm, ½ for any other; averaged over raters, then over pairs, which are
    the unit. With Wilson's interval, the sign-flip p-value against ½, and counts of pairs won, tied, lost; the same by category.
    left: share of votes for the left side among votes for a side; ½ if raters have no preferred side. agreement: Krippendorff's α.
    """
    known = votes.merge(key, on="pair")
    notes = {}
    if unknown := len(votes) - len(known):
        notes["human.other_votes"] = f"{unknown} votes are for images that are not on the vote page, or that have been generated again"
    if known.empty:
        return {}, notes | {"human": "there are no votes on these images: vote on ab_vote.html and add the votes to data/votes.csv"}
    sides = known.vote.where(known.vote != "left", known.left).where(known.vote != "right", known.right)
    known = known.assign(answer=sides, against=_other_arm(known))
    human, shown = {}, set(_other_arm(key))
    for arm in (arm for arm in AGAINST if arm in shown):
        block, name = known[known.against == arm], "human" if arm == AGAINST[0] else f"human.against_{arm}"
        if block.empty:
            notes[f"{name}.win_rate"] = f"there are no votes on pairs of the arms `adapter` and `{arm}`"
            continue
        numbers, reasons = _summarize_pairs(block, arm, resamples, seed)
        human |= numbers if arm == AGAINST[0] else {f"against_{arm}": numbers}
        notes |= {f"{name}.{metric}": reason for metric, reason in reasons.items()}
    return {"human": human}, notes


def _other_arm(key: pd.DataFrame) -> pd.Series:
    """Returns the arm that each pair compares the adapter with."""
    return key.left.where(key.left != "adapter", key.right)


def _summarize_pairs(votes: pd.DataFrame, arm: str, resamples: int, seed: int) -> tuple[dict, dict]:
    """Summarizes the votes on pairs of the adapter and `arm`. Returns (metrics, notes)."""
    gain = votes.answer.map({"adapter": 1.0, arm: 0.0}).fillna(0.5)
    pairs = votes.assign(gain=gain).groupby(["category", "pair"]).gain.mean().reset_index()
    win_rate = _rate(pairs.gain) | {"p": sign_flip(pairs.gain.to_numpy() - 0.5, resamples, seed)}
    win_rate |= dict(zip(("win", "tie", "loss"), win_tie_loss(pairs.gain.to_numpy() - 0.5), strict=True))
    win_rate |= {category: _rate(gain) for category, gain in pairs.groupby("category").gain}
    answers = {name: int((votes.answer == name).sum()) for name in ("adapter", arm, "both_right", "both_wrong", "tie")}
    numbers = {"win_rate": win_rate, "answers": answers, "votes": len(votes), "raters": votes.rater.nunique(), "pairs": len(pairs)}
    if (for_a_side := votes.vote[votes.vote.isin(["left", "right"])]).size:
        numbers["left"] = round(float((for_a_side == "left").mean()), DIGITS)
    alpha = krippendorff_alpha(pd.crosstab(votes.pair, votes.answer).to_numpy())
    if alpha is None:
        return numbers, {"agreement": "no pair has votes of two raters, or all votes are the same: agreement beyond chance is not defined"}
    return numbers | {"agreement": round(alpha, DIGITS)}, {}


def _rate(gain: pd.Series) -> dict:
    low, high = wilson(gain.mean(), len(gain))
    return {"value": round(float(gain.mean()), DIGITS), "low": round(low, DIGITS), "high": round(high, DIGITS)}


def krippendorff_alpha(counts: np.ndarray) -> float | None:
    """Computes α = 1 − D_o / D_e for nominal values (Krippendorff 2011). counts (U, V): how many raters gave unit u the value v.

    D_o = 1/n Σ_u Σ_{c≠k} n_uc n_uk / (m_u − 1), D_e = Σ_{c≠k} n_c n_k / (n (n − 1)), over units with m_u ≥ 2 values. With two or more
    raters for every unit it is Fleiss' κ up to a small-sample correction; votes may be missing. None if D_e is 0.
    """
    counts = np.asarray(counts, float)
    counts = counts[counts.sum(1) >= 2]
    m, n = counts.sum(1), counts.sum()
    if not n or (counts.sum(0) > 0).sum() < 2:
        return None
    observed = ((m**2 - (counts**2).sum(1)) / (m - 1)).sum() / n
    expected = (n**2 - (counts.sum(0) ** 2).sum()) / (n * (n - 1))
    return float(1 - observed / expected)
