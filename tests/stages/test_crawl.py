"""The crawl loses no row, and writes the same bytes each time."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers.small_models import SOURCES, digest, encode, iter_shards, write_shards
from helpers.stages import crawl
from PIL import Image

from miniature.gallery import Gallery
from miniature.scenes import make
from miniature.words import read
from sur_adapter.io.images import InvalidImageError, decode
from sur_adapter.io.schema import record_id
from sur_adapter.io.shards import read_table, read_tar

REAL = Path(__file__).parents[3] / "shared" / "realdata"


def test_every_candidate_is_a_row_and_each_planted_fault_has_its_reason(raw):
    table, gallery = read_table(raw / "miniature"), Gallery(150, 3)
    assert len(table) == 150
    fault = [gallery.faults.get(gallery.id(i)) for i in range(150)]
    for planted, reason in (("truncated", "truncated"), ("html", "not an image"), ("duplicate", "duplicate")):
        assert set(table.dropped[[f == planted for f in fault]]) == {reason}
    assert table.dropped[[f is None or f.startswith("busy") for f in fault]].isna().all()
    assert list(table.url.str.extract(r"/(\d+)\.")[0].astype(int)) == [gallery.id(i) for i in range(150)]


def test_each_image_has_a_true_sentence_if_sentences_is_set(tmp_path):
    crawl(tmp_path / "miniature", sources={"miniature": {"count": 60, "seed": 3, "sentences": True}})
    table, gallery = read_table(tmp_path / "miniature"), Gallery(60, 3)
    captioned = table[table.simple_prompt.notna()]
    assert len(captioned) >= 55
    for row in captioned.itertuples():
        assert read(row.simple_prompt) == gallery.includes[int(row.url.rpartition("/")[2].split(".")[0])]
    crawl(tmp_path / "none" / "miniature", sources={"miniature": {"count": 60, "seed": 3}})
    assert read_table(tmp_path / "none" / "miniature").simple_prompt.isna().all()


def test_images_are_stored_as_received_and_named_by_their_bytes(raw):
    table, members = read_table(raw / "miniature"), list(read_tar(raw / "miniature"))
    assert [key for key, _, _ in members] == list(table.id[table.dropped.isna()])
    assert all(key == record_id(data) and ext in ("png", "jpg", "webp") for key, ext, data in members)
    assert {ext for _, ext, _ in members} == {"png", "jpg", "webp"}


def test_a_second_crawl_writes_the_same_bytes_and_a_shorter_one_leaves_no_old_shard(raw, tmp_path):
    crawl(tmp_path / "miniature", sources=SOURCES)
    assert digest(tmp_path / "miniature") == digest(raw / "miniature")
    crawl(tmp_path / "miniature", sources=SOURCES, rows_per_shard=50)
    assert len(digest(tmp_path / "miniature")) == 6
    assert list(read_tar(tmp_path / "miniature")) == list(read_tar(raw / "miniature"))
    assert read_table(tmp_path / "miniature").equals(read_table(raw / "miniature"))
    crawl(tmp_path / "miniature", sources={"miniature": {"count": 30}})
    assert sorted(digest(tmp_path / "miniature")) == ["images-000000.tar", "prompts-000000.parquet"]


def test_a_shard_of_dropped_rows_only_is_written(tmp_path):
    row = {"source": "x", "url": "http://x/1", "data": None, "dropped": "http 404", "width": 3}
    assert write_shards(tmp_path, [dict(row), dict(row) | {"data": b"<html>", "dropped": None}]) == 2
    assert list(read_table(tmp_path).dropped) == ["http 404", "not an image"] and list(read_tar(tmp_path)) == []
    assert read_table(tmp_path).id[0] == record_id(b"http://x/1")


def test_a_lone_surrogate_in_a_prompt_is_replaced(tmp_path):
    row = {"source": "x", "url": "http://x/\ud800", "complex_prompt": "a \ud83d cat 😀", "data": None, "dropped": "timeout"}
    assert write_shards(tmp_path, [row]) == 1
    assert list(read_table(tmp_path).complex_prompt) == ["a ? cat 😀"]


def test_decoding_decides_what_is_an_image(monkeypatch):
    red = Image.new("RGB", (40, 30), "red")
    assert [decode(encode(red, kind)).format for kind in ("png", "jpeg", "webp")] == ["PNG", "JPEG", "WEBP"]
    frames = {"save_all": True, "append_images": [Image.new("RGB", (40, 30), "blue")]}
    inputs = {
        "not an image": [b"", b"<html>", encode(red, "gif"), encode(red, "bmp"), b"%!PS-Adobe-3.0"],
        "animated": [encode(red, "webp", **frames), encode(red, "png", **frames)],
        "truncated": [encode(make(1).draw(), kind)[:-200] for kind in ("png", "jpeg", "webp")] + [b"\x89PNG\r\n\x1a\n"],
    }
    for reason, files in inputs.items():
        for data in files:
            with pytest.raises(InvalidImageError, match=reason):
                decode(data)
    monkeypatch.setattr(sys.modules["sur_adapter.io.images"], "MAX_PIXELS", 1000)
    with pytest.raises(InvalidImageError, match="too many pixels"):
        decode(encode(red))


def test_an_empty_source_a_misspelled_one_and_a_misspelled_setting_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="source miniature gave no row: check sources.miniature"):
        crawl(tmp_path / "miniature", sources={"miniature": {"count": 0}})
    with pytest.raises(ValueError, match=r"sources has no 'minature' \(did you mean 'miniature'\?\)"):
        crawl(tmp_path / "minature", sources={})
    with pytest.raises(ValueError, match=r"sources.miniature.cuont is unknown \(did you mean 'count'\?\)"):
        crawl(tmp_path / "miniature", sources={"miniature": {"cuont": 3}})


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real images is not beside this checkout")
def test_real_images_are_crawled_and_corrupt_ones_have_their_reason(tmp_path):
    crawl(tmp_path / "folder", sources={"folder": {"path": str(REAL / "sd-parsers-fixtures")}})
    table = read_table(tmp_path / "folder").set_index("url")
    assert table.dropped["bad_empty_file.png"] == "not an image" and len(table) == 9
    assert Counter(table.dropped.fillna("kept")) == {"kept": 8, "not an image": 1}


def test_a_truncated_tar_is_refused_in_one_sentence(raw, tmp_path):
    (folder := tmp_path / "x").mkdir()
    for file in (raw / "miniature").iterdir():
        (folder / file.name).write_bytes(file.read_bytes()[: 30_000 if file.suffix == ".tar" else None])
    with pytest.raises(ValueError, match="remove .* and run `dvc repro` again"):
        [list(images()) for _, _, images in iter_shards(folder)]
    with pytest.raises(FileNotFoundError, match="run the stage that writes it"):
        list(iter_shards(tmp_path / "nothing"))
