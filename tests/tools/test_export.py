"""The kept pairs are exported in SURD's layout, and the data card says where they come from."""

import json
import re

import pandas as pd
import pytest
from helpers.repository import ROOT
from helpers.small_models import encode, write_shards
from helpers.stages import crawl

from miniature.scenes import make
from sur_adapter.data.filtering.data_card import data_card
from sur_adapter.data.filtering.funnel import count_rows
from sur_adapter.data.sources import folder as folder_source
from sur_adapter.io.schema import record_id
from sur_adapter.io.shards import read_table, read_tar
from sur_adapter.tools.export import export


@pytest.fixture
def pairs(tmp_path):
    """Six crawled images, one of them dropped."""
    data = [encode(make(i).draw(), "png" if i % 2 else "jpeg") for i in range(6)]
    rows = [{"source": "s", "url": f"u{i}", "complex_prompt": f"prompt, {i}", "data": d, "dropped": None} for i, d in enumerate(data)]
    write_shards(tmp_path / "raw" / "s", rows)
    table = read_table(tmp_path / "raw" / "s").assign(simple_prompt=[f"sentence ä {i}" for i in range(6)], split=["train", "test"] * 3)
    table.loc[3, "dropped"] = "nsfw"
    return table


def test_an_export_is_read_back_by_the_sources_that_read_surd(pairs, tmp_path):
    assert export(pairs, tmp_path / "raw", tmp_path / "out") == 5
    kept = pairs[pairs.dropped.isna()].set_index("id")
    exported = [row for split in ("train", "test") for row in folder_source.rows(folder_source.Config(str(tmp_path / "out" / split)))]
    assert {record_id(row["data"]): row["complex_prompt"] for row in exported} == dict(kept.complex_prompt)
    lines = [json.loads(line) for line in (tmp_path / "out/train/metadata.jsonl").read_text("utf-8").splitlines()]
    assert [set(line) for line in lines] == [{"file_name", "text", "prompt"}] * 3
    assert all((tmp_path / "out/train" / line["file_name"]).is_file() for line in lines) and lines[1]["text"] == "sentence ä 2"
    crawl(tmp_path / "again" / "folder", sources={"folder": {"path": str(tmp_path / "out")}})
    assert sorted(read_tar(tmp_path / "again" / "folder")) == sorted(m for m in read_tar(tmp_path / "raw" / "s") if m[0] in kept.index)


def test_an_export_overwrites_nothing_and_refuses_a_missing_image(pairs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty: name a new folder"):
        export(pairs, tmp_path / "raw", tmp_path / "out")
    with_unknown = pd.concat([pairs, pairs.tail(1).assign(id="f" * 16)])
    with pytest.raises(ValueError, match="1 images, ffffffffffffffff the first, are in no tar under .*: run `dvc repro`"):
        export(with_unknown, tmp_path / "raw", tmp_path / "new")


def test_the_data_card_counts_every_row_and_escapes_text_from_outside(pairs):
    pairs = pairs.assign(licence=["CC0 | <script>", "CC0 | <script>", None, None, None, None], nsfw_level=["None"] * 3 + ["X"] + [None] * 2)
    text = data_card(pairs, count_rows(pairs), ["None"])
    assert "6 rows in, 5 pairs kept: 3 train, 0 validation, 2 test." in text
    assert r"| s | CC0 \| &lt;script&gt; | 2 | 2 |" in text and "| s | not specified | 4 | 3 |" in text and "| nsfw | 1 |" in text
    assert "| X | 1 | 0 |" in text and "| not specified | 2 | 2 |" in text and "| complex_prompt | 2 | 2 | 2 | 2 |" in text


def test_the_funnel_and_the_card_of_the_miniature_are_of_one_run():
    funnel = json.loads((ROOT / "reports/funnel.json").read_text())
    steps = pd.read_csv(ROOT / "reports/funnel.csv", index_col="step").rows
    assert steps["in"] == funnel["in"] == steps.drop("in").sum() and dict(steps.drop(["in", "kept"])) == funnel["dropped"]
    (totals,) = re.findall(r"^([\d,]+) rows .*in, ([\d,]+) pairs kept", (ROOT / "reports/data.md").read_text(), re.M)
    assert totals == (f"{funnel['in']:,}", f"{funnel['kept']:,}")
