"""The first three verbs lose no row, and write the same bytes each time."""

import sys
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BlipProcessor, CLIPProcessor

from miniature.gallery import Gallery
from miniature.pretrain import blip, clip
from miniature.pretrain.world import texts
from miniature.scenes import COLORS, make
from stages.caption import caption
from stages.crawl import crawl, write_shards
from stages.score import score
from sur_adapter.captioner import Captioner
from sur_adapter.clip_score import Clip
from sur_adapter.pictures import NotAPicture, decode, kept
from sur_adapter.records import open_image, read_table, read_tar, record_id
from sur_adapter.scores.phash import phash

REAL = Path(__file__).parents[2] / "shared" / "realdata"
SOURCES = {"miniature": {"count": 150, "seed": 3}}


def digest(folder: Path) -> dict:
    return {f.relative_to(folder).as_posix(): sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def encode(image: Image.Image, kind="png", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A BLIP and a CLIP of the real classes, small and untrained."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    small = {"width": 32, "text_layers": 1, "vision_layers": 1}
    scenes = [make(i) for i in range(100)]
    words = blip.train_tokenizer(texts(scenes, "simple", 0), 24)
    blip.build(small | {"length": 24}, words).save_pretrained(folder / "blip")
    BlipProcessor(blip.image_processor(), words).save_pretrained(folder / "blip")
    words = clip.train_tokenizer(texts(scenes, "both", 0), 40)
    clip.build(small | {"length": 40}, words).save_pretrained(folder / "clip")
    CLIPProcessor(clip.image_processor(), words).save_pretrained(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    crawl(folder / "miniature", sources=SOURCES)
    return folder


# crawl


def test_rows_in_are_rows_kept_and_dropped_and_each_planted_fault_has_its_reason(raw):
    table, gallery = read_table(raw / "miniature"), Gallery(150, 3)
    assert len(table) == 150
    fault = [gallery.faults.get(gallery.id(i)) for i in range(150)]
    for planted, reason in (("truncated", "truncated"), ("html", "not an image"), ("duplicate", "duplicate")):
        assert set(table.dropped[[f == planted for f in fault]]) == {reason}
    assert table.dropped[[f is None or f.startswith("busy") for f in fault]].isna().all()
    assert list(table.url.str.extract(r"/(\d+)\.")[0].astype(int)) == [gallery.id(i) for i in range(150)]


def test_pictures_are_stored_as_received_and_named_by_their_bytes(raw):
    table, members = read_table(raw / "miniature"), list(read_tar(raw / "miniature"))
    assert [key for key, _, _ in members] == list(table.id[table.dropped.isna()])
    assert all(key == record_id(data) and ext in ("png", "jpg", "webp") for key, ext, data in members)
    assert {ext for _, ext, _ in members} == {"png", "jpg", "webp"}


def test_a_second_crawl_writes_the_same_bytes_and_a_shorter_one_leaves_no_shard_behind(raw, tmp_path, monkeypatch):
    crawl(tmp_path / "miniature", sources=SOURCES)
    assert digest(tmp_path / "miniature") == digest(raw / "miniature")
    monkeypatch.setattr(sys.modules["stages.crawl"], "SHARD", 50)
    crawl(tmp_path / "miniature", sources=SOURCES)
    assert len(digest(tmp_path / "miniature")) == 6
    assert list(read_tar(tmp_path / "miniature")) == list(read_tar(raw / "miniature"))
    assert read_table(tmp_path / "miniature").equals(read_table(raw / "miniature"))
    crawl(tmp_path / "miniature", sources={"miniature": {"count": 30}})
    assert sorted(digest(tmp_path / "miniature")) == ["images-000000.tar", "prompts-000000.parquet"]


def test_a_shard_of_nothing_but_refusals_is_still_a_shard(tmp_path):
    row = {"source": "x", "url": "http://x/1", "data": None, "dropped": "http 404", "width": 3}
    assert write_shards(tmp_path, [dict(row), dict(row) | {"data": b"<html>", "dropped": None}]) == 2
    assert list(read_table(tmp_path).dropped) == ["http 404", "not an image"] and list(read_tar(tmp_path)) == []
    assert read_table(tmp_path).id[0] == record_id(b"http://x/1")


def test_half_a_character_in_a_prompt_is_no_end_of_the_crawl(tmp_path):
    row = {"source": "x", "url": "http://x/\ud800", "complex_prompt": "a \ud83d cat 😀", "data": None, "dropped": "timeout"}
    assert write_shards(tmp_path, [row]) == 1
    assert list(read_table(tmp_path).complex_prompt) == ["a ? cat 😀"]


def test_what_decodes_decides_what_is_a_picture(monkeypatch):
    red = Image.new("RGB", (40, 30), "red")
    assert [decode(encode(red, kind)).format for kind in ("png", "jpeg", "webp")] == ["PNG", "JPEG", "WEBP"]
    frames = {"save_all": True, "append_images": [Image.new("RGB", (40, 30), "blue")]}
    wrong = {
        "not an image": [b"", b"<html>", encode(red, "gif"), encode(red, "bmp"), b"%!PS-Adobe-3.0"],
        "animated": [encode(red, "webp", **frames), encode(red, "png", **frames)],
        "truncated": [encode(make(1).draw(), kind)[:-200] for kind in ("png", "jpeg", "webp")] + [b"\x89PNG\r\n\x1a\n"],
    }
    for reason, files in wrong.items():
        for data in files:
            with pytest.raises(NotAPicture, match=reason):
                decode(data)
    monkeypatch.setattr(sys.modules["sur_adapter.pictures"], "MAX_PIXELS", 1000)
    with pytest.raises(NotAPicture, match="too many pixels"):
        decode(encode(red))


def test_an_empty_source_a_misspelt_one_and_a_misspelt_setting_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="source miniature gave no row at all: check sources.miniature"):
        crawl(tmp_path / "miniature", sources={"miniature": {"count": 0}})
    with pytest.raises(ValueError, match=r"sources has no 'minature' \(did you mean 'miniature'\?\)"):
        crawl(tmp_path / "minature", sources={})
    with pytest.raises(ValueError, match=r"sources.miniature.cuont is unknown \(did you mean 'count'\?\)"):
        crawl(tmp_path / "miniature", sources={"miniature": {"cuont": 3}})


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real pictures is not beside this checkout")
def test_real_pictures_are_crawled_and_broken_ones_have_their_reason(tmp_path):
    crawl(tmp_path / "folder", sources={"folder": {"path": str(REAL / "sd-parsers-fixtures")}})
    table = read_table(tmp_path / "folder").set_index("url")
    assert table.dropped["bad_empty_file.png"] == "not an image" and len(table) == 9
    assert Counter(table.dropped.fillna("kept")) == {"kept": 8, "not an image": 1}


# caption


def test_every_kept_picture_has_a_caption_in_the_order_of_raw_and_the_same_one_each_time(raw, models, tmp_path):
    for name, batch in (("a", 50), ("b", 50), ("c", 7)):
        caption(raw / "miniature", tmp_path / name, caption={"model": str(models / "blip"), "top_p": 0.9, "seed": 1, "batch": batch})
    table = read_table(raw / "miniature")
    assert list(read_table(tmp_path / "a").id) == list(table.id[table.dropped.isna()])
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    same = read_table(tmp_path / "a").simple_prompt == read_table(tmp_path / "c").simple_prompt
    assert same.mean() > 0.95, "the noise is the picture's own, not the batch's"


def test_a_caption_is_sampled_by_the_seed_or_the_likeliest(models):
    image, ids = [make(5).draw()] * 20, [str(i) for i in range(20)]
    sampled = [Captioner(str(models / "blip"), "cpu", 0.95, seed).caption(image, ids) for seed in (0, 1)]
    assert len(set(sampled[0])) > 5 and sampled[0] != sampled[1]
    assert len(set(Captioner(str(models / "blip"), "cpu").caption(image, ids))) == 1


def test_a_tar_that_was_cut_short_is_refused_in_a_sentence(raw, tmp_path):
    (folder := tmp_path / "x").mkdir()
    for file in (raw / "miniature").iterdir():
        (folder / file.name).write_bytes(file.read_bytes()[: 30_000 if file.suffix == ".tar" else None])
    with pytest.raises(ValueError, match="remove .* and run `dvc repro` again"):
        [list(images) for _, _, images in kept(folder)]
    with pytest.raises(FileNotFoundError, match="run the stage that writes it"):
        list(kept(tmp_path / "nothing"))


# score


def test_scores_stand_beside_every_kept_picture_and_are_the_same_each_time(raw, models, tmp_path):
    caption(raw / "miniature", tmp_path / "captions" / "miniature", caption={"model": str(models / "blip")})
    scores = {"clip_simple": {"model": str(models / "clip")}, "clip_complex": {"model": str(models / "clip"), "batch": 32}, "phash": {}}
    for again in ("a", "b"):
        for name in scores:
            score(raw, tmp_path / "captions", tmp_path / again / name, scores=scores, sources=SOURCES)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    rows = read_table(raw / "miniature").query("dropped.isna()")
    values = {name: read_table(tmp_path / "a" / name) for name in scores}
    assert all(list(v.id) == list(rows.id) for v in values.values())
    bare = rows.complex_prompt.isna().to_numpy()
    assert bare.any() and (values["clip_complex"].value.isna() == bare).all() and values["clip_simple"].value.notna().all()
    assert values["clip_complex"].value.dropna().between(0, 1).all()


def test_a_source_of_which_nothing_was_kept_still_has_its_tables(models, tmp_path):
    write_shards(tmp_path / "raw" / "s", [{"source": "s", "url": "u", "data": None, "dropped": "http 404"}])
    caption(tmp_path / "raw" / "s", tmp_path / "captions" / "s", caption={"model": str(models / "blip")})
    for name, rules in (("clip_simple", {"model": str(models / "clip")}), ("phash", {})):
        score(tmp_path / "raw", tmp_path / "captions", tmp_path / name, scores={name: rules}, sources={"s": {}})
        assert list(read_table(tmp_path / name)) == ["id", "value"] and len(read_table(tmp_path / name)) == 0
    assert list(read_table(tmp_path / "captions" / "s")) == ["id", "simple_prompt"]


def test_a_clip_score_is_the_cosine_and_never_below_nothing(models):
    model, image = Clip(str(models / "clip")), make(5).draw()
    cosine = float((model.images([image]) @ model.texts(["3 circles, red"]).T)[0, 0])
    assert model.score([image, image], ["3 circles, red", None], 1) == [pytest.approx(max(cosine, 0), abs=1e-6), None]
    assert model.score([image], ["word " * 500], 8)[0] is not None, "what is too long is cut"


def bits(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def test_a_hash_outlives_another_encoding_and_size_but_tells_colours_and_places_apart():
    for seed in range(40):
        scene = make(seed)
        image, first = scene.draw(), scene.things[0].color
        copy = open_image(encode(image.resize((80, 80), Image.Resampling.LANCZOS), "jpeg", quality=95, subsampling=0))
        assert bits(phash(image), phash(copy)) <= 8
        for other in set(COLORS) - {first}:
            things = tuple(replace(t, color=other) if t.color == first else t for t in scene.things)
            assert bits(phash(image), phash(replace(scene, things=things).draw())) > 6
        moved = tuple(replace(t, x=t.x + 5) for t in scene.things)
        assert bits(phash(image), phash(replace(scene, things=moved).draw())) > 6


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real pictures is not beside this checkout")
def test_a_hash_knows_a_real_picture_again():
    images = [open_image(f.read_bytes()) for f in sorted((REAL / "sur-adapter-samples" / "image").glob("*.png"))]
    images += [open_image(f.read_bytes()) for f in sorted((REAL / "invokeai").glob("*.png"))]
    hashes = [phash(i) for i in images]
    for image, h in zip(images, hashes, strict=True):
        small = open_image(
            encode(image.resize((image.width * 9 // 10, image.height * 9 // 10), Image.Resampling.LANCZOS), "jpeg", quality=85)
        )
        assert bits(h, phash(small)) <= 8
    assert min(bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 50
