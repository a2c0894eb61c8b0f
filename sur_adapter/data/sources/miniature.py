"""The miniature's gallery: a synthetic world, rendered on demand and crawled over HTTP on loopback, with planted faults."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from miniature.gallery import Gallery
from sur_adapter.data.crawl.crawl_state import NEW_CRAWL, CrawlState
from sur_adapter.data.sources import civitai
from sur_adapter.data.sources.base import SourceConfig


@dataclass(frozen=True)
class Config(SourceConfig):
    """Section `sources.miniature` of params.yaml.

    count: number of images. sentences: rows have a correct simple_prompt in the style of the captioner, so that no captioner is needed.
    """

    count: int
    seed: int = 0
    sentences: bool = False

    resumable = True

    def num_rows(self) -> int:
        return self.count


def rows(config: Config, state: CrawlState = NEW_CRAWL) -> Iterator[dict]:
    """Yields `count` rows, fetched by the Civitai source without a rate limit, since the gallery runs in this process."""
    with Gallery(config.count, config.seed, retry_after=0) as gallery:
        address = urlsplit(gallery.url).netloc
        crawled = civitai.Config(limit=config.count, url=gallery.url, nsfw="X", rate=None, workers=32, private=(address,))
        for row in civitai.rows(crawled, replace(state, skip=None)):  # the stage recognises removed rows later, by the stable URL below
            url = row["url"] and row["url"].replace(gallery.url, "gallery://miniature")  # the port of the server is different in each run
            if config.sentences and row["url"]:
                row["simple_prompt"] = gallery.sentence(int(PurePosixPath(urlsplit(url).path).stem))
            yield row | {"source": "miniature", "url": url, "licence": "drawn by this project"}
