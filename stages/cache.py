"""cache: computes the features of one frozen model, once for all trainings.

What the loss of params.yaml does not read is not computed: then the folder of features is empty, and so is the work. A killed run resumes
after its last finished shard; the query bank, which takes a minute, starts over.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sur_adapter.features.empty import EMPTY_FILE, write_empty
from sur_adapter.registry import load, names
from sur_adapter.training.config import LossConfig

if TYPE_CHECKING:
    from sur_adapter.config import Params

EXTRACTORS = "sur_adapter.features.extractors"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--features", required=True, metavar="NAME", help=f"which features: {', '.join(names(EXTRACTORS))}")
    parser.add_argument("--pairs", type=Path, help="Parquet file of the filtered pairs; all features but `sentences` need it")
    parser.add_argument("--raw", type=Path, help="folder of the crawled sources, which hold the images; needed with --pairs")
    parser.add_argument("--sentences", type=Path, help="Parquet file of the collected sentences, for the features `sentences`")
    parser.add_argument("--out", type=Path, required=True, help="folder for the features")


def run(args: Namespace, params: "Params") -> None:
    loss = params.section("loss", LossConfig)
    if reason := loss.unread_features.get(args.features):
        write_empty(args.out, args.features, reason)
        print(f"nothing to compute: {reason}")
        return
    (args.out / EMPTY_FILE).unlink(missing_ok=True)
    compute(args, params, loss)


def compute(args: Namespace, params: "Params", loss: LossConfig) -> None:
    """Writes the features of all kept rows."""
    from sur_adapter.executors.base import ExecutorConfig  # these and the extractor load numpy, pandas or torch, which takes seconds
    from sur_adapter.io.image_index import ImageIndex
    from sur_adapter.io.shards import read_table
    from sur_adapter.models.config import ModelsConfig

    extractor = load(EXTRACTORS, args.features)
    config = params.section(f"cache.{args.features}", extractor.Config, required=False)
    models, executor = params.section("models", ModelsConfig), params.section("executor", ExecutorConfig, required=False)
    if getattr(extractor, "TABLE", "pairs") == "sentences":
        llm = params.section("cache.llm", load(EXTRACTORS, "llm").Config)
        config = replace(config, llm=llm if loss.uses_answer_states else replace(llm, layers=()))
        table = read_table(_given(args, "sentences"))
        extractor.extract(table[table["keep"].astype(bool)], None, args.out, config, models, executor)
        return
    raw, pairs = _given(args, "raw"), read_table(_given(args, "pairs"))
    pairs = pairs[pairs["dropped"].isna()]
    if pairs.empty:
        raise ValueError(f"{args.pairs} holds no kept pair: loosen the thresholds of params.yaml: filter")
    images = ImageIndex(raw, set(pairs["id"])) if extractor.NEEDS_IMAGES else None
    extractor.extract(pairs, images, args.out, config, models, executor)


def _given(args: Namespace, option: str) -> Path:
    """Returns a path that the chosen features need. Raises ValueError if it is not given."""
    if (path := getattr(args, option)) is None:
        raise ValueError(f"the features {args.features} need --{option}: name it, as dvc.yaml does")
    return path
