"""Sources folder and surd: every image and every line of metadata is a row."""

import json
from pathlib import Path

import pytest
from helpers.made_images import png
from helpers.small_models import write_shards

from sur_adapter.data.sources import folder, surd
from sur_adapter.io.shards import read_table

REAL = Path(__file__).parents[3] / "shared" / "realdata"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real images is not beside this checkout")


# source folder


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_prompts_are_read_from_metadata_of_any_format_and_a_missing_image_stays_a_row(tmp_path, kind):
    import pandas as pd

    (tmp_path / "image").mkdir()
    for i, color in enumerate(("red", "blue", "green")):
        (tmp_path / "image" / f"{i}.png").write_bytes(png(color))
    table = pd.DataFrame({"file_name": ["0", "image/1.png", "gone"], "text": ["simple"] * 3, "prompt": ["p0", "p1", "p2"]})
    if kind == "jsonl":
        table.to_json(tmp_path / "metadata.jsonl", orient="records", lines=True)
    else:
        getattr(table, f"to_{kind}")(tmp_path / f"metadata.{kind}", index=False)
    rows = [(r["url"], r["complex_prompt"], r["dropped"]) for r in folder.rows(folder.Config(str(tmp_path)))]
    assert rows == [("image/0.png", "p0", None), ("image/1.png", "p1", None), ("image/2.png", None, None), ("gone", "p2", "file missing")]


def test_a_text_file_beside_an_image_takes_precedence_over_the_embedded_prompt(tmp_path):
    (tmp_path / "a.png").write_bytes(png(text={"parameters": "inside"}))
    (tmp_path / "b.png").write_bytes(png(text={"parameters": "inside"}))
    (tmp_path / "a.txt").write_text("beside\nNegative prompt: ugly\nSteps: 20, Size: 8x8")
    rows = list(folder.rows(folder.Config(str(tmp_path))))
    assert [(r["complex_prompt"], r["negative_prompt"]) for r in rows] == [("beside", "ugly"), ("inside", None)]


def test_a_folder_that_is_missing_empty_or_has_invalid_metadata_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder: name one that holds images"):
        list(folder.rows(folder.Config(str(tmp_path / "nope"))))
    with pytest.raises(ValueError, match="holds no image: put files ending in .png"):
        list(folder.rows(folder.Config(str(tmp_path))))
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "metadata.csv").write_text("name,prompt\na.png,x\n")
    with pytest.raises(ValueError, match="has no column file_name, but name, prompt"):
        list(folder.rows(folder.Config(str(tmp_path))))
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"')
    with pytest.raises(ValueError, match="metadata.jsonl cannot be read .* repair or remove it"):
        list(folder.rows(folder.Config(str(tmp_path))))


@real
def test_file_names_without_folder_or_extension_in_the_published_sample_of_surd_are_matched():
    rows = list(folder.rows(folder.Config(str(REAL / "sur-adapter-samples"))))
    metadata = [json.loads(line) for line in (REAL / "sur-adapter-samples" / "metadata.jsonl").read_text().splitlines()]
    assert {Path(r["url"]).stem: r["complex_prompt"] for r in rows} == {t["file_name"]: t["prompt"] for t in metadata}
    assert not any(r["dropped"] for r in rows)


# source surd


def surd_like(home: Path, *names: str) -> list[dict]:
    rows = [{"file_name": name, "text": f"a simple {i}", "prompt": f"complex, {i}"} for i, name in enumerate(names)]
    (home / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return rows


def test_surd_rows_have_both_prompts_for_file_names_with_and_without_extension(tmp_path):
    (tmp_path / "image").mkdir()
    for name in "abc":
        (tmp_path / "image" / f"{name}.png").write_bytes(png(text={"parameters": "inside"}))
    metadata = surd_like(tmp_path, "a", "b.png", "image/c.png", "gone")
    rows = list(surd.rows(surd.Config(str(tmp_path))))
    assert [(r["complex_prompt"], r["simple_prompt"], r["dropped"]) for r in rows] == [
        (t["prompt"], t["text"], reason) for t, reason in zip(metadata, (None, None, None, "file missing"), strict=True)
    ]
    assert {r["source"] for r in rows} == {"surd"} and all(r["licence"] for r in rows)
    assert len(list(surd.rows(surd.Config(str(tmp_path), limit=2)))) == 2


def test_a_file_name_that_matches_two_images_is_dropped_with_a_reason(tmp_path):
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "a.png").write_bytes(png())
    surd_like(tmp_path, "a")
    assert [(r["url"], r["dropped"]) for r in surd.rows(surd.Config(str(tmp_path)))][2:] == [("a", "more than one file")]


def test_a_copy_of_surd_without_metadata_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="sources.surd.path: .* is not a folder"):
        list(surd.rows(surd.Config(str(tmp_path / "nope"))))
    with pytest.raises(FileNotFoundError, match="sources.surd.path: .* holds no metadata.jsonl: name the folder"):
        list(surd.rows(surd.Config(str(tmp_path))))
    surd_like(tmp_path, "a")
    with pytest.raises(ValueError, match="sources.surd.path: .* holds no image"):
        list(surd.rows(surd.Config(str(tmp_path))))


def test_the_simple_prompt_of_surd_is_in_the_table_of_the_crawl(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    surd_like(tmp_path, "a")
    write_shards(tmp_path / "raw", surd.rows(surd.Config(str(tmp_path))))
    assert list(read_table(tmp_path / "raw").simple_prompt) == ["a simple 0"]


@real
def test_the_published_sample_of_surd_is_read_with_both_prompts():
    metadata = [json.loads(line) for line in (REAL / "sur-adapter-samples" / "metadata.jsonl").read_text().splitlines()]
    rows = {Path(r["url"]).stem: r for r in surd.rows(surd.Config(str(REAL / "sur-adapter-samples")))}
    assert {t["file_name"]: (t["prompt"], t["text"]) for t in metadata} == {
        k: (r["complex_prompt"], r["simple_prompt"]) for k, r in rows.items()
    }
