"""Writes a keyword prompt for an image without one: the labels of clip-interrogator, ranked by CLIP.

clip-interrogator 0.6.0 ships the label lists and ranks them one image at a time, with an open_clip model of its own, and wrongly if a list
is longer than a chunk. So only its lists are used; they are ranked in batches with the CLIP model that also scores. Such a prompt was not
written by a person: its row says so in `prompt_by`, and the filter keeps it out of the test split.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm import tqdm

from sur_adapter.data.prompts.cleaning import count_excess_tokens
from sur_adapter.io.images import InvalidImageError, decode, open_image
from sur_adapter.io.schema import record_id
from sur_adapter.io.shards import batched

if TYPE_CHECKING:
    from sur_adapter.models.captioner import Captioner

NAME = "interrogator"  # in the column `prompt_by`
PARAM = "sources.folder.interrogate"
LISTS = {"mediums": 1, "artists": 1, "movements": 1, "flavors": None}  # labels per image; None: the setting `flavors`
CHUNK = 256  # labels per CLIP batch


@dataclass(frozen=True)
class InterrogatorConfig:
    """Section `sources.folder.interrogate` of params.yaml.

    clip: the CLIP model that ranks. caption: an image-to-text model whose caption begins the prompt; null: none. flavors: labels of that
    list per image. batch_size: images. labels: your own lists instead of clip-interrogator's, under its names; one label each of any other
    name.
    """

    clip: str
    caption: str | None = None
    flavors: int = 8
    batch_size: int = 32
    labels: dict[str, list[str]] | None = None

    def __post_init__(self):
        for name in ("flavors", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")


def read_label_lists() -> dict[str, list[str]]:
    """Reads clip-interrogator's lists, artists with "by " in front, without importing it and open_clip.

    Raises ValueError if it is not installed.
    """
    try:
        files = distribution("clip-interrogator")
    except PackageNotFoundError as error:
        raise ValueError(f"{PARAM} needs the lists of clip-interrogator: `pip install -r requirements.txt`") from error
    lists = {}
    for name in LISTS:
        text = files.locate_file(f"clip_interrogator/data/{name}.txt").read_text("utf-8", "replace")
        lists[name] = [("by " if name == "artists" else "") + line.strip() for line in text.splitlines() if line.strip()]
    return lists


class Interrogator:
    """Ranks the labels of each list by CLIP similarity with an image. The embeddings of the labels are computed once."""

    def __init__(self, config: InterrogatorConfig):
        from sur_adapter.models.clip import CLIPEncoder  # imports torch and transformers, which take seconds

        self.config, self.clip = config, CLIPEncoder(config.clip, f"{PARAM}.clip")
        self.captioner = self._load_captioner() if config.caption else None
        self.counts = {name: count or config.flavors for name, count in LISTS.items()}
        self.labels = config.labels or read_label_lists()
        self.label_embeds = {name: self._embed(name, labels) for name, labels in self.labels.items()}  # (N, d) each

    def _load_captioner(self) -> "Captioner":
        from sur_adapter.models.captioner import CaptionConfig, Captioner

        return Captioner(CaptionConfig(self.config.caption))

    def _embed(self, name: str, labels: list[str]) -> np.ndarray:
        chunks = tqdm(batched(labels, CHUNK), f"interrogate: {name}", disable=None)
        return np.concatenate([self.clip.encode_texts(chunk) for chunk in chunks])

    def prompts(self, images: list[Image.Image], ids: list[str]) -> list[str]:
        """Writes a prompt for each image (RGB): caption, medium, artist, movement, flavors, as many as fit into CLIP's text length."""
        image_embeds = self.clip.encode_images(images)  # (B, d)
        prompts = self.captioner.caption(images, ids) if self.captioner else [[] for _ in images]
        for name, labels in self.labels.items():
            similarity = image_embeds @ self.label_embeds[name].T  # (B, N)
            best = np.argsort(-similarity, axis=1, kind="stable")[:, : self.counts.get(name, 1)]  # (B, k)
            for parts, row in zip(prompts, best, strict=True):
                parts += [labels[i] for i in row if labels[i] not in parts]
        return [self._fit(parts) for parts in prompts]

    def _fit(self, parts: list[str]) -> str:
        """Joins the parts, without those that end beyond CLIP's text length; the first always stays."""
        length = self.clip.model.config.text_config.max_position_embeddings
        prefixes = [", ".join(parts[: n + 1]) for n in range(len(parts))]
        excess = count_excess_tokens(prefixes, self.clip.processor.tokenizer, length)
        return ", ".join(part for n, part in enumerate(parts) if n == 0 or not excess[n])

    def fill(self, rows: Iterable[dict]) -> Iterator[dict]:
        """Yields the rows of a source in their order; those with an image and no prompt get one, and `prompt_by`."""
        rows = iter(rows)
        while batch := list(islice(rows, self.config.batch_size)):
            promptless = [(row, image) for row in batch if (image := _image_without_prompt(row)) is not None]
            if promptless:
                ids = [record_id(row["data"]) for row, _ in promptless]
                for (row, _), prompt in zip(promptless, self.prompts([image for _, image in promptless], ids), strict=True):
                    row |= {"complex_prompt": prompt, "prompt_by": NAME}
            yield from batch


def _image_without_prompt(row: dict) -> Image.Image | None:
    """Returns the image of a row that has no prompt; None if it has one, or if there is no valid image."""
    if row["complex_prompt"] or row["dropped"] or row["data"] is None:
        return None
    try:
        decode(row["data"])
    except InvalidImageError:  # the crawl records the reason
        return None
    return open_image(row["data"])
