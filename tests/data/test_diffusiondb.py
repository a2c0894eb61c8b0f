"""DiffusionDB in its real layout: only selected parts are read, and each selected row has its image or a reason."""

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.dataset as ds
import pytest
from helpers.diffusiondb import table, write
from helpers.made_images import png
from hypothesis import given, settings
from hypothesis import strategies as st

from sur_adapter.data.sources.diffusiondb import Config, hub, level, read, rows


@pytest.fixture
def home(tmp_path):
    return write(tmp_path / "db", table())


def names(selected) -> list[int]:
    return [int(row["url"].rpartition("/")[2].split(".")[0], 16) for row in selected]


def test_rows_come_part_by_part_with_their_images_up_to_the_limit(home):
    result = list(rows(Config(path=str(home), limit=100)))
    assert names(result) == [2, 5, 8, 11, 1, 4, 7, 10, 0, 3, 6, 9]
    assert [row["data"] for row in result[4:6]] == [png((0, 2, 0)), png((1, 2, 0))] and not any(row["dropped"] for row in result)
    assert result[0]["url"] == "hf://datasets/poloclub/diffusiondb/images/part-000001.zip/00000002.png"
    assert result[0]["complex_prompt"] == "a (cat:1.2) no 2" and result[0]["licence"] == "CC0-1.0" and result[0]["width"] == 768
    assert names(rows(Config(path=str(home), limit=5))) == names(result)[:5]


def test_parts_beyond_the_limit_are_not_fetched(home):
    requested = []

    def locate(name):
        requested.append(name)
        return home / name

    assert len(list(read(locate, Config(limit=4, image_nsfw=None, prompt_nsfw=None)))) == 4
    assert requested == ["metadata.parquet", "images/part-000001.zip"]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"parts": [3]}, [0, 3, 6, 9]),
        ({"max_width": 512}, [5, 11, 1, 7, 3, 9]),
        ({"min_width": 513, "min_cfg": 11}, [8, 4, 10, 6]),
        ({"max_cfg": 8.0}, [1, 0]),
        ({"max_height": 511}, None),
        ({"min_height": 513}, None),
        ({"parts": [7]}, None),
    ],
)
def test_only_images_that_meet_the_conditions_are_rows(home, conditions, expected):
    if expected is None:
        with pytest.raises(ValueError, match="no image meets the conditions: loosen them"):
            list(rows(Config(path=str(home), limit=100, **conditions)))
    else:
        assert names(rows(Config(path=str(home), limit=100, **conditions))) == expected


def test_likely_nsfw_rows_are_excluded_by_default_and_blurred_ones_have_their_own_level(tmp_path):
    metadata = table(6).assign(part_id=1, image_nsfw=[0.1, 0.3, 0.6, 0.99, 2.0, float("nan")], prompt_nsfw=[0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    home = write(tmp_path / "db", metadata)
    assert names(rows(Config(path=str(home), limit=9))) == [0]
    assert names(rows(Config(path=str(home), limit=9, image_nsfw=0.5))) == [0, 1]
    result = rows(Config(path=str(home), limit=9, image_nsfw=None, prompt_nsfw=None))
    assert [row["nsfw"] for row in result] == ["None", "Soft", "Mature", "X", "Blurred", "Unknown"]
    with pytest.raises(ValueError, match="no image meets"):
        list(rows(Config(path=str(home), limit=9, image_nsfw=None, prompt_nsfw=0.1)))
    assert level(0.1, 0.9) == "X" and level(None, 0.1) == level(0.1, None) == "Unknown"


def test_a_missing_or_corrupt_part_gives_its_own_rows_a_reason(home):
    (home / "images/part-000001.zip").unlink()
    (home / "images/part-000002.zip").write_bytes(b"PK\3\4 no zip at all")
    result = list(rows(Config(path=str(home), limit=100)))
    assert [row["dropped"] for row in result] == ["part missing"] * 4 + ["part broken"] * 4 + [None] * 4
    assert [row["data"] is None for row in result] == [True] * 8 + [False] * 4


def test_a_missing_corrupt_or_too_large_member_gives_one_row_a_reason(home):
    part = home / "images/part-000001.zip"
    with zipfile.ZipFile(part) as archive:
        images = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("00000002.png", bytes(10**7))
        archive.writestr("00000005.png", images["00000005.png"], compress_type=zipfile.ZIP_STORED)
        archive.writestr("0000000b.png", images["0000000b.png"])
    intact = part.read_bytes()
    part.write_bytes(intact.replace(images["00000005.png"], images["00000005.png"][::-1]))
    result = list(rows(Config(path=str(home), limit=4, max_bytes=10**6)))
    assert [row["dropped"] for row in result] == ["too many bytes", "file broken", "file missing", None]


@settings(derandomize=True, deadline=None, max_examples=25, database=None)
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=12), st.booleans())
def test_a_zip_corrupt_at_any_byte_loses_no_row(position, junk, cut):
    with TemporaryDirectory() as folder:
        home = write(Path(folder) / "db", table(9))
        part = home / "images/part-000001.zip"
        intact = part.read_bytes()
        position %= len(intact)
        part.write_bytes(intact[:position] if cut else intact[:position] + junk + intact[position + len(junk) :])
        result = list(rows(Config(path=str(home), limit=9)))
    assert len(result) == 9 and all((row["data"] is None) == (row["dropped"] is not None) for row in result)
    assert not any(row["dropped"] for row in result[3:])


def test_a_member_with_a_path_out_of_its_folder_is_read_and_nothing_is_written(home, tmp_path):
    part = home / "images/part-000001.zip"
    with zipfile.ZipFile(part, "w") as archive:
        archive.writestr("../../00000002.png", png("blue"))
    before = sorted(tmp_path.rglob("*"))
    result = list(rows(Config(path=str(home), limit=1)))
    assert result[0]["data"] == png("blue") and sorted(tmp_path.rglob("*")) == before


def test_a_file_outside_the_zips_that_the_table_names_is_not_read(tmp_path):
    (tmp_path / "secret.png").write_bytes(png())
    home = write(tmp_path / "db", table(3).assign(part_id=1))
    metadata = table(3).assign(part_id=1, image_name=["../secret.png", str(tmp_path / "secret.png"), "00000002.png"])
    metadata.to_parquet(home / "metadata.parquet")
    assert [row["dropped"] for row in rows(Config(path=str(home), limit=3))] == ["file missing", "file missing", None]


def test_the_large_set_is_read_from_two_folders_and_its_own_table(tmp_path):
    metadata = table(4).assign(part_id=[10_001, 10_000, 1, 14_000])
    requested = []
    metadata.to_parquet(tmp_path / "metadata-large.parquet")

    def download(repository, name, repo_type, revision):
        requested.append(name)
        assert (repository, repo_type, revision) == ("poloclub/diffusiondb", "dataset", "abc")
        if name.endswith(".zip"):
            raise OSError("no such entry")
        return str(tmp_path / name)

    result = list(read(hub("abc", download), Config(limit=9, large=True, max_bytes=1, image_nsfw=None, prompt_nsfw=None)))
    assert requested == [
        "metadata-large.parquet",
        *("diffusiondb-large-part-1/part-000001.zip", "diffusiondb-large-part-1/part-010000.zip"),
        *("diffusiondb-large-part-2/part-010001.zip", "diffusiondb-large-part-2/part-014000.zip"),
    ]
    assert {row["dropped"] for row in result} == {"part missing"} and len(result) == 4


def test_a_folder_that_is_no_copy_of_diffusiondb_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="sources.diffusiondb.path: .* is not a folder: name a copy"):
        list(rows(Config(path=str(tmp_path / "nope"), limit=1)))
    with pytest.raises(FileNotFoundError, match="metadata.parquet is missing: name a copy"):
        list(rows(Config(path=str(tmp_path), limit=1)))
    table().drop(columns="width").to_parquet(tmp_path / "metadata.parquet")
    with pytest.raises(ValueError, match="has no column width: use the current table"):
        list(rows(Config(path=str(tmp_path), limit=1)))
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="metadata.parquet cannot be read .*: fetch it again"):
        list(rows(Config(path=str(tmp_path), limit=1)))
    with pytest.raises(FileNotFoundError, match="metadata.parquet of poloclub/diffusiondb cannot be fetched"):
        list(rows(Config(limit=1)))  # the tests use no network


def test_the_filter_is_pushed_down_to_the_row_groups(home):
    parts = Config(limit=1, parts=(9,), image_nsfw=None, prompt_nsfw=None).condition()
    (fragment,) = ds.dataset(home / "metadata.parquet").get_fragments(filter=parts)
    assert fragment.split_by_row_group(parts) == []
    assert len(fragment.split_by_row_group(Config(limit=1, min_cfg=17.5, image_nsfw=None, prompt_nsfw=None).condition())) == 1
