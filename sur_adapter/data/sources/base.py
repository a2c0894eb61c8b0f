"""The contract of a source. To add one, write sur_adapter/data/sources/<name>.py and name it under `sources` in params.yaml.

A row is a dict with a key for each column of io/schema.RAW_SCHEMA that the source knows, and always

    source          name of the source
    url             where the image is; a path within the source where there is no URL; its hash names rows without an image
    complex_prompt  keyword prompt as written, or None
    data            bytes of the image file as received, or None if there are none
    dropped         None, or a short reason why there is no image ("http 404", "file missing"); then data is None

Other keys, None where unknown: negative_prompt, simple_prompt (a plain sentence), prompt_by (the tool that made the prompt, if not a
person), user (name of the author; only its hash is stored), width and height (pixels), nsfw ("None", "Soft", "Mature", "X", "Blurred" or
"Unknown"), licence (text). `id`, `clean_prompt`, and the size of images that decode are set by the crawl. A candidate that cannot be
fetched is a row with its reason, never a missing row.
"""

from collections.abc import Iterator
from typing import ClassVar, Protocol

from sur_adapter.data.crawl.crawl_state import NEW_CRAWL, CrawlState


class SourceConfig:
    """Base class of each source's `Config`, a frozen dataclass of its keys in params.yaml.

    resumable: True if `rows` can start at any row and the fetched rows are cached (web sources: see crawl/fetcher.py). False if a killed
    crawl reads everything again, which is cheap for files on this disk.
    """

    resumable: ClassVar[bool] = False

    def num_rows(self) -> int | None:
        """Returns the maximum number of rows, for the progress bar; None if it is unknown."""
        return None

    def inputs(self) -> object:
        """Returns what the rows depend on beside the settings, as JSON, e.g. the digest of a list; only equal inputs are resumed."""
        return None


class Source(Protocol):
    """A module of this package."""

    Config: type[SourceConfig]

    def rows(self, config: SourceConfig, state: CrawlState = NEW_CRAWL) -> Iterator[dict]:
        """Yields a row for each candidate image, always in the same order.

        state: where a resumable source starts and what it skips; other sources ignore it. Raises ValueError or FileNotFoundError, one
        sentence that names the key of params.yaml, if the source cannot be read at all.
        """
        ...
