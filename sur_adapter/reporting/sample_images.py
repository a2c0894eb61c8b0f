"""The images that a report shows: the same prompt, seed and noise in every arm; and the grid of same_seed.png."""

import pandas as pd
from PIL import Image

from sur_adapter.evaluation.sample_selection import Key
from sur_adapter.generation.image_grid import image_grid
from sur_adapter.io.images import open_image


def sample_rows(keys: list[Key], judgements: pd.DataFrame, prompts: dict[str, dict], arms: list[str], images: dict) -> list[dict]:
    """Builds the rows of the macro `sample_rows`, one per key. judgements: by (arm, id, seed); images: (arm, id, seed) -> bytes.

    is_same: the judge says the same of all images, or all are equal; fails: the arms whose image is incorrect.
    """
    return [_row(key, judgements, prompts[key[0]], arms, images) for key in keys]


def _row(key: Key, judgements: pd.DataFrame, prompt: dict, arms: list[str], images: dict) -> dict:
    shown = [
        {"arm": arm, "data": images[arm, *key], "shown": float(row.shown), "text": row.text}
        for arm in arms
        for row in [judgements.loc[(arm, *key)]]
    ]
    verdicts = {image["shown"] for image in shown}
    return {
        "is_same": verdicts in ({0.0}, {1.0}) or len({image["data"] for image in shown}) == 1,
        "fails": [image["arm"] for image in shown if image["shown"] == 0],
        "id": key[0],
        "seed": key[1],
        "prompt": prompt["prompt"],
        "category": prompt["category"],
        "images": shown,
    }


def same_seed_grid(keys: list[Key], prompts: dict[str, dict], images: dict) -> Image.Image:
    """Draws the images of plain prompts without (above) and with the adapter (below): same seed, same noise."""
    arms = {"baseline": "without", "adapter": "with the adapter"}
    columns = [(prompts[name]["prompt"], [open_image(images[arm, name, seed]) for arm in arms]) for name, seed in keys]
    return image_grid(columns, list(arms.values()))
