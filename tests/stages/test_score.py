"""Every picture kept has its scores, the same ones each time, and one look of CLIP serves all that need it."""

from dataclasses import replace
from pathlib import Path
from threading import active_count
from time import sleep

import numpy as np
import pytest
import torch
from helpers.small_models import SOURCES, digest, encode, write_shards
from helpers.stages import caption
from PIL import Image
from safetensors.numpy import save_file
from transformers import AutoConfig, ViTConfig, ViTForImageClassification, ViTImageProcessor

from miniature.scenes import COLORS, make
from stages.score import score
from sur_adapter.data.scores import nsfw
from sur_adapter.data.scores.keywords import keywords
from sur_adapter.data.scores.phash import phash
from sur_adapter.io.images import open_image
from sur_adapter.io.prefetch import prefetch
from sur_adapter.io.raw_shards import kept
from sur_adapter.io.shards import read_table, write_table
from sur_adapter.models.clip import Clip, agreement
from sur_adapter.registry import load

REAL = Path(__file__).parents[3] / "shared" / "realdata"


@pytest.fixture(scope="module")
def captions(raw, tmp_path_factory):
    """A sentence of no particular sense for each picture: what is scored here is not its sense."""
    folder = tmp_path_factory.mktemp("captions")
    kept = read_table(raw / "miniature").query("dropped.isna()")
    write_table(folder / "miniature" / "captions-000000.parquet", [{"id": i, "simple_prompt": f"{i[0]} red circles"} for i in kept.id])
    return folder


def test_scores_stand_beside_every_kept_picture_and_are_the_same_each_time(raw, captions, models, tmp_path):
    scores = {"clip": {"model": str(models / "clip"), "measures": ["simple", "complex"], "batch": 32}, "phash": {}}
    for again in ("a", "b"):
        for name in scores:
            score(raw, captions, tmp_path / again / name, scores=scores, sources=SOURCES)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    rows = read_table(raw / "miniature").query("dropped.isna()")
    values = {name: read_table(tmp_path / "a" / name) for name in ("clip/simple", "clip/complex", "phash")}
    assert all(list(v.id) == list(rows.id) for v in values.values())
    strip_credentials = rows.complex_prompt.isna().to_numpy()
    assert (
        strip_credentials.any()
        and (values["clip/complex"].value.isna() == strip_credentials).all()
        and values["clip/simple"].value.notna().all()
    )
    assert values["clip/complex"].value.dropna().between(0, 1).all()


def test_clip_looks_once_at_each_picture_and_gives_what_a_look_for_each_measure_would(raw, captions, models, tmp_path, monkeypatch):
    seen, look = [], Clip.images
    monkeypatch.setattr(Clip, "images", lambda self, images: seen.extend(images) or look(self, images))
    rows = read_table(raw / "miniature").query("dropped.isna()")
    for measures in (["simple", "complex"], ["simple"], ["complex"]):
        rules = {"model": str(models / "clip"), "measures": measures}
        score(raw, captions, tmp_path / "-".join(measures) / "clip", scores={"clip": rules}, sources=SOURCES)
    assert len(seen) == 3 * len(rows)
    for name in ("simple", "complex"):
        assert digest(tmp_path / "simple-complex" / "clip" / name) == digest(tmp_path / name / "clip" / name)


def test_a_measure_no_longer_asked_for_leaves_no_table_behind_and_an_unknown_one_is_named(raw, captions, models, tmp_path):
    rules = {"model": str(models / "clip"), "measures": ["simple", "complex"]}
    for measures in (["simple", "complex"], ["complex"]):
        score(raw, captions, tmp_path / "clip", scores={"clip": rules | {"measures": measures}}, sources=SOURCES)
    assert list(digest(tmp_path / "clip")) == ["complex/miniature.parquet"]
    with pytest.raises(
        ValueError, match=r"scores.clip.measures has 'simpel' \(did you mean 'simple'\?\); there are simple, complex, aesthetic"
    ):
        score(raw, captions, tmp_path / "clip", scores={"clip": rules | {"measures": ["simpel"]}}, sources=SOURCES)


def test_a_source_of_which_nothing_was_kept_still_has_its_tables(models, tmp_path):
    write_shards(tmp_path / "raw" / "s", [{"source": "s", "url": "u", "data": None, "dropped": "http 404"}])
    caption(tmp_path / "raw" / "s", tmp_path / "captions" / "s", caption={"model": str(models / "blip")})
    for name, rules in (("clip", {"model": str(models / "clip"), "measures": ["simple"]}), ("phash", {})):
        score(tmp_path / "raw", tmp_path / "captions", tmp_path / name, scores={name: rules}, sources={"s": {}})
    for table in (read_table(tmp_path / "clip" / "simple"), read_table(tmp_path / "phash")):
        assert list(table) == ["id", "value"] and len(table) == 0
    assert list(read_table(tmp_path / "captions" / "s")) == ["id", "simple_prompt"]


def test_a_clip_score_is_the_cosine_and_never_below_nothing(models):
    model, image = Clip(str(models / "clip")), make(5).draw()
    seen = model.images([image, image])
    cosine = float((seen[:1] @ model.texts(["3 circles, red"]).T)[0, 0])
    assert agreement(model, seen, ["3 circles, red", None]) == [pytest.approx(max(cosine, 0), abs=1e-6), None]
    assert agreement(model, seen, ["word " * 500] * 2)[0] is not None, "what is too long is cut"
    assert agreement(model, -seen * np.sign(cosine), ["3 circles, red"] * 2) == [0, 0]


def test_what_is_got_ready_ahead_comes_in_order_and_fails_where_it_is_asked_for():
    assert list(prefetch(range(1000), 3)) == list(range(1000))
    found = prefetch(1 / i for i in (1, 2, 0, 4))
    assert [next(found), next(found)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(found)
    made, threads = [], active_count()
    some = prefetch((made.append(i) or i for i in range(1000)), 2)
    assert next(some) == 0
    some.close()
    for _ in range(50):
        sleep(0.02 * (active_count() > threads))
    assert len(made) < 10 and active_count() == threads, "who stops early stops the work too"


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
        less = open_image(
            encode(image.resize((image.width * 9 // 10, image.height * 9 // 10), Image.Resampling.LANCZOS), "jpeg", quality=85)
        )
        assert bits(h, phash(less)) <= 8
    assert min(bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 50


def test_keywords_tell_heaps_of_tags_from_sentences_and_know_neither_case_nor_spaces():
    tags = ["masterpiece, best quality, 1girl, red dress, 8k, artstation", "3 circles, red, flat color, 8k", "cat; sunset; bokeh"]
    prose = [
        "there are three red circles in the picture",
        "A woman in a red dress stands by the window, and the sun is shining on her.",
        "The dog runs through the park while the children look at it, but nobody is near them.",
        "",
        ", , ,",
    ]
    assert min(map(keywords, tags)) > 0.6 > 0.2 > max(map(keywords, prose))
    assert keywords(" Masterpiece ,RED  dress") == keywords("masterpiece, red dress") > keywords("masterpiece, she is in the red dress")
    assert nothing_but_words(tags[0]) == pytest.approx((6 / 6 + 5 / 6 + 1) / 3), "s, w and f as the formula says"


def nothing_but_words(prompt: str) -> float:
    """The score of one row, by the door the stage uses; no picture is asked for."""
    no_picture = iter(lambda: pytest.fail("a picture was decoded"), None)
    return load("sur_adapter.data.scores", "keywords").score(no_picture, [{"complex_prompt": prompt}, {"complex_prompt": None}])[0]


def test_a_source_without_levels_has_no_nsfw_score_and_an_unknown_level_is_the_worst():
    rows = [{"nsfw": level} for level in ("None", "Soft", "X", "Unknown", None)]
    assert nsfw.score([], rows) == [0, pytest.approx(1 / 3), 1, 1, None]


def test_a_safety_model_makes_a_picture_worse_but_never_better(tmp_path):
    torch.manual_seed(0)
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 64}
    for name, labels in (("good", {0: "normal", 1: "nsfw"}), ("odd", {0: "cat", 1: "dog"})):
        ViTForImageClassification(ViTConfig(**tiny, id2label=labels, label2id={v: k for k, v in labels.items()})).save_pretrained(
            tmp_path / name
        )
        ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / name)
    images, rows = [make(i).draw() for i in range(5)], [{"nsfw": level} for level in ("None", "Soft", "X", None, "None")]
    alone = nsfw.score(images, [{"nsfw": None}] * 5, model=str(tmp_path / "good"), batch=2)
    assert all(0 < v < 1 for v in alone) and len(set(alone)) == 5
    assert nsfw.score(images, rows, model=str(tmp_path / "good")) == pytest.approx(
        [max(a, b) for a, b in zip(alone, (0, 1 / 3, 1, 0, 0), strict=True)]
    )
    with pytest.raises(ValueError, match="scores.nsfw.model has the labels cat, dog, none of normal, safe"):
        nsfw.score(images, rows, model=str(tmp_path / "odd"))


def test_size_is_the_shorter_side_as_the_crawl_measured_it(raw, captions, tmp_path):
    score(raw, captions, tmp_path / "size", scores={"size": {}}, sources=SOURCES)
    assert set(read_table(tmp_path / "size").value) == {16.0, 64.0, 80.0}


def test_an_aesthetic_head_is_linear_in_clips_vector_and_must_fit_it(raw, captions, models, tmp_path):
    width = AutoConfig.from_pretrained(models / "clip").projection_dim
    head, rng = tmp_path / "head.safetensors", np.random.default_rng(0)
    weight = rng.normal(size=(1, width)).astype(np.float32)
    save_file({"weight": weight, "bias": np.float32([5])}, head)
    rules = {"model": str(models / "clip"), "measures": ["aesthetic"], "head": str(head)}
    score(raw, captions, tmp_path / "clip", scores={"clip": rules}, sources=SOURCES)
    found = read_table(tmp_path / "clip" / "aesthetic").value
    pictures = [image for _, _, look in kept(raw / "miniature") for image in look()]
    assert found.to_numpy() == pytest.approx(Clip(rules["model"]).images(pictures) @ weight[0] + 5, abs=1e-4) and found.std() > 0.01
    save_file({"weight": weight[:, 1:], "bias": np.float32([5])}, head)
    with pytest.raises(ValueError, match=rf"this CLIP needs weight \(1, {width}\) and bias"):
        score(raw, captions, tmp_path / "clip", scores={"clip": rules}, sources=SOURCES)
    with pytest.raises(FileNotFoundError, match="scores.clip.head is None, which is no file"):
        score(raw, captions, tmp_path / "clip", scores={"clip": rules | {"head": None}}, sources=SOURCES)
