"""How much of the adapter is right: what the judge says of pictures drawn at several strengths, on the noise of the arms."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from sur_adapter.evaluation.measurement_cache import Picture
from sur_adapter.evaluation.summary import rate
from sur_adapter.io.shards import chunks, read_tar

BATCH = 32  # pictures that the judge sees at once


def strengths(folder: Path, asked: dict[str, dict], judge: Callable) -> dict[str, dict]:
    """strength, as its folder is named, -> value, low, high: the share of pictures that show what was asked for, over prompts.

    asked: prompts by their ids; judge(pictures) -> (N, 1 or 2). Raises ValueError for a folder or a picture named otherwise.
    """
    return {eta: rate(_by_prompt(place, asked, judge)) for eta, place in sorted(_places(folder), key=lambda found: float(found[0]))}


def _places(folder: Path) -> Iterator[tuple[str, Path]]:
    for place in folder.iterdir():
        try:
            float(place.name)
        except ValueError:
            raise ValueError(
                f"{place} is no strength: folders of {folder} are named by numbers, as `python -m stages sweep` does"
            ) from None
        yield place.name, place


def _by_prompt(place: Path, asked: dict[str, dict], judge: Callable) -> pd.Series:
    rows = []
    for some in chunks(list(read_tar(place)), BATCH):
        names = [key.rpartition("-")[0] for key, *_ in some]
        if strange := sorted(set(names) - set(asked)):
            raise ValueError(f"{place} holds a picture of {strange[0]!r}, which is no prompt of the list: draw the sweep again")
        verdicts = judge([Picture(data, asked[name]) for name, (*_, data) in zip(names, some, strict=True)])
        rows += zip(names, verdicts[:, 0], strict=True)
    return pd.DataFrame(rows, columns=["id", "shown"]).groupby("id").shown.mean()
