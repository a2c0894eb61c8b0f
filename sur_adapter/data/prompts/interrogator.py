"""A keyword prompt for a picture that has none: the labels of clip-interrogator, ranked by CLIP.

clip-interrogator (0.6.0) ships the lists and a way to rank them: one picture at a time, by an open_clip model of its own, and wrongly
where a list is longer than a chunk. So the lists are taken from it, and ranked with the CLIP that scores: a whole batch at a time.
Such a prompt is made up: its row says so in `prompt_by`, and no test split may hold it.
"""

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from itertools import islice

import numpy as np
from PIL import Image
from tqdm import tqdm

from sur_adapter.data.prompts.cleaning import too_long
from sur_adapter.io.images import InvalidImageError, decode, open_image
from sur_adapter.io.schema import record_id
from sur_adapter.io.shards import chunks
from sur_adapter.models.captioner import CaptionConfig, Captioner
from sur_adapter.models.clip import Clip

BY = "interrogator"
PARAM = "sources.folder.interrogate"
LISTS = {"mediums": 1, "artists": 1, "movements": 1, "flavors": None}  # how many of each; None: as many as are asked for
CHUNK = 256  # labels that CLIP reads at a time


def lists() -> dict[str, list[str]]:
    """clip-interrogator's lists, "by" before each artist. Read without importing the package, which would load another CLIP's library."""
    try:
        files = distribution("clip-interrogator")
    except PackageNotFoundError as error:
        raise ValueError(f"{PARAM} needs the lists of clip-interrogator: `pip install -r requirements.txt`") from error
    found = {}
    for name in LISTS:
        text = files.locate_file(f"clip_interrogator/data/{name}.txt").read_text("utf-8", "replace")
        found[name] = [("by " if name == "artists" else "") + line.strip() for line in text.splitlines() if line.strip()]
    return found


class Interrogator:
    """The best labels of each list for a picture, after a caption where a captioner is named. CLIP reads the lists once.

    clip, caption: models. flavors: how many. labels: lists of one's own instead of clip-interrogator's, by its names; of others one each.
    """

    def __init__(
        self, *, clip: str, caption: str | None = None, flavors: int = 8, batch: int = 32, labels: dict[str, list[str]] | None = None
    ):
        self.clip, self.batch = Clip(clip, f"{PARAM}.clip"), batch
        self.captioner = Captioner(CaptionConfig(caption)) if caption else None
        self.counts = {name: count or flavors for name, count in LISTS.items()}
        self.labels = labels or lists()
        self.vectors = {name: self._read(name, known) for name, known in self.labels.items()}  # (N, d) of each list

    def _read(self, name: str, known: list[str]) -> np.ndarray:
        some = tqdm(chunks(known, CHUNK), f"interrogate: {name}", disable=None)
        return np.concatenate([self.clip.texts(one) for one in some])

    def prompts(self, images: list[Image.Image], ids: list[str]) -> list[str]:
        """For each picture (RGB): caption, medium, artist, movement, flavors, as many as CLIP reads to the end."""
        seen = self.clip.images(images)  # (B, d)
        found = [[caption] for caption in self.captioner.caption(images, ids)] if self.captioner else [[] for _ in images]
        for name, known in self.labels.items():
            best = np.argsort(-(seen @ self.vectors[name].T), axis=1, kind="stable")[:, : self.counts.get(name, 1)]  # (B, k)
            for parts, row in zip(found, best, strict=True):
                parts += [known[i] for i in row if known[i] not in parts]
        return [self._fit(parts) for parts in found]

    def _fit(self, parts: list[str]) -> str:
        length = self.clip.model.config.text_config.max_position_embeddings
        beyond = too_long([", ".join(parts[: n + 1]) for n in range(len(parts))], self.clip.processor.tokenizer, length)
        return ", ".join(part for n, part in enumerate(parts) if n == 0 or not beyond[n])

    def fill(self, rows: Iterable[dict]) -> Iterator[dict]:
        """The rows of a source in their order; those with a picture and no prompt get one, and `prompt_by`."""
        rows = iter(rows)
        while some := list(islice(rows, self.batch)):
            without = [(row, image) for row in some if (image := _wordless(row)) is not None]
            if without:
                ids = [record_id(row["data"]) for row, _ in without]
                for (row, _), prompt in zip(without, self.prompts([image for _, image in without], ids), strict=True):
                    row |= {"complex_prompt": prompt, "prompt_by": BY}
            yield from some


def _wordless(row: dict) -> Image.Image | None:
    """The picture of a row that has no prompt; None where there is nothing to look at."""
    if row["complex_prompt"] or row["dropped"] or row["data"] is None:
        return None
    try:
        decode(row["data"])
    except InvalidImageError:  # the crawl will say why
        return None
    return open_image(row["data"])
