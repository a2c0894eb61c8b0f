"""Blinded votes: which of two pictures of one prompt, seed and noise shows the sentence better, and what the votes say.

The sides are shuffled by a key that a seed decides, pair by pair. A pair is named by the hash of its prompt and its two pictures in the
order shown: the name tells no rater which side is which, and a vote for a picture that was drawn anew since counts no longer.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd

import sur_adapter.evaluation.statistics as st
from sur_adapter.evaluation.sample_selection import by_lot
from sur_adapter.io.schema import record_id

SIDES = ("baseline", "adapter")
COLUMNS = ["pair", "rater", "vote"]  # of votes.csv
VOTES = ("left", "right", "tie")
KEY = ["pair", "id", "seed", "category", "left", "right"]
DIGITS = 4  # of the figures written


def lots(table: pd.DataFrame, each: int, seed: int = 0) -> list[tuple[str, int]]:
    """(prompt id, seed) of the pairs to vote on: `each` prompts a category and one seed of each by lot, categories mixed."""
    drawn = []
    for name, rows in table.groupby("category"):
        keys = [(str(i), int(k)) for i, k in zip(rows.id, rows.seed, strict=True)]
        drawn += by_lot(sorted(set(keys)), f"vote {seed} {name}")[:each]
    Random(f"vote {seed}").shuffle(drawn)
    return drawn


def key(drawn: list[tuple[str, int]], asked: dict, pictures: dict, seed: int = 0) -> pd.DataFrame:
    """KEY of each pair drawn, in the order shown. asked: prompt id -> prompt; pictures: (arm, prompt id, seed) -> bytes."""
    rows = []
    for name, k in drawn:
        sides = SIDES if Random(f"sides {seed} {name} {k}").random() < 0.5 else SIDES[::-1]
        pair = record_id(f"{name} {k} ".encode() + b"".join(pictures[arm, name, k] for arm in sides))
        rows.append((pair, name, k, asked[name]["category"], *sides))
    return pd.DataFrame(rows, columns=KEY)


def read_votes(path: Path) -> pd.DataFrame:
    """COLUMNS of a votes.csv, or of several one after the other, headers and all. Who votes again on a pair has changed their mind."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: write it with the one line {','.join(COLUMNS)}, and votes below it as they come")
    votes: dict[tuple[str, str], str] = {}
    try:
        for number, row in _lines(path):
            if row == COLUMNS or not row:
                continue
            if number == 1:
                raise ValueError(
                    f"{path} begins with {','.join(row)[:80]!r}: expected the header {','.join(COLUMNS)}, as the page writes it"
                )
            if len(row) != 3 or not all(row) or row[2] not in VOTES:
                found = ",".join(row)[:80]
                raise ValueError(f"{path}, line {number}: {found!r} is no vote: expected pair,rater,vote with a vote of {', '.join(VOTES)}")
            votes[row[0], row[1]] = row[2]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV in UTF-8 ({error}): take the file as the page wrote it") from error
    return pd.DataFrame([(*who, vote) for who, vote in votes.items()], columns=COLUMNS)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark in front
        lines = csv.reader(file)
        for row in lines:
            yield lines.line_num, [cell.strip() for cell in row]


def figures(votes: pd.DataFrame, key: pd.DataFrame, resamples: int = 10_000, seed: int = 0) -> tuple[dict, dict]:
    """({"human": …} or nothing, reasons for what is left out).

    win_rate: 1 for a vote for the adapter, 0 for one against it, ½ for a tie; raters averaged first, then pairs, which are the unit.
    Wilson's interval, a sign-flip p of ½, and how many pairs were won, tied and lost; the same by category. left: share of votes for
    the left side among those for a side, ½ where nobody has a favourite side. agreement: Krippendorff's α.
    """
    known = votes.merge(key, on="pair")
    notes = {}
    if other := len(votes) - len(known):
        notes["human.other_votes"] = f"{other} votes are for pictures that are not on the page, or were drawn anew since"
    if known.empty:
        return {}, notes | {
            "human": "there are no votes on these pictures: vote on the page made for it, and add what it saves to the votes that are read"
        }
    sides = known.vote.where(known.vote == "tie", known.left.where(known.vote == "left", known.right))
    known = known.assign(gain=sides.map({"adapter": 1.0, "baseline": 0.0, "tie": 0.5}))
    pairs = known.groupby(["category", "pair"]).gain.mean().reset_index()
    rate = _rate(pairs.gain) | {"p": st.sign_flip(pairs.gain.to_numpy() - 0.5, resamples, seed)}
    rate |= dict(zip(("win", "tie", "loss"), st.win_tie_loss(pairs.gain.to_numpy() - 0.5), strict=True))
    rate |= {name: _rate(gain) for name, gain in pairs.groupby("category").gain}
    human = {"win_rate": rate, "votes": len(known), "raters": known.rater.nunique(), "pairs": len(pairs)}
    if (known.vote != "tie").any():
        human["left"] = round(float((known.vote[known.vote != "tie"] == "left").mean()), DIGITS)
    alpha = krippendorff(pd.crosstab(known.pair, known.gain).to_numpy())
    if alpha is None:
        notes["human.agreement"] = "no pair has votes of two raters, or all votes are alike: there is nothing to agree on by chance"
    else:
        human["agreement"] = round(alpha, DIGITS)
    return {"human": human}, notes


def _rate(gain: pd.Series) -> dict:
    low, high = st.wilson(gain.mean(), len(gain))
    return {"value": round(float(gain.mean()), DIGITS), "low": round(low, DIGITS), "high": round(high, DIGITS)}


def krippendorff(counts: np.ndarray) -> float | None:
    """α = 1 − D_o / D_e for nominal values (Krippendorff 2011). counts (U, V): how many raters gave unit u the value v.

    D_o = 1/n Σ_u Σ_{c≠k} n_uc n_uk / (m_u − 1), D_e = Σ_{c≠k} n_c n_k / (n (n − 1)), over units with m_u ≥ 2 values. With two or more
    raters for every unit it is Fleiss' κ but for a correction of small samples; votes may be missing. None where D_e is 0.
    """
    counts = np.asarray(counts, float)
    counts = counts[counts.sum(1) >= 2]
    m, n = counts.sum(1), counts.sum()
    if not n or (counts.sum(0) > 0).sum() < 2:
        return None
    observed = ((m**2 - (counts**2).sum(1)) / (m - 1)).sum() / n
    expected = (n**2 - (counts.sum(0) ** 2).sum()) / (n * (n - 1))
    return float(1 - observed / expected)
