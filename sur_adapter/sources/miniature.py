"""The miniature's gallery: a made-up world, drawn on the spot and crawled over HTTP on loopback, faults and all."""

from collections.abc import Iterator

from miniature.gallery import Gallery
from sur_adapter.sources import civitai


def rows(*, count: int, seed: int = 0) -> Iterator[dict]:
    """`count` rows by the very client that crawls Civitai."""
    with Gallery(count, seed) as gallery:
        for row in civitai.rows(url=gallery.url, limit=count, nsfw="X", workers=32):  # flagged ones too; many wait on a busy answer
            url = row["url"] and row["url"].replace(gallery.url, "gallery://miniature")  # its port is another one each time
            yield row | {"source": "miniature", "url": url, "licence": "drawn by this project"}
