"""A picture without a prompt gets one that CLIP agrees with; nothing else about the rows changes."""

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from helpers.made_images import png
from helpers.small_models import encode, write_shards

from miniature.scenes import COLORS, make
from sur_adapter.data.prompts import interrogator
from sur_adapter.data.prompts.interrogator import Interrogator, lists
from sur_adapter.data.sources import folder
from sur_adapter.io.shards import read_table

CLIP = str(Path(__file__).parents[2] / "models/miniature/clip")
BLIP = str(Path(__file__).parents[2] / "models/miniature/blip")
THINGS = ["circle", "square", "star", "triangle", "heart", "moon"]
LABELS = {"mediums": ["flat color", "8k"], "flavors": [f"{i} {c} {t}s" for i in (2, 3, 4) for c in COLORS for t in THINGS]}


@pytest.fixture(scope="module")
def asked():
    return Interrogator(clip=CLIP, flavors=3, batch=4, labels=LABELS)


def picture(seed: int) -> bytes:
    return encode(make(seed, "counting").draw())


def rows(*prompts: str | None) -> list[dict]:
    some = [{"source": "x", "url": f"u{i}", "complex_prompt": p, "data": picture(i), "dropped": None} for i, p in enumerate(prompts)]
    return [row | {"complex_prompt": prompt} for row, prompt in zip(some, prompts, strict=True)]


def test_the_best_labels_of_each_list_are_taken_whatever_the_batch(asked):
    images = [make(i, "counting").draw() for i in range(9)]
    together = asked.prompts(images, list("abcdefghi"))
    assert together == [asked.prompts([image], ["a"])[0] for image in images]
    for image, prompt in zip(images, together, strict=True):
        agreement = asked.clip.images([image])[0] @ asked.clip.texts(LABELS["flavors"]).T
        best = [LABELS["flavors"][i] for i in np.argsort(-agreement, kind="stable")[:3]]
        assert prompt.split(", ")[1:] == best and prompt.split(", ")[0] in LABELS["mediums"]


def test_what_is_written_agrees_with_its_own_picture_more_than_with_others(asked):
    images = [make(i, "counting").draw() for i in range(12)]
    words = asked.clip.texts(asked.prompts(images, [str(i) for i in range(12)]))
    agreement = asked.clip.images(images) @ words.T
    assert np.diag(agreement).mean() > agreement[~np.eye(12, dtype=bool)].mean() + 0.2


def test_only_rows_with_a_picture_and_without_a_prompt_are_written_for_and_none_changes_its_place(asked):
    given = rows("found", None, None, "found too", None, None)
    given[2]["data"], given[4]["data"] = b"no picture", None
    given[4]["dropped"] = "http 404"
    got = list(asked.fill([dict(row) for row in given]))
    assert [row["url"] for row in got] == [row["url"] for row in given]
    assert [row.get("prompt_by") for row in got] == [None, "interrogator", None, None, None, "interrogator"]
    for before, after in zip(given, got, strict=True):
        written = {"complex_prompt": after["complex_prompt"], "prompt_by": "interrogator"} if "prompt_by" in after else {}
        assert after == before | written and (not written or after["complex_prompt"])


def test_labels_that_clip_would_not_read_to_the_end_are_left_out():
    many = Interrogator(clip=CLIP, flavors=40, labels=LABELS)
    (prompt,) = many.prompts([make(0).draw()], ["a"])
    tokens = many.clip.processor.tokenizer(prompt).input_ids
    length = many.clip.model.config.text_config.max_position_embeddings
    assert length - 6 < len(tokens) <= length


def test_a_caption_comes_first_where_a_captioner_is_named():
    told = Interrogator(clip=CLIP, caption=BLIP, flavors=1, labels=LABELS)
    image = make(3, "counting").draw()
    assert told.prompts([image], ["a"])[0].startswith(told.captioner.caption([image], ["a"])[0] + ", ")


def test_a_folder_is_interrogated_if_its_settings_say_so_and_its_rows_tell(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "b.png").write_bytes(png(text={"parameters": "found"}))
    assert [row["complex_prompt"] for row in folder.rows(path=str(tmp_path))] == [None, "found"]
    for name in ("first", "second"):
        write_shards(tmp_path / name, folder.rows(path=str(tmp_path), interrogate={"clip": CLIP, "labels": LABELS}))
    table = read_table(tmp_path / "first")
    assert list(table.prompt_by.notna()) == [True, False] and table.clean_prompt.notna().all()
    assert (tmp_path / "first/prompts-000000.parquet").read_bytes() == (tmp_path / "second/prompts-000000.parquet").read_bytes()
    with pytest.raises(ValueError, match="sources.folder.interrogate.clp is unknown .did you mean 'clip'"):
        list(folder.rows(path=str(tmp_path), interrogate={"clp": CLIP}))
    with pytest.raises(FileNotFoundError, match="sources.folder.interrogate.clip is 'nowhere'"):
        list(folder.rows(path=str(tmp_path), interrogate={"clip": "nowhere"}))


def test_the_lists_of_clip_interrogator_are_found_without_loading_it():
    found = lists()
    assert {name: len(labels) for name, labels in found.items()} == {"mediums": 95, "artists": 5265, "movements": 200, "flavors": 100969}
    assert all(name.startswith("by ") for name in found["artists"]) and "clip_interrogator" not in sys.modules


def test_without_the_lists_the_cure_is_named(monkeypatch):
    def nothing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(interrogator, "distribution", nothing)
    with pytest.raises(ValueError, match="sources.folder.interrogate needs the lists of clip-interrogator: `pip install"):
        lists()
