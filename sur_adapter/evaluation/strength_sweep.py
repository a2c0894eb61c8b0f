"""Accuracy as a function of the adapter's strength, on images that start from the noise of the arms."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from sur_adapter.evaluation.measurement_cache import GeneratedImage
from sur_adapter.evaluation.summary import rate
from sur_adapter.io.shards import batched, read_tar

BATCH = 32  # images per call of the judge


def accuracy_by_strength(folder: Path, prompts: dict[str, dict], judge: Callable) -> dict[str, dict]:
    """Measures the share of images that show what their prompt asks for. Returns strength, as its folder is named -> value, low, high.

    prompts: by id; judge(images) -> (N, 1 to 3). Raises ValueError for a folder that is not named by a number, or an unknown prompt.
    """
    folders = sorted(_folders(folder), key=lambda item: float(item[0]))
    return {strength: rate(_accuracy_by_prompt(images, prompts, judge)) for strength, images in folders}


def _folders(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.iterdir():
        try:
            float(path.name)
        except ValueError:
            raise ValueError(
                f"{path} is not named by a strength: the folders of {folder} are numbers, as `python -m stages sweep` writes them"
            ) from None
        yield path.name, path


def _accuracy_by_prompt(folder: Path, prompts: dict[str, dict], judge: Callable) -> pd.Series:
    rows = []
    for batch in batched(list(read_tar(folder)), BATCH):
        names = [key.rpartition("-")[0] for key, *_ in batch]
        if unknown := sorted(set(names) - set(prompts)):
            raise ValueError(f"{folder} holds an image of {unknown[0]!r}, which is not in the prompt list: generate the sweep again")
        verdicts = judge([GeneratedImage(data, prompts[name]) for name, (*_, data) in zip(names, batch, strict=True)])
        rows += zip(names, verdicts[:, 0], strict=True)
    return pd.DataFrame(rows, columns=["id", "shown"]).groupby("id").shown.mean()
