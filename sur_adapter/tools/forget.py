"""forget: removes samples from the crawled shards and from unfinished crawls, and keeps them out of every later crawl.

Only hashes of what was removed stay, in `data/forgotten.txt`. Copies that were pushed elsewhere are not reached.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from sur_adapter.config import Params
from sur_adapter.data.crawl import removal
from sur_adapter.io.work_cache import discard_work


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("sample", metavar="ID|URL|USER", help="id or URL of one sample, or the name of a user for all of theirs")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="folder of the crawled shards, one per source (%(default)s)")
    parser.add_argument("--forgotten", type=Path, default=Path("data/forgotten.txt"), help="list of hashes to extend (%(default)s)")


def run(args: Namespace, params: Params) -> None:
    count = removal.forget(args.sample, args.raw, args.forgotten)
    discard_work("crawl", "caption", "score", "cache")  # features of an image, and answers to its caption
    print(f"removed {count} rows. Now rebuild everything derived from them, and empty DVC's caches:")
    print("  dvc commit -f crawl && dvc repro && dvc gc --workspace --force && git commit -am forgotten")
