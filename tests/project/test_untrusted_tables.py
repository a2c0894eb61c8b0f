"""Untrusted tables, lists and model cards, however corrupt, end in an error that names the file, and cannot claim more than they hold."""

import asyncio
import json
from pathlib import Path
from random import Random

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.hostile_server import bounded

from sur_adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.data.filtering.tables import read_frozen_splits
from sur_adapter.data.sources import diffusiondb, folder, urls
from sur_adapter.evaluation.human_votes import read_votes
from sur_adapter.generation.prompts import read_prompts
from sur_adapter.hub import read_metrics
from sur_adapter.io.shards import read_table
from sur_adapter.reporting.provenance import licence

DEEP = "[" * 200_000
SVG = '<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg onload="alert(1)">&b;</svg>\n'
JUNK = {"deep": DEEP, "deep objects": '{"id":' * 200_000, "digits": "1" * 5000, "svg": SVG, "one line": "x" * 2**22, "nul": "\0" * 99}


def corrupted(data: bytes, random: Random) -> bytes:
    """Changes a few bytes, half of them near the end, where Parquet has its metadata."""
    data = bytearray(data)
    for _ in range(random.choice([1, 2, 20])):
        data[random.randrange(len(data)) if random.random() < 0.5 else -1 - random.randrange(min(700, len(data)))] = random.randrange(256)
    return bytes(data)


def _listed(file: Path) -> list:
    """All rows of a list of URLs, without fetching them."""

    async def every():
        return [row async for row in urls.listing(file, {"url": "url", "complex_prompt": "prompt"}, None)]

    return urls.column_names(file) and asyncio.run(every())


def _folder(file: Path) -> list:
    (file.parent / "a.png").write_bytes(b"x")
    return list(folder.rows(folder.Config(str(file.parent))))


TABLES = {"any": read_table, "folder": _folder, "urls": _listed, "diffusiondb": lambda file: diffusiondb.select_rows(file, 5, None)}


@pytest.mark.parametrize("reader", TABLES)
def test_a_corrupt_parquet_is_read_or_ends_in_an_error_that_names_it(tmp_path, reader):
    random, file, errors = Random(1), tmp_path / "metadata.parquet", []
    rows = {"file_name": ["a.png", "b.png"], "prompt": ["aé", "b"], "url": ["http://a/", "http://b/"], "image_name": ["a", "b"]}
    rows |= {"part_id": [1, 1], "width": [1, 2], "height": [1, 2], "cfg": [7.0, 7.0], "image_nsfw": [0.1, 0.1], "prompt_nsfw": [0.1, 0.1]}
    pd.DataFrame(rows).to_parquet(file)
    intact = file.read_bytes()
    for _ in range(120):
        file.write_bytes(corrupted(intact, random))
        try:
            TABLES[reader](file)
        except (ValueError, FileNotFoundError) as error:
            errors.append(str(error))
    assert len(errors) > 50 and all("metadata.parquet" in text and ": " in text or "no image meets" in text for text in errors)


def test_pandas_metadata_of_a_table_is_ignored(tmp_path):
    table = pa.table({"file_name": ["a.png"], "prompt": ["a cat"]})
    for metadata in (b"{", b"[]", b'{"index_columns": [3], "columns": [{"name": 1}]}', DEEP.encode()):
        pq.write_table(table.replace_schema_metadata({b"pandas": metadata}), tmp_path / "metadata.parquet")
        assert list(read_table(tmp_path / "metadata.parquet").columns) == ["file_name", "prompt"]
        assert [row["complex_prompt"] for row in _folder(tmp_path / "metadata.parquet")] == ["a cat"]


def test_a_small_file_of_millions_of_rows_is_refused(tmp_path):
    names = pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array(bytes(10**6), pa.int8()), pa.array(["a.png"]))] * 3)
    pq.write_table(pa.table({"file_name": names}), tmp_path / "metadata.parquet")
    assert (tmp_path / "metadata.parquet").stat().st_size < 10**5
    with pytest.raises(ValueError, match=r"metadata.parquet cannot be read \(3000000 rows in \d+ bytes\)"):
        _folder(tmp_path / "metadata.parquet")


LISTS = {
    "prompts.jsonl": read_prompts,
    "evaluation_metadata.jsonl": read_prompts,
    "tifa.json": read_prompts,
    "PartiPrompts.tsv": read_prompts,
    "votes.csv": read_votes,
    "splits.csv": read_frozen_splits,
    "metrics.json": read_metrics,
    "config.json": lambda file: SURAdapter.from_pretrained(file.parent),
    "metadata.jsonl": _folder,
    "metadata.csv": _folder,
}
HEADS = {
    "evaluation_metadata.jsonl": '{"tag": "counting", "include": [], "prompt": "a"}\n',
    "tifa.json": '[{"id": "a", "caption": "b"}, ',
    "PartiPrompts.tsv": "Prompt\tCategory\tChallenge\n",
    "votes.csv": "pair,rater,vote\n",
    "splits.csv": "id,split\n",
    "metadata.csv": "file_name,prompt,other\n",
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_junk_ends_in_one_error_that_names_it(tmp_path, name, junk):
    (tmp_path / "model.safetensors").write_bytes(b"")
    for head in {"", HEADS.get(name, "")}:
        (tmp_path / name).write_text(head + JUNK[junk])
        try:
            LISTS[name](tmp_path / name)
        except ValueError as error:
            assert name in str(error) and "\n" not in str(error) and len(str(error)) < 1000
        else:
            assert name == "metadata.csv"  # rows without an image


@pytest.mark.parametrize(
    "changed",
    [
        {"width": 10**9, "heads": 1},
        {"depth": 10**9},
        {"teacher_width": 10**12},
        {"pooled_width": 10**9},
        {"width": -8},
        {"depth": "2"},
        {"heads": 2.0},
    ],
)
def test_an_adapter_with_huge_declared_sizes_allocates_no_memory(tmp_path, changed):
    SURAdapter(AdapterConfig(width=8, heads=2)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(ValueError, match="download or train"), bounded(8, 2):
        SURAdapter.from_pretrained(tmp_path)


def test_nested_yaml_aliases_of_a_model_card_are_not_expanded(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)), "license: *a11"]
    cards = {"\n".join(lines): "its model card names none", "{": "its model card cannot be read", "license: mit": "mit"}
    for head, expected in cards.items():
        (tmp_path / "README.md").write_text(f"---\n{head}\n---\n")
        with bounded(8, 2):
            assert licence(str(tmp_path)) == expected
