"""The miniature's gallery: a made-up world, drawn on the spot and crawled over HTTP on loopback, faults and all."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from miniature.gallery import Gallery
from sur_adapter.data.sources import civitai
from sur_adapter.io.work_cache import WorkCache


def rows(
    work: WorkCache | None = None, after: int = 0, unless=None, *, count: int, seed: int = 0, sentences: bool = False
) -> Iterator[dict]:
    """`count` rows by the very client that crawls Civitai; the gallery is our own, so it may be asked as fast as it answers.

    sentences: each row has a true sentence of its own, of the phrases that the captioner learnt, and no captioner is asked.
    """
    with Gallery(count, seed, retry_after=0) as gallery:
        private = [urlsplit(gallery.url).netloc]
        for row in civitai.rows(work, after, url=gallery.url, limit=count, nsfw="X", rate=None, workers=32, private=private):
            url = row["url"] and row["url"].replace(gallery.url, "gallery://miniature")  # its port is another one each time
            if sentences and row["url"]:
                row["simple_prompt"] = gallery.sentence(int(PurePosixPath(urlsplit(url).path).stem))
            yield row | {"source": "miniature", "url": url, "licence": "drawn by this project"}
