"""An image without a prompt gets one with a high CLIP similarity; nothing else about the rows changes."""

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from helpers.made_images import png
from helpers.small_models import encode, write_shards

from miniature.scenes import COLORS, make
from sur_adapter.config import from_dict
from sur_adapter.data.prompts import interrogator as module
from sur_adapter.data.prompts.interrogator import Interrogator, InterrogatorConfig, read_label_lists
from sur_adapter.data.sources import folder
from sur_adapter.io.shards import read_table

CLIP = str(Path(__file__).parents[2] / "models/miniature/clip")
BLIP = str(Path(__file__).parents[2] / "models/miniature/blip")
THINGS = ["circle", "square", "star", "triangle", "heart", "moon"]
LABELS = {"mediums": ["flat color", "8k"], "flavors": [f"{i} {c} {t}s" for i in (2, 3, 4) for c in COLORS for t in THINGS]}


@pytest.fixture(scope="module")
def interrogator():
    return Interrogator(InterrogatorConfig(CLIP, flavors=3, batch_size=4, labels=LABELS))


def image_bytes(seed: int) -> bytes:
    return encode(make(seed, "counting").draw())


def rows(*prompts: str | None) -> list[dict]:
    return [{"source": "x", "url": f"u{i}", "complex_prompt": p, "data": image_bytes(i), "dropped": None} for i, p in enumerate(prompts)]


def test_the_best_labels_of_each_list_are_chosen_at_any_batch_size(interrogator):
    images = [make(i, "counting").draw() for i in range(9)]
    together = interrogator.prompts(images, list("abcdefghi"))
    assert together == [interrogator.prompts([image], ["a"])[0] for image in images]
    for image, prompt in zip(images, together, strict=True):
        similarity = interrogator.clip.encode_images([image])[0] @ interrogator.clip.encode_texts(LABELS["flavors"]).T
        best = [LABELS["flavors"][i] for i in np.argsort(-similarity, kind="stable")[:3]]
        assert prompt.split(", ")[1:] == best and prompt.split(", ")[0] in LABELS["mediums"]


def test_a_written_prompt_is_more_similar_to_its_own_image_than_to_others(interrogator):
    images = [make(i, "counting").draw() for i in range(12)]
    text_embeds = interrogator.clip.encode_texts(interrogator.prompts(images, [str(i) for i in range(12)]))
    similarity = interrogator.clip.encode_images(images) @ text_embeds.T
    assert np.diag(similarity).mean() > similarity[~np.eye(12, dtype=bool)].mean() + 0.2


def test_only_rows_with_an_image_and_without_a_prompt_change_and_the_order_stays(interrogator):
    source_rows = rows("a prompt", None, None, "another prompt", None, None)
    source_rows[2]["data"], source_rows[4]["data"] = b"no image", None
    source_rows[4]["dropped"] = "http 404"
    filled = list(interrogator.fill([dict(row) for row in source_rows]))
    assert [row["url"] for row in filled] == [row["url"] for row in source_rows]
    assert [row.get("prompt_by") for row in filled] == [None, "interrogator", None, None, None, "interrogator"]
    for before, after in zip(source_rows, filled, strict=True):
        written = {"complex_prompt": after["complex_prompt"], "prompt_by": "interrogator"} if "prompt_by" in after else {}
        assert after == before | written and (not written or after["complex_prompt"])


def test_labels_beyond_the_text_length_of_clip_are_left_out():
    many = Interrogator(InterrogatorConfig(CLIP, flavors=40, labels=LABELS))
    (prompt,) = many.prompts([make(0).draw()], ["a"])
    tokens = many.clip.processor.tokenizer(prompt).input_ids
    length = many.clip.model.config.text_config.max_position_embeddings
    assert length - 6 < len(tokens) <= length


def test_a_caption_comes_first_if_a_captioner_is_configured():
    interrogator = Interrogator(InterrogatorConfig(CLIP, caption=BLIP, flavors=1, labels=LABELS))
    image = make(3, "counting").draw()
    assert interrogator.prompts([image], ["a"])[0].startswith(interrogator.captioner.caption([image], ["a"])[0][0] + ", ")


def test_a_folder_is_interrogated_if_configured_and_prompt_by_is_set(tmp_path):
    (tmp_path / "a.png").write_bytes(image_bytes(1))
    (tmp_path / "b.png").write_bytes(png(text={"parameters": "a prompt"}))
    assert [row["complex_prompt"] for row in folder.rows(folder.Config(str(tmp_path)))] == [None, "a prompt"]
    config = from_dict(folder.Config, {"path": str(tmp_path), "interrogate": {"clip": CLIP, "labels": LABELS}}, "sources.folder")
    for name in ("first", "second"):
        write_shards(tmp_path / name, folder.rows(config))
    table = read_table(tmp_path / "first")
    assert list(table.prompt_by.notna()) == [True, False] and table.clean_prompt.notna().all()
    assert (tmp_path / "first/prompts-000000.parquet").read_bytes() == (tmp_path / "second/prompts-000000.parquet").read_bytes()
    with pytest.raises(ValueError, match="sources.folder.interrogate.clp is unknown .did you mean 'clip'"):
        from_dict(folder.Config, {"path": str(tmp_path), "interrogate": {"clp": CLIP}}, "sources.folder")
    with pytest.raises(ValueError, match="sources.folder.interrogate.flavors is 0: give at least 1"):
        from_dict(folder.Config, {"path": str(tmp_path), "interrogate": {"clip": CLIP, "flavors": 0}}, "sources.folder")
    with pytest.raises(FileNotFoundError, match="sources.folder.interrogate.clip is 'nowhere'"):
        list(folder.rows(folder.Config(str(tmp_path), InterrogatorConfig("nowhere"))))


def test_the_lists_of_clip_interrogator_are_read_without_importing_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "clip_interrogator", raising=False)  # of another test
    lists = read_label_lists()
    assert {name: len(labels) for name, labels in lists.items()} == {"mediums": 95, "artists": 5265, "movements": 200, "flavors": 100969}
    assert all(name.startswith("by ") for name in lists["artists"]) and "clip_interrogator" not in sys.modules


def test_without_the_lists_the_error_says_what_to_install(monkeypatch):
    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", not_installed)
    with pytest.raises(ValueError, match="sources.folder.interrogate needs the lists of clip-interrogator: `pip install"):
        read_label_lists()
