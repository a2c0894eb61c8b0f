"""What the crawl stage passes to a source that can resume."""

from collections.abc import Callable
from dataclasses import dataclass

from sur_adapter.io.work_cache import WorkCache


@dataclass(frozen=True)
class CrawlState:
    """Where a crawl continues and what it leaves out.

    work: cache of the pages and images that an earlier, killed run fetched; None caches nothing. start: number of the first row that is
    still needed. skip: whether a row must not be fetched because it was removed on request; called with the row before it is fetched.
    """

    work: WorkCache | None = None
    start: int = 0
    skip: Callable[[dict], bool] | None = None


NEW_CRAWL = CrawlState()
