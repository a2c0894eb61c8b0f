"""cache: computes the features of one frozen model, once for all trainings.

A killed run resumes after its last finished shard; the query bank, which takes a minute, starts over.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.shards import read_table
from sur_adapter.models.config import ModelsConfig
from sur_adapter.registry import load, names

if TYPE_CHECKING:
    from sur_adapter.config import Params

EXTRACTORS = "sur_adapter.features.extractors"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--features", required=True, metavar="NAME", help=f"which features: {', '.join(names(EXTRACTORS))}")
    parser.add_argument("--pairs", type=Path, required=True, help="Parquet file of the filtered pairs")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the crawled sources, which hold the images")
    parser.add_argument("--out", type=Path, required=True, help="folder for the features")


def run(args: Namespace, params: "Params") -> None:
    extractor = load(EXTRACTORS, args.features)
    config = params.section(f"cache.{args.features}", extractor.Config, required=False)
    models, executor = params.section("models", ModelsConfig), params.section("executor", ExecutorConfig, required=False)
    pairs = read_table(args.pairs)
    pairs = pairs[pairs["dropped"].isna()]
    if pairs.empty:
        raise ValueError(f"{args.pairs} holds no kept pair: loosen the thresholds of params.yaml: filter")
    images = ImageIndex(args.raw, set(pairs["id"])) if extractor.NEEDS_IMAGES else None
    extractor.extract(pairs, images, args.out, config, models, executor)
