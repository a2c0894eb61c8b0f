"""Every kept image has its scores, reproducibly; it is decoded once for all scores, and encoded once for all measures of CLIP."""

import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import active_count
from time import sleep

import numpy as np
import pytest
import torch
from helpers.repository import ROOT
from helpers.small_models import SOURCES, digest, encode, iter_shards, write_shards
from helpers.stages import caption, score
from PIL import Image
from safetensors.numpy import save_file
from transformers import AutoConfig, ViTConfig, ViTForImageClassification, ViTImageProcessor

from miniature.scenes import COLORS, make
from miniature.words import complex_prompt
from sur_adapter.data.scores import clip as clip_score
from sur_adapter.data.scores import keywords, nsfw
from sur_adapter.data.scores import phash as phash_score
from sur_adapter.data.scores.base import SharedImages
from sur_adapter.data.scores.keywords import keyword_share
from sur_adapter.data.scores.phash import phash
from sur_adapter.io import raw_shards
from sur_adapter.io.images import open_image
from sur_adapter.io.prefetch import prefetch
from sur_adapter.io.shards import read_table, write_table
from sur_adapter.io.work_cache import discard_work
from sur_adapter.models.clip import CLIPEncoder, text_scores
from sur_adapter.models.torch_utils import has_bf16

REAL = Path(__file__).parents[3] / "shared" / "realdata"


@pytest.fixture(scope="module")
def captions(raw, tmp_path_factory):
    """A caption for each image; its content is arbitrary."""
    folder = tmp_path_factory.mktemp("captions")
    kept = read_table(raw / "miniature").query("dropped.isna()")
    write_table(folder / "miniature" / "captions-000000.parquet", [{"id": i, "simple_prompt": f"{i[0]} red circles"} for i in kept.id])
    return folder


def test_every_kept_image_has_scores_and_they_are_reproducible(raw, captions, models, tmp_path):
    scores = {"clip": {"model": str(models / "clip"), "measures": ["simple", "complex"], "batch_size": 32}, "phash": {}}
    for run in ("a", "b"):
        discard_work("score")
        score(raw, captions, tmp_path / run, scores=scores, sources=SOURCES)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    rows = read_table(raw / "miniature").query("dropped.isna()")
    values = {name: read_table(tmp_path / "a" / name) for name in ("clip/simple", "clip/complex", "phash")}
    assert all(list(v.id) == list(rows.id) for v in values.values())
    no_prompt = rows.complex_prompt.isna().to_numpy()
    assert no_prompt.any() and (values["clip/complex"].value.isna() == no_prompt).all() and values["clip/simple"].value.notna().all()
    assert values["clip/complex"].value.dropna().between(0, 1).all()


def test_clip_encodes_each_image_once_and_scores_it_as_for_each_measure_alone(raw, captions, models, tmp_path, monkeypatch, own_work):
    encoded, encode = [], CLIPEncoder.encode_images
    monkeypatch.setattr(CLIPEncoder, "encode_images", lambda self, images: encoded.extend(images) or encode(self, images))
    rows = read_table(raw / "miniature").query("dropped.isna()")
    for measures in (["simple", "complex"], ["simple"], ["complex"]):
        config = {"model": str(models / "clip"), "measures": measures}
        score(raw, captions, tmp_path / "-".join(measures), scores={"clip": config}, sources=SOURCES)
    assert len(encoded) == 3 * len(rows)
    for name in ("simple", "complex"):
        assert digest(tmp_path / "simple-complex" / "clip" / name) == digest(tmp_path / name / "clip" / name)


def test_the_table_of_a_removed_measure_is_deleted_and_an_unknown_measure_is_a_clear_error(raw, captions, models, tmp_path):
    config = {"model": str(models / "clip")}
    for measures in (["simple", "complex"], ["complex"]):
        score(raw, captions, tmp_path / "scores", scores={"clip": config | {"measures": measures}}, sources=SOURCES)
    assert list(digest(tmp_path / "scores")) == ["clip/complex/miniature.parquet"]
    for measures, message in (
        (["simple", "simpel"], r"\[1\] is 'simpel' \(did you mean 'simple'\?\): choose simple or complex or aesthetic"),
        ([], " is empty: choose simple, complex or aesthetic"),
    ):
        with pytest.raises(ValueError, match=r"params.yaml: scores.clip.measures" + message):
            score(raw, captions, tmp_path / "scores", scores={"clip": config | {"measures": measures}}, sources=SOURCES)


@pytest.fixture
def measured(monkeypatch) -> Counter:
    """Counts the images that are decoded and that each score measures."""
    counts = Counter()

    def count(module, name: str, function: str) -> None:
        compute = getattr(module, function)

        def counted(*args):
            counts[name] += 1 if name == "decoded" else len(args[1])
            return compute(*args)

        monkeypatch.setattr(module, function, counted)

    count(raw_shards, "decoded", "open_image")
    for module in (clip_score, phash_score, keywords):
        count(module, module.__name__.rpartition(".")[2], "score")
    return counts


def test_all_scores_share_one_decoding_of_each_image_and_give_the_bytes_of_each_alone(raw, captions, models, tmp_path, own_work, measured):
    scores = {"phash": {}, "keywords": {}, "clip": {"model": str(models / "clip"), "measures": ["simple"], "batch_size": 7}}
    rows = len(read_table(raw / "miniature").query("dropped.isna()"))
    score(raw, captions, tmp_path / "all", scores=scores, sources=SOURCES)
    assert measured == dict.fromkeys(("decoded", "clip", "phash", "keywords"), rows)
    discard_work("score")
    for name, config in scores.items():
        measured.clear()
        score(raw, captions, tmp_path / "alone", scores={name: config}, sources=SOURCES)
        assert measured["decoded"] == (0 if name == "keywords" else rows)
        assert digest(tmp_path / "alone" / name) == digest(tmp_path / "all" / name), name
        assert len(digest(tmp_path / "alone")) == 1, "tables of other scores are removed"


def test_a_score_is_computed_again_only_if_its_own_settings_or_inputs_have_changed(raw, captions, models, tmp_path, own_work, measured):
    clip = {"model": str(models / "clip"), "measures": ["simple"]}
    rows, run = len(read_table(raw / "miniature").query("dropped.isna()")), partial(score, raw, sources=SOURCES)
    for scores, expected in (
        ({"phash": {}}, {"phash"}),
        ({"phash": {}, "clip": clip}, {"clip"}),
        ({"clip": clip | {"measures": ["complex"]}, "phash": {}, "keywords": {}}, {"clip", "keywords"}),
        ({"keywords": {}}, set()),
        ({"clip": clip, "phash": {}}, set()),
    ):
        measured.clear()
        run(captions, tmp_path / "scores", scores=scores)
        assert set(measured) - {"decoded"} == expected and set(measured.values()) <= {rows}, scores
        assert {name.partition("/")[0] for name in digest(tmp_path / "scores")} == set(scores)
    shutil.copytree(captions, tmp_path / "captions")
    table = read_table(tmp_path / "captions/miniature")
    write_table(tmp_path / "captions/miniature/captions-000000.parquet", table.assign(simple_prompt="a blue circle"))
    run(tmp_path / "captions", tmp_path / "scores", scores=scores)
    assert measured == {"decoded": rows, "clip": rows, "phash": rows}, "other captions"


def test_without_scores_the_folder_is_empty(raw, captions, tmp_path):
    for scores in ({"keywords": {}}, {}):
        score(raw, captions, tmp_path / "scores", scores=scores, sources=SOURCES)
    assert (tmp_path / "scores").is_dir() and digest(tmp_path / "scores") == {}


def test_few_images_are_held_whatever_the_sizes_of_batches():
    """An image is dropped when all batches that contain it are finished."""
    decoded, held = [], 0
    images = SharedImages(decoded.append(k) or k for k in range(1000))
    for start, stop in sorted((start, start + size) for size in (7, 100, 32) for start in range(0, 994, size)):
        images.release(start)
        assert list(images.batch(start, min(stop, 1000))) == list(range(start, min(stop, 1000)))
        held = max(held, len(images.held))
    assert decoded == list(range(1000)) and 100 <= held < 200
    skipped = SharedImages(iter(range(1000)))
    skipped.release(500)
    assert next(skipped.batch(500, 600)) == 500 and len(skipped.held) == 1, "batches that a score did not look at"


def test_a_source_without_kept_images_has_empty_tables(models, tmp_path):
    write_shards(tmp_path / "raw" / "s", [{"source": "s", "url": "u", "data": None, "dropped": "http 404"}])
    caption(tmp_path / "raw" / "s", tmp_path / "captions" / "s", caption={"model": str(models / "blip")})
    scores = {"clip": {"model": str(models / "clip"), "measures": ["simple"]}, "phash": {}}
    score(tmp_path / "raw", tmp_path / "captions", tmp_path / "scores", scores=scores, sources={"s": {}})
    for table in (read_table(tmp_path / "scores/clip/simple"), read_table(tmp_path / "scores/phash")):
        assert list(table) == ["id", "value"] and len(table) == 0
    assert list(read_table(tmp_path / "captions" / "s")) == ["id", "simple_prompt"]


def test_a_clip_score_is_the_cosine_and_at_least_0(models):
    model, image = CLIPEncoder(str(models / "clip"), "scores.clip.model"), make(5).draw()
    embeds = model.encode_images([image, image])
    cosine = float((embeds[:1] @ model.encode_texts(["3 circles, red"]).T)[0, 0])
    assert text_scores(model, embeds, ["3 circles, red", None]) == [pytest.approx(max(cosine, 0), abs=1e-6), None]
    assert text_scores(model, embeds, ["word " * 500] * 2)[0] is not None, "long texts are truncated"
    assert text_scores(model, -embeds * np.sign(cosine), ["3 circles, red"] * 2) == [0, 0]


def test_prefetched_items_come_in_order_and_errors_are_raised_at_their_item():
    assert list(prefetch(range(1000), 3)) == list(range(1000))
    items = prefetch(1 / i for i in (1, 2, 0, 4))
    assert [next(items), next(items)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(items)
    made, threads = [], active_count()
    items = prefetch((made.append(i) or i for i in range(1000)), 2)
    assert next(items) == 0
    items.close()
    for _ in range(50):
        sleep(0.02 * (active_count() > threads))
    assert len(made) < 10 and active_count() == threads, "closing the iterator stops the thread"


def distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def test_a_hash_is_robust_to_encoding_and_size_but_separates_colours_and_positions():
    for seed in range(40):
        scene = make(seed)
        image, first = scene.draw(), scene.things[0].color
        copy = open_image(encode(image.resize((80, 80), Image.Resampling.LANCZOS), "jpeg", quality=95, subsampling=0))
        assert distance(phash(image), phash(copy)) <= 8
        for other in set(COLORS) - {first}:
            things = tuple(replace(t, color=other) if t.color == first else t for t in scene.things)
            assert distance(phash(image), phash(replace(scene, things=things).draw())) > 6
        moved = tuple(replace(t, x=t.x + 5) for t in scene.things)
        assert distance(phash(image), phash(replace(scene, things=moved).draw())) > 6


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real images is not beside this checkout")
def test_a_hash_recognises_copies_of_real_images():
    images = [open_image(f.read_bytes()) for f in sorted((REAL / "sur-adapter-samples" / "image").glob("*.png"))]
    images += [open_image(f.read_bytes()) for f in sorted((REAL / "invokeai").glob("*.png"))]
    hashes = [phash(i) for i in images]
    for image, h in zip(images, hashes, strict=True):
        smaller = open_image(
            encode(image.resize((image.width * 9 // 10, image.height * 9 // 10), Image.Resampling.LANCZOS), "jpeg", quality=85)
        )
        assert distance(h, phash(smaller)) <= 8
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 50


def test_the_keyword_score_separates_tags_from_sentences_regardless_of_case_and_spaces():
    tags = ["masterpiece, best quality, 1girl, red dress, 8k, artstation", "3 circles, red, flat color, 8k", "cat; sunset; bokeh"]
    prose = [
        "there are three red circles in the picture",
        "A woman in a red dress stands by the window, and the sun is shining on her.",
        "The dog runs through the park while the children look at it, but nobody is near them.",
        "",
        ", , ,",
    ]
    assert min(map(keyword_share, tags)) > 0.6 > 0.2 > max(map(keyword_share, prose))
    share = keyword_share("masterpiece, red dress")
    assert keyword_share(" Masterpiece ,RED  dress") == share > keyword_share("masterpiece, she is in the red dress")
    assert keyword_score(tags[0]) == pytest.approx((6 / 6 + 5 / 6 + 1) / 3), "s, w and f of the formula"


def keyword_score(prompt: str) -> float:
    """The score of one row; fails if an image is decoded."""
    images = iter(lambda: pytest.fail("an image was decoded"), None)
    return keywords.score(images, [{"complex_prompt": prompt}, {"complex_prompt": None}], keywords.Config())[0]


def test_a_row_without_a_level_has_no_nsfw_score_and_an_unknown_level_is_the_worst():
    rows = [{"nsfw": level} for level in ("None", "Soft", "X", "Unknown", None)]
    assert nsfw.score([], rows, nsfw.Config()) == [0, pytest.approx(1 / 3), 1, 1, None]


def test_a_safety_model_can_only_raise_the_nsfw_score(tmp_path):
    torch.manual_seed(0)
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 64}
    for name, labels in (("good", {0: "normal", 1: "nsfw"}), ("odd", {0: "cat", 1: "dog"})):
        ViTForImageClassification(ViTConfig(**tiny, id2label=labels, label2id={v: k for k, v in labels.items()})).save_pretrained(
            tmp_path / name
        )
        ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / name)
    images, rows = [make(i).draw() for i in range(5)], [{"nsfw": level} for level in ("None", "Soft", "X", None, "None")]
    alone = nsfw.score(images, [{"nsfw": None}] * 5, nsfw.Config(str(tmp_path / "good"), batch_size=2))
    assert all(0 < v < 1 for v in alone) and len(set(alone)) == 5
    both = nsfw.score(images, rows, nsfw.Config(str(tmp_path / "good")))
    assert both == pytest.approx([max(a, b) for a, b in zip(alone, (0, 1 / 3, 1, 0, 0), strict=True)])
    with pytest.raises(ValueError, match="scores.nsfw.model has the labels cat, dog, none of normal, safe"):
        nsfw.score(images, rows, nsfw.Config(str(tmp_path / "odd")))


def test_scores_in_bf16_are_those_in_fp32_up_to_rounding():
    scenes, values = [make(seed) for seed in range(24)], {}
    texts = [complex_prompt(scene, 0) for scene in scenes]
    for precision in ("fp32", "bf16"):
        encoder = CLIPEncoder(str(ROOT / "models/miniature/clip"), "scores.clip.model", precision)
        values[precision] = np.array(text_scores(encoder, encoder.encode_images([scene.draw() for scene in scenes]), texts))
    differences = np.abs(values["bf16"] - values["fp32"])
    assert values["fp32"].min() > 0.4 and differences.max() < 0.02 and (differences.max() > 0 or not has_bf16("cpu"))


def test_an_aesthetic_head_is_linear_in_the_embedding_and_must_fit_its_width(raw, captions, models, tmp_path):
    width = AutoConfig.from_pretrained(models / "clip").projection_dim
    head, rng = tmp_path / "head.safetensors", np.random.default_rng(0)
    weight = rng.normal(size=(1, width)).astype(np.float32)
    save_file({"weight": weight, "bias": np.float32([5])}, head)
    config = {"model": str(models / "clip"), "measures": ["aesthetic"], "head": str(head), "precision": "fp32"}
    score(raw, captions, tmp_path / "scores", scores={"clip": config}, sources=SOURCES)
    values = read_table(tmp_path / "scores/clip/aesthetic").value
    images = [image for _, _, read_images in iter_shards(raw / "miniature") for image in read_images()]
    embeds = CLIPEncoder(config["model"], "scores.clip.model").encode_images(images)
    assert values.to_numpy() == pytest.approx(embeds @ weight[0] + 5, abs=1e-4) and values.std() > 0.01
    save_file({"weight": weight[:, 1:], "bias": np.float32([5])}, head)
    with pytest.raises(ValueError, match=rf"this CLIP needs weight \(1, {width}\) and bias"):
        score(raw, captions, tmp_path / "scores", scores={"clip": config}, sources=SOURCES)
    with pytest.raises(FileNotFoundError, match="scores.clip.head is None, which is not a file"):
        score(raw, captions, tmp_path / "scores", scores={"clip": config | {"head": None}}, sources=SOURCES)
