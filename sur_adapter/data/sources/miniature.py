"""The miniature's gallery: a synthetic world, rendered on demand and crawled over HTTP on loopback, with planted faults."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from miniature.gallery import Gallery, serve_in_process
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
    """Yields `count` rows, fetched by the Civitai source without a rate limit, since the gallery runs on this machine."""
    gallery = Gallery(config.count, config.seed) if config.sentences else None  # that knows what each picture shows
    with serve_in_process(config.count, config.seed, retry_after=0) as server:
        address = urlsplit(server).netloc
        crawled = civitai.Config(limit=config.count, url=server, nsfw="X", rate=None, workers=32, private=(address,))
        for row in civitai.rows(crawled, replace(state, skip=None)):  # the stage recognises removed rows later, by the stable URL below
            url = row["url"] and row["url"].replace(server, "gallery://miniature")  # the port of the server is different in each run
            if gallery and row["url"]:
                row["simple_prompt"] = gallery.sentence(int(PurePosixPath(urlsplit(url).path).stem))
            yield row | {"source": "miniature", "url": url, "licence": "drawn by this project"}
