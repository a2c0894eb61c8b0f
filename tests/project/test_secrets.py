"""A token, in the environment or in a URL, reaches its host, and no file, log or report."""

import json
import logging
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_models as tiny
from helpers.hostile_server import Site, item, page
from helpers.repository import ROOT, merge
from helpers.small_models import encode
from PIL import Image
from ruamel.yaml import YAML

from stages.__main__ import main
from sur_adapter.data.sources import civitai, lexica
from sur_adapter.io.shards import read_table
from sur_adapter.io.urls import strip_credentials
from sur_adapter.io.work_cache import work_dir

TOKENS = {"CIVITAI_TOKEN": "s3cretcivitai", "HF_TOKEN": "hf_s3crethub", "AWS_SECRET_ACCESS_KEY": "s3cretaws"}
PLANTED = ("s3cret", b64encode(b"bob:s3cretpassword").decode()[:16])
NUM_IMAGES = 24


def image(i: int) -> bytes:
    noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
    return encode(Image.fromarray(noise))


def answer(path: str, headers) -> tuple:
    """Serves images at URLs with keys; some redirect, some are missing."""
    if path.startswith("/api"):
        login = f"bob:s3cretpassword@{headers['Host']}"
        urls = [
            f"http://{login if i % 2 else headers['Host']}/{i}.png?size=8&token=s3cret{i}#access_token=s3cret" for i in range(NUM_IMAGES)
        ]
        return page([item(url, meta={"prompt": f"masterpiece, {i} circles"}) for i, url in enumerate(urls)])
    number = int(path.strip("/").split(".")[0])
    if number % 6 == 5:
        return 404, {}, b"no such image, s3cret or not"
    if number % 6 == 4 and "moved" not in path:
        return 302, {"Location": f"{path.replace('.png', '.png.moved')}&X-Amz-Signature=s3cret&X-Amz-Credential=s3cret"}, b""
    return 200, {}, image(number)


def write_params(params: Path, host: str, models: Path) -> None:
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["models"] = tiny.models(params.parent)
    values["caption"]["model"], values["scores"]["clip"]["model"] = str(models / "blip"), str(models / "clip")
    values["sources"] = {"civitai": {"url": f"http://{host}", "limit": NUM_IMAGES, "rate": None, "tries": 1, "private": [host]}}
    changes = {
        "filter": {"clip_simple": 0.0, "clip_complex": 0.0, "duplicate_bits": 0, "validation": 0.2},
        "cache": {"queries": {"count": 20}, "llm": {"layers": [3]}},
    }
    (params.parent / "choices.txt").write_text("red circle\n2 green squares\n")
    values["sentences"]["sources"] = {"captions": {}}
    changes["cache"]["sentences"] = {"choices": str(params.parent / "choices.txt")}
    changes |= {"sentences": {"validation": 0.3}, "loss": {"min_logprob": -1000.0, "sentences": 4}}
    changes |= {"train": {"steps": 2, "batch_size": 4, "precision": "fp32"}}
    changes |= {"generate": {"per_category": 1, "seeds": 1, "num_inference_steps": 1, "batch_size": 9}}
    changes |= {"evaluate": {"judge": None, "clip": str(models / "clip"), "bootstrap_resamples": 100, "num_vote_pairs": 1}}
    values["scores"].pop("too_long")
    YAML().dump(merge(values, changes), params)


def test_no_token_is_in_what_the_stages_write_or_print(tmp_path, own_work, models, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    for name, token in TOKENS.items():
        monkeypatch.setenv(name, token)
    monkeypatch.setenv("SUR_PARAMS", str(tmp_path / "params.yaml"))
    monkeypatch.chdir(ROOT)
    with Site(answer) as site:
        write_params(tmp_path / "params.yaml", site.host, models)
        run("crawl", source="civitai", out=tmp_path / "data/raw/civitai", forgotten=tmp_path / "forgotten.txt")
    requests = dict(site.requests)
    assert requests["/0.png?size=8&token=s3cret0"] and requests["/1.png?size=8&token=s3cret1"]["Authorization"].startswith("Basic ")
    run_all_stages_after_crawl(tmp_path / "data", tmp_path / "reports", tmp_path / "adapter")
    rows = read_table(tmp_path / "data/raw/civitai")
    assert (rows.dropped == "http 404").sum() == NUM_IMAGES // 6 and rows.dropped.isna().sum() == NUM_IMAGES * 5 // 6
    assert set(rows.url) == {f"http://{site.host}/{i}.png?size=8" for i in range(NUM_IMAGES)}
    printed = capfd.readouterr()
    assert_no_secret(tmp_path, work_dir(), printed.out + printed.err + caplog.text)


def run_all_stages_after_crawl(data: Path, reports: Path, adapter: Path) -> None:
    run("caption", raw=data / "raw/civitai", out=data / "captions/civitai")
    run("score", raw=data / "raw", captions=data / "captions", out=data / "scores")
    tables = {"funnel": reports / "funnel.json", "funnel_csv": reports / "funnel.csv", "data_card": reports / "data.md"}
    inputs = {"raw": data / "raw", "captions": data / "captions", "scores": data / "scores"}
    run("filter", **inputs, pairs=data / "pairs.parquet", **tables)
    features = {name: data / "features" / name for name in ("clip", "llm", "vae", "queries")}
    for name, folder in features.items():
        run("cache", features=name, pairs=data / "pairs.parquet", raw=data / "raw", out=folder)
    run("sentences", pairs=data / "pairs.parquet", out=data / "sentences.parquet", report=reports / "sentences.json")
    features["sentences"] = data / "features/sentences"
    run("cache", features="sentences", sentences=data / "sentences.parquet", out=features["sentences"])
    run("train", **features, out=adapter, reports=reports / "train")
    run("generate", arms="baseline", prompts="prompts/miniature", out=data / "images")
    run("generate", arms="adapter", prompts="prompts/miniature", out=data / "images", adapter=adapter)
    inputs = {"prompts": "prompts/miniature", "images": data / "images", "funnel": reports / "funnel.json", "adapter": adapter}
    inputs |= {"history": reports / "train/history.json", "data_card": reports / "data.md"}
    run("evaluate", **inputs, features=features["clip"], votes="data/votes.csv", out_dir=reports)


def run(stage: str, **options) -> None:
    main([stage, *(word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value)))])


def assert_no_secret(*places: Path | str) -> None:
    """No planted word is in a file, compressed columns of tables included, or in a text."""
    for place in places:
        files = [place] if isinstance(place, str) else [f for f in place.rglob("*") if f.is_file()]
        texts = [f if isinstance(f, str) else f"{f.name} " + f.read_bytes().decode("latin-1") + columns(f) for f in files]
        assert texts and not [(word, text[:80]) for text in texts for word in PLANTED if word in text]


def columns(file: Path) -> str:
    return json.dumps(read_table(file).astype(str).to_dict("list")) if file.suffix == ".parquet" and "features" not in file.parts else ""


def test_the_search_finds_a_planted_secret(tmp_path):
    (tmp_path / "a.json").write_text("token s3cret")
    with pytest.raises(AssertionError, match="s3cret"):
        assert_no_secret(tmp_path)


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("https://host/a.png", "https://host/a.png"),
        ("https://host/a.png?id=3&width=450&author=me&cursor=a%7Cb", "https://host/a.png?id=3&width=450&author=me&cursor=a%7Cb"),
        ("https://bob:pw@host:81/a.png", "https://host:81/a.png"),
        ("https://bob@host/a", "https://host/a"),
        ("https://host/a?token=x&id=3&X-Amz-Security-Token=x&X-Amz-Signature=x", "https://host/a?id=3"),
        ("https://host/a?Policy=x&Signature=x&Key-Pair-Id=x", "https://host/a"),
        ("https://host/a?se=2&sig=x&sp=r", "https://host/a?se=2&sp=r"),
        ("https://host/a?api_key=x&apikey=x&access%5Ftoken=x&pwd=x", "https://host/a"),
        ("https://host/a#access_token=x&top", "https://host/a#top"),
        ("http://[half?token=x", "http://[half"),
        ("gallery://miniature/3.png", "gallery://miniature/3.png"),
        (None, None),
    ],
)
def test_a_url_is_stored_without_credentials(url, stored):
    assert strip_credentials(url) == stored


@pytest.mark.parametrize("source", [civitai, lexica])
@pytest.mark.parametrize("url", ["https://bob:pw@host", "https://host/?token=x"])
def test_a_key_in_the_url_of_a_source_is_refused_and_not_repeated(source, url):
    with pytest.raises(ValueError, match="url contains a user, a password or a key: remove it") as error:
        list(source.rows(source.Config(url=url, **({"limit": 1} if source is civitai else {"queries": ("a",)}))))
    assert "pw" not in str(error.value) and "=x" not in str(error.value)
