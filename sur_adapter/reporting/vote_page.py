"""Renders the vote page: one HTML file that opens from a disk, is operated by touch, mouse or keys and saves votes.csv.

It names no arm: a pair is identified by its hash only (evaluation/human_votes.py). Votes stay in the browser until they are saved.
"""

import pandas as pd

from sur_adapter.io.schema import record_id
from sur_adapter.reporting.html import render

MAX_SIDE = 512  # pixels: larger images are shown smaller


def vote_page(key: pd.DataFrame, prompts: dict[str, dict], images: dict[tuple, bytes]) -> str:
    """Renders the vote page as HTML. key: the pairs (human_votes.answer_key); prompts: by id; images: (arm, prompt id, seed) -> bytes."""
    pairs = [
        {
            "name": row.pair,
            "prompt": prompts[row.id]["prompt"],
            "sides": {"left": images[row.left, row.id, row.seed], "right": images[row.right, row.id, row.seed]},
        }
        for row in key.itertuples()
    ]
    name = record_id("".join(key.pair).encode())
    return render("vote_page.html", ("vote_page.css",), "vote_page.js", name=name, pairs=pairs, max_side=MAX_SIDE)
