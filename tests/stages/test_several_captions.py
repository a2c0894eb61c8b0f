"""Each of several captions of an image is a pair of its own, from the captioner to the features; what is of the image is computed once."""

import json

import numpy as np
import pandas as pd
import pytest
from diffusers import AutoencoderKL
from helpers import tiny_models as tiny
from helpers.small_models import SOURCES, encode, write_shards
from helpers.stages import cache, caption, filter_pairs, score

from miniature.scenes import make
from sur_adapter.data.scores import phash
from sur_adapter.features.store import FeatureStore
from sur_adapter.io.schema import image_id
from sur_adapter.io.shards import read_table, write_table
from sur_adapter.models.clip import CLIPEncoder
from sur_adapter.models.stable_diffusion import TextEncoders
from sur_adapter.tools.export import export
from sur_adapter.tools.held_out_prompts import write_held_out_prompts

pytestmark = pytest.mark.usefixtures("own_work")
SENTENCES = 3
RULES = {"min_side": 0, "allowed_nsfw_levels": ["None"], "duplicate_bits": 4, "validation": 0.3, "test": 0.3}


@pytest.fixture
def captioned(raw, models, tmp_path):
    """Captions of the 150 images of `raw`, three of each."""
    config = {"model": str(models / "blip"), "sentences": SENTENCES, "top_p": 0.95}
    caption(raw / "miniature", tmp_path / "captions" / "miniature", caption=config)
    return tmp_path / "captions"


@pytest.fixture
def scored(raw, captioned, models, tmp_path):
    scores = {"clip": {"model": str(models / "clip"), "measures": ["simple", "complex"]}, "phash": {}}
    score(raw, captioned, tmp_path / "scores", scores=scores, sources=SOURCES)
    return scores


@pytest.fixture
def pairs(raw, captioned, scored, tmp_path) -> pd.DataFrame:
    paths = [tmp_path / name for name in ("scores", "pairs.parquet", "funnel.json")]
    filter_pairs(raw, captioned, *paths, filter=RULES, sources=SOURCES, scores=scored)
    return read_table(tmp_path / "pairs.parquet")


def test_each_image_has_its_captions_in_order_and_the_first_is_that_of_a_single_one(raw, captioned, models, tmp_path):
    kept = read_table(raw / "miniature").query("dropped.isna()")
    rows = read_table(captioned / "miniature")
    assert list(rows.id) == [f"{i}{suffix}" for i in kept.id for suffix in ("", "-1", "-2")]
    caption(raw / "miniature", tmp_path / "single", caption={"model": str(models / "blip"), "top_p": 0.95})
    single = read_table(tmp_path / "single")
    assert list(single.id) == list(kept.id) and list(single.simple_prompt) == list(rows.simple_prompt[::SENTENCES])


def test_the_caption_of_a_source_is_the_first(shards, models, tmp_path):
    config = {"model": str(models / "blip"), "sentences": 2, "top_p": 0.95}
    for own in (True, False):
        caption(shards / "s", tmp_path / str(own), caption=config | {"use_source_captions": own})
    given, generated = (list(read_table(tmp_path / name).simple_prompt) for name in ("True", "False"))
    changed = [k for k, (a, b) in enumerate(zip(given, generated, strict=True)) if a != b]
    assert changed == [10] and given[10] == "a red circle", "the sixth image has a caption of its own"


def test_each_caption_has_a_score_and_each_image_is_scored_once(raw, captioned, models, tmp_path, monkeypatch, own_work):
    images, hashed = [], []
    encode_images, compute = CLIPEncoder.encode_images, phash.phash
    monkeypatch.setattr(CLIPEncoder, "encode_images", lambda self, batch: images.extend(batch) or encode_images(self, batch))
    monkeypatch.setattr(phash, "phash", lambda image: hashed.append(image) or compute(image))
    scores = {"clip": {"model": str(models / "clip"), "measures": ["simple", "complex"]}, "phash": {}}
    score(raw, captioned, tmp_path / "scores", scores=scores, sources=SOURCES)
    ids, captions = list(read_table(raw / "miniature").query("dropped.isna()").id), read_table(captioned / "miniature")
    values = {name: read_table(tmp_path / "scores" / name) for name in ("clip/simple", "clip/complex", "phash")}
    assert len(images) == len(hashed) == len(ids)
    assert list(values["clip/simple"].id) == list(captions.id) and list(values["clip/complex"].id) == list(values["phash"].id) == ids
    for number in range(SENTENCES):  # as if it were the only caption
        own = captions[number::SENTENCES]
        write_table(tmp_path / f"{number}/miniature/captions-000000.parquet", own.assign(id=ids))
        score(raw, tmp_path / str(number), tmp_path / f"only/{number}", scores=scores, sources=SOURCES)
        alone = read_table(tmp_path / f"only/{number}/clip/simple").value
        np.testing.assert_allclose(values["clip/simple"].value[number::SENTENCES], alone, atol=1e-6)


def test_an_image_without_a_caption_has_no_score_for_it(raw, captioned, models, tmp_path):
    table = read_table(captioned / "miniature")
    lacking = table.id[SENTENCES * 4]
    others = table[table.id.map(image_id) != lacking]
    write_table(captioned / "miniature/captions-000000.parquet", others)
    scores = {"clip": {"model": str(models / "clip"), "measures": ["simple"]}}
    score(raw, captioned, tmp_path / "scores", scores=scores, sources=SOURCES)
    values = read_table(tmp_path / "scores/clip/simple").set_index("id").value
    assert pd.isna(values[lacking]) and f"{lacking}-1" not in values.index
    assert list(values[others.id].isna()) == list(others.simple_prompt == ""), "an empty caption has no score either"


def test_the_filter_decides_on_each_caption_and_keeps_an_image_in_one_split(raw, pairs, tmp_path):
    crawled = read_table(raw / "miniature")
    kept, images_once = pairs[pairs.dropped.isna()], crawled[crawled.dropped.isna()].id.drop_duplicates()
    assert len(pairs) == len(crawled) + (SENTENCES - 1) * len(images_once) and kept.id.is_unique
    images = kept.id.map(image_id)
    assert (kept.groupby(images)["split"].nunique() == 1).all() and (kept.groupby(images)["group"].nunique() == 1).all()
    assert images.value_counts().max() == SENTENCES, "captions of one image are not near duplicates of each other"
    simple = read_table(tmp_path / "scores/clip/simple").set_index("id").value
    assert (kept.clip_simple == simple[kept.id].to_numpy()).all()
    assert kept.groupby(images).clip_complex.nunique().max() == 1 and kept.clip_complex.notna().all()
    funnel = json.loads((tmp_path / "funnel.json").read_text())
    assert funnel["in"] == len(pairs) == funnel["kept"] + sum(funnel["dropped"].values())
    assert f"{len(pairs)} rows of {len(crawled)} images in, {len(kept)} pairs kept" in (tmp_path / "data.md").read_text()


def test_near_duplicates_of_an_image_are_dropped_with_all_captions_and_a_repeated_caption_is_dropped(raw, captioned, scored, tmp_path):
    first = pd.read_parquet(captioned / "miniature/captions-000000.parquet")
    first.loc[first.id.str.endswith("-2"), "simple_prompt"] = list(first.simple_prompt[::SENTENCES])
    write_table(captioned / "miniature/captions-000000.parquet", first)
    hashes = read_table(tmp_path / "scores/phash/miniature.parquet")
    hashes.loc[7, "value"] = hashes.value[3]
    write_table(tmp_path / "scores/phash/miniature.parquet", hashes)
    paths = [tmp_path / name for name in ("scores", "pairs.parquet", "funnel.json")]
    filter_pairs(raw, captioned, *paths, filter=RULES | {"duplicate_bits": 0}, sources=SOURCES, scores=scored)
    dropped = read_table(tmp_path / "pairs.parquet").query("dropped != 'duplicate'").set_index("id").dropped
    a, b = hashes.id[3], hashes.id[7]
    assert dropped[[a, f"{a}-1"]].isna().all() and (dropped[[b, f"{b}-1"]] == "near_duplicate").all()
    usable = [i for i in hashes.id.unique() if pd.isna(dropped[i]) or dropped[i] == "near_duplicate"]
    assert len(usable) > 100 and (dropped[[f"{i}-2" for i in usable]] == "same_caption").all()


def test_features_of_the_image_and_its_keyword_prompt_are_computed_once(tmp_path, monkeypatch):
    models = tiny.models(tmp_path / "models")
    rows = [{"source": "s", "url": f"u{k}", "data": encode(make(k).draw()), "dropped": None} for k in range(4)]
    write_shards(tmp_path / "raw" / "s", rows)
    ids = list(read_table(tmp_path / "raw" / "s").id)
    table = [
        {"id": f"{i}-{k}" if k else i, "simple_prompt": f"cat {n} {k}", "complex_prompt": f"cat, {n}", "dropped": None, "split": "train"}
        for n, i in enumerate(ids)
        for k in range(SENTENCES)
    ]
    write_table(tmp_path / "pairs.parquet", pd.DataFrame(table))
    texts, images, call, encoded = [], [], TextEncoders.__call__, AutoencoderKL.encode
    monkeypatch.setattr(TextEncoders, "__call__", lambda self, prompts: texts.extend(prompts) or call(self, prompts))
    monkeypatch.setattr(AutoencoderKL, "encode", lambda self, pixels, **options: images.extend(pixels) or encoded(self, pixels, **options))
    for name in ("clip", "vae"):
        options = {"cache": {"clip": {}, "vae": {}}, "models": {"resolution": 64} | models}
        cache(tmp_path / "pairs.parquet", tmp_path / "raw", tmp_path / name, **options)
    assert sorted(texts) == sorted({row["complex_prompt"] for row in table} | {row["simple_prompt"] for row in table})
    assert len(images) == len(ids)
    clip, vae = FeatureStore(tmp_path / "clip"), FeatureStore(tmp_path / "vae")
    assert clip.ids == vae.ids == [row["id"] for row in table]
    of_text, of_image = clip.rows(range(len(table))), vae.rows(range(len(table)))
    for values in (of_text["complex"], of_image["latents"]):
        assert all((values[k] == values[k - k % SENTENCES]).all() for k in range(len(table)))
        assert not (values[0] == values[SENTENCES]).all()
    assert not (of_text["simple"][0] == of_text["simple"][1]).all()


def test_an_export_has_a_line_for_each_caption_and_a_held_out_prompt_is_of_an_image(raw, pairs, tmp_path):
    kept = pairs[pairs.dropped.isna()]
    count = export(pairs, raw, tmp_path / "out")
    lines = [json.loads(line) for file in sorted((tmp_path / "out").glob("*/metadata.jsonl")) for line in file.open(encoding="utf-8")]
    files = [file.stem for file in (tmp_path / "out").glob("*/*") if file.suffix != ".jsonl"]
    assert count == len(lines) == len(kept) and sorted(files) == sorted(set(kept.id.map(image_id)))
    assert sorted(line["text"] for line in lines) == sorted(kept.simple_prompt)
    test = kept[kept["split"] == "test"].sort_values("id")
    first = test[~test.id.map(image_id).duplicated()]
    assert 0 < write_held_out_prompts(pairs, tmp_path / "held") == len(first) < len(test)
    prompts = [json.loads(line) for line in (tmp_path / "held/held_out.jsonl").open(encoding="utf-8")]
    assert [(p["id"], p["prompt"]) for p in prompts] == list(zip(first.id.map(image_id), first.simple_prompt, strict=True))
