"""A removed sample is not in the raw shards, and no later crawl adds it again."""

from pathlib import Path

import pandas as pd
import pytest
from helpers.hostile_server import Site, item, page
from helpers.made_images import png
from helpers.repository import copy, ran, run
from helpers.small_models import iter_shards, write_shards
from helpers.stages import crawl

from sur_adapter.data.crawl.removal import apply_removals, forget, read_forgotten
from sur_adapter.io.schema import RAW_SCHEMA, record_id
from sur_adapter.io.shards import read_table, read_tar
from sur_adapter.io.work_cache import WorkCache

SOURCES = {"miniature": {"count": 80, "seed": 3}}


def files(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def duplicates(table):
    """The rows of an image that was found at two URLs."""
    return table[(table.id == table.id[table.dropped == "duplicate"].iloc[0])]


def test_all_copies_of_a_removed_sample_are_removed_and_a_new_crawl_does_not_add_them_again(tmp_path):
    crawl(raw := tmp_path / "raw" / "miniature", sources=SOURCES)
    before, removals = read_table(raw), tmp_path / "forgotten.txt"
    copies, bytes_before = duplicates(before), {key: data for key, _, data in read_tar(raw)}
    assert forget(copies.url.iloc[-1], raw.parent, removals) == len(copies) >= 2, "removed by the URL of a copy"
    after = read_table(raw)
    removed = after[after.dropped == "forgotten"]
    assert list(removed.index) == list(copies.index) and len(after) == len(before)
    assert removed[["url", "complex_prompt", "negative_prompt"]].isna().all(axis=None) and not set(removed.id) & set(copies.id)
    assert {key: data for key, _, data in read_tar(raw)} == {k: d for k, d in bytes_before.items() if k not in set(copies.id)}
    pd.testing.assert_frame_equal(after.drop(index=removed.index), before.drop(index=removed.index), check_dtype=False)
    assert sum(len(list(images())) for _, _, images in iter_shards(raw)) > 50
    content = "".join(f.read_bytes().decode("latin-1") for f in [*raw.glob("*.tar"), removals])
    assert not any(word in content for word in (*copies.id, *copies.url)), "neither ids nor URLs are stored"
    crawl(tmp_path / "again" / "miniature", removals, sources=SOURCES)
    assert files(tmp_path / "again" / "miniature") == files(raw)


def test_an_image_is_removed_by_the_id_of_any_of_its_captions(tmp_path):
    rows = [{"source": "s", "url": f"u{i}", "data": png(color), "dropped": None} for i, color in enumerate(("red", "blue"))]
    write_shards(raw := tmp_path / "raw" / "s", apply_removals(rows, set()))
    image = read_table(raw).id[1]
    assert forget(f"{image}-2", raw.parent, tmp_path / "forgotten.txt") == 1
    assert [key for key, _, _ in read_tar(raw)] == [read_table(raw).id[0]] and read_table(raw).dropped[1] == "forgotten"


def test_a_removed_row_has_its_id_its_source_and_the_reason_only(tmp_path):
    values = {f.name: 8 if f.type == "int32" else f"a {f.name}" for f in RAW_SCHEMA if f.name != "id"} | {"source": "s", "dropped": None}
    others = [values | {"url": f"u{i}", "data": png(color)} for i, color in enumerate(("red", "blue"))]
    write_shards(raw := tmp_path / "raw" / "s", apply_removals([dict(row) for row in others], set()))
    assert read_table(raw).drop(columns="dropped").notna().all(axis=None), "every column has a value"
    assert forget("u0", raw.parent, removals := tmp_path / "forgotten.txt") == 1
    rows = read_table(raw)
    assert list(rows) == RAW_SCHEMA.names and rows.iloc[1].drop("dropped").notna().all()
    assert set(rows.columns[rows.iloc[0].notna()]) == {"id", "source", "dropped"}
    assert list(read_tar(raw)) == [(record_id(others[1]["data"]), "png", others[1]["data"])]
    write_shards(tmp_path / "again", apply_removals([dict(row) for row in others], read_forgotten(removals)))
    assert files(tmp_path / "again") == files(raw), "a crawl clears the same columns"


def test_all_images_of_a_user_are_removed_and_not_requested_again_and_no_name_is_stored(tmp_path):
    names = ["alice", "bob", "alice", None]

    def answer(path, _):
        if not path.startswith("/api"):
            return 200, {}, png(text={"path": path})
        return page([item(f"{site.url}/{i}") | {"username": name} for i, name in enumerate(names)])

    with Site(answer) as site:
        sources = {"civitai": {"url": site.url, "limit": 9, "rate": None, "private": [site.host]}}
        crawl(raw := tmp_path / "raw" / "civitai", sources=sources)
        assert read_table(raw).user.nunique() == 2
        assert forget("alice", raw.parent, removals := tmp_path / "forgotten.txt") == 2
        assert list(read_table(raw).dropped.fillna("kept")) == ["forgotten", "kept", "forgotten", "kept"]
        site.requests.clear()
        names.append("alice")
        crawl(again := tmp_path / "again" / "civitai", removals, sources=sources)
        assert sorted(path for path, _ in site.requests if "api" not in path and "robots" not in path) == ["/1", "/3"]
    assert list(read_table(again).dropped.fillna("kept")) == ["forgotten", "kept", "forgotten", "kept", "forgotten"]
    assert not any(b"alice" in f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())


def test_an_unknown_sample_is_an_error_and_a_second_call_changes_nothing(tmp_path):
    crawl(raw := tmp_path / "raw" / "miniature", sources=SOURCES)
    removals, key = tmp_path / "forgotten.txt", read_table(raw).query("dropped.isna()").id.iloc[0]
    before = files(raw)
    with pytest.raises(ValueError, match="no row under .* has the id, url or user 'unknown': look it up"):
        forget("unknown", raw.parent, removals)
    assert files(raw) == before and read_forgotten(removals) == set()
    assert forget(key, raw.parent, removals) == 1
    with pytest.raises(ValueError, match="no row under"):
        forget(key, raw.parent, removals)
    assert len(read_forgotten(removals)) == 2 and list(read_table(raw).dropped).count("forgotten") == 1


def test_dvc_commits_the_rewritten_shards_and_reruns_all_later_stages(tmp_path):
    home = copy(tmp_path, "miniature", {"sources": {"miniature": {"count": 60}}, "executor": {"kind": "inline"}})
    run(home, "dvc", "init", "-q", "-f")
    run(home, "dvc", "repro", "score")
    key = read_table(home / "data/scores/phash").id[0]
    with pytest.raises(KeyError), WorkCache("crawl-civitai", a=1) as work, WorkCache("cache", features="vae") as cached:
        work.set("row-000000000", b"1an image")
        cached.set("train-000000.new", b"its latents")
        raise KeyError
    assert "no row under" in run(home, "python", "-m", "stages", "forget", "unknown", fails=True)
    assert work.get("row-000000000") and cached.get("train-000000.new"), "an unknown name removes no unfinished work"
    output = run(home, "python", "-m", "stages", "forget", key)
    assert not work.folder.exists() and not cached.folder.exists()
    assert "removed 1 rows" in output and "dvc commit -f crawl && dvc repro" in output
    run(home, "dvc", "commit", "-f", "crawl")
    raw = files(home / "data/raw/miniature")
    assert ran(run(home, "dvc", "repro", "score")) == {"caption@miniature", "score"}
    assert key not in set(read_table(home / "data/scores/phash").id) | set(read_table(home / "data/captions/miniature").id)
    run(home, "dvc", "repro", "--force", "--no-run-cache", "--single-item", "crawl@miniature")
    assert files(home / "data/raw/miniature") == raw, "a crawl writes the same bytes"
