"""sentences: collects sentences without images, from which the adapter learns what the language model answers to them."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from sur_adapter.data.sentence_selection.held_out import read_held_out
from sur_adapter.data.sentence_selection.selection import (
    SENTENCES_SCHEMA,
    SentencesConfig,
    captions_near_held_out,
    collect,
    count_sentences,
    select,
)
from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.io.shards import write_table

if TYPE_CHECKING:
    from sur_adapter.config import Params


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--pairs", type=Path, required=True, help="Parquet file of the filtered pairs, for the source `captions`")
    parser.add_argument("--out", type=Path, required=True, help="table to write: all sentences, with split and reason")
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write: counts by source, kind, split and reason")


def run(args: Namespace, params: "Params") -> None:
    config = params.section("sentences", SentencesConfig, required=False)
    held_out = read_held_out(config.held_out) if config.sources else []
    table = select(collect(config, args.pairs), held_out, config)
    counts = count_sentences(table, len(held_out))
    if config.sources and config.min_edits:
        counts["captions"] = captions_near_held_out(config, args.pairs)
    write_table(args.out, table, SENTENCES_SCHEMA)
    atomic_write_text(args.report, json.dumps(counts, indent=2) + "\n")
    if len(table) and not counts["kept"]:
        raise ValueError(f"none of {counts['in']} sentences is kept ({counts['dropped']}): change params.yaml, section sentences")
