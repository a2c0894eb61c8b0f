"""SURD as published: images with both prompts, as a Hugging Face image folder.

metadata.jsonl has rows {"file_name", "text" (the simple prompt), "prompt" (the complex one)}; file_name may lack folder and extension.
Zhong et al., arXiv 2305.05189. The images come from users of Civitai, Lexica and Stable Diffusion Online.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sur_adapter.data.crawl.crawl_state import NEW_CRAWL, CrawlState
from sur_adapter.data.sources import folder
from sur_adapter.data.sources.base import SourceConfig

LICENCE = "terms of the sites SURD was gathered from"


@dataclass(frozen=True)
class Config(SourceConfig):
    """Section `sources.surd` of params.yaml. path: a local copy. limit: maximum number of images; null: all."""

    path: str
    limit: int | None = None

    def num_rows(self) -> int | None:
        return self.limit


def rows(config: Config, state: CrawlState = NEW_CRAWL) -> Iterator[dict]:
    """Yields a row for each image with the published simple prompt; the nsfw level is unknown.

    Raises FileNotFoundError if the folder or its metadata is missing, ValueError if metadata cannot be read.
    """
    if Path(config.path).is_dir() and not (Path(config.path) / "metadata.jsonl").is_file():
        raise FileNotFoundError(f"sources.surd.path: {config.path} holds no metadata.jsonl: name the folder of SURD that does")
    try:
        for row in islice(folder.rows(folder.Config(config.path)), config.limit):
            yield row | {"source": "surd", "licence": LICENCE}
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(str(error).replace("sources.folder", "sources.surd")) from error
