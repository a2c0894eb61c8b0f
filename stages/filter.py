"""filter: selects the pairs to train on by what earlier stages measured, groups near-duplicates and assigns splits."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from sur_adapter.data.filtering.data_card import data_card
from sur_adapter.data.filtering.filtering import FilterConfig, nest_min_scores, select_pairs
from sur_adapter.data.filtering.funnel import count_rows, funnel_csv
from sur_adapter.data.filtering.tables import join_tables, read_frozen_splits, score_tables, write_pairs
from sur_adapter.io.atomic import atomic_write_text

if TYPE_CHECKING:
    from sur_adapter.config import Params


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--raw", type=Path, required=True, help="folder of the crawled sources")
    parser.add_argument("--captions", type=Path, required=True, help="folder of their captions")
    parser.add_argument("--scores", type=Path, required=True, help="folder of their scores")
    parser.add_argument("--splits", type=Path, help="CSV table of id and split that freezes rows to splits")
    parser.add_argument("--pairs", type=Path, required=True, help="table to write: all rows, with reason, group and split")
    parser.add_argument("--funnel", type=Path, required=True, help="JSON file to write: rows in, kept, and dropped by reason")
    parser.add_argument("--funnel-csv", type=Path, required=True, help="CSV file to write: the same, to plot")
    parser.add_argument("--data-card", type=Path, required=True, help="Markdown file to write: sources, licences, lengths, levels")


def run(args: Namespace, params: "Params") -> None:
    scores = score_tables(args.scores, params.raw("scores"))
    config = params.section("filter", FilterConfig, prepare=lambda values: nest_min_scores(values, scores))
    frozen_splits = read_frozen_splits(args.splits) if args.splits else None
    table = select_pairs(join_tables(args.raw, args.captions, scores, list(params.raw("sources"))), config, frozen_splits)
    counts = count_rows(table[["source", "dropped", "split"]])
    atomic_write_text(args.funnel, json.dumps(counts, indent=2) + "\n")
    atomic_write_text(args.funnel_csv, funnel_csv(counts))
    atomic_write_text(args.data_card, data_card(table, counts, list(config.allowed_nsfw_levels)))
    write_pairs(args.pairs, table, scores)
    if counts["kept"] == 0:
        reason, rows = max(counts["dropped"].items(), key=lambda item: item[1])
        raise ValueError(f"none of {counts['in']} rows is kept, {reason} dropped most ({rows}): loosen it in params.yaml, section filter")
