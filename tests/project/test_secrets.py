"""A token, whether it stands in the environment or in an address, reaches the host it is for, and no file, no log and no report."""

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
PICTURES = 24


def picture(i: int) -> bytes:
    noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
    return encode(Image.fromarray(noise))


def answer(path: str, headers) -> tuple:
    """Pictures at addresses with keys, some of them elsewhere, some of them gone."""
    if path.startswith("/api"):
        who = f"bob:s3cretpassword@{headers['Host']}"
        address = [
            f"http://{who if i % 2 else headers['Host']}/{i}.png?size=8&token=s3cret{i}#access_token=s3cret" for i in range(PICTURES)
        ]
        return page([item(url, meta={"prompt": f"masterpiece, {i} circles"}) for i, url in enumerate(address)])
    number = int(path.strip("/").split(".")[0])
    if number % 6 == 5:
        return 404, {}, b"no such picture, s3cret or not"
    if number % 6 == 4 and "moved" not in path:
        return 302, {"Location": f"{path.replace('.png', '.png.moved')}&X-Amz-Signature=s3cret&X-Amz-Credential=s3cret"}, b""
    return 200, {}, picture(number)


def written(params: Path, host: str, models: Path) -> None:
    values = YAML(typ="safe").load(ROOT / "params.yaml")
    values["models"] = tiny.models(params.parent)
    values["caption"]["model"], values["scores"]["clip"]["model"] = str(models / "blip"), str(models / "clip")
    values["sources"] = {"civitai": {"url": f"http://{host}", "limit": PICTURES, "rate": None, "tries": 1, "private": [host]}}
    changes = {
        "filter": {"clip_simple": 0.0, "clip_complex": 0.0, "duplicate_bits": 0, "validation": 0.2},
        "cache": {"queries": {"count": 20}, "llm": {"layers": [3]}},
    }
    changes |= {"train": {"steps": 2, "batch_size": 4, "precision": "fp32"}}
    changes |= {"generate": {"per_category": 1, "seeds": 1, "num_inference_steps": 1, "batch_size": 9}}
    changes |= {"evaluate": {"judge": None, "clip": str(models / "clip"), "resamples": 100, "pairs": 1}}
    values["scores"].pop("too_long")
    YAML().dump(merge(values, changes), params)


def test_a_token_is_in_nothing_that_the_stages_write_or_say(tmp_path, own_work, models, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    for name, token in TOKENS.items():
        monkeypatch.setenv(name, token)
    monkeypatch.setenv("SUR_PARAMS", str(tmp_path / "params.yaml"))
    monkeypatch.chdir(ROOT)
    data, reports = tmp_path / "data", tmp_path / "reports"
    with Site(answer) as site:
        written(tmp_path / "params.yaml", site.host, models)
        run("crawl", "--source", "civitai", "--out", data / "raw/civitai", "--forgotten", tmp_path / "forgotten.txt")
    asked = dict(site.asked)
    assert asked["/0.png?size=8&token=s3cret0"] and asked["/1.png?size=8&token=s3cret1"]["Authorization"].startswith("Basic ")
    run("caption", data / "raw/civitai", data / "captions/civitai")
    for score in ("clip", "phash"):
        run("score", data / "raw", data / "captions", data / "scores" / score)
    run("filter", data / "raw", data / "captions", data / "scores", data / "pairs.parquet", reports / "funnel.json")
    lanes = [data / "features" / lane for lane in ("clip", "llm", "vae", "queries")]
    for lane in lanes:
        run("cache", data / "pairs.parquet", data / "raw", lane)
    run("train", *lanes, tmp_path / "adapter", reports / "train")
    for arm, adapter in {"baseline": "", "adapter": tmp_path / "adapter"}.items():
        run("generate", "prompts/miniature", data / "images" / arm, adapter)
    paths = ["prompts/miniature", data / "images", reports / "funnel.json", reports / "train", tmp_path / "adapter"]
    run("evaluate", *paths, reports / "metrics.json", reports / "index.html", data / "features/clip", "data/votes.csv")
    rows = read_table(data / "raw/civitai")
    assert (rows.dropped == "http 404").sum() == PICTURES // 6 and rows.dropped.isna().sum() == PICTURES * 5 // 6
    assert set(rows.url) == {f"http://{reject_credentials.host}/{i}.png?size=8" for i in range(PICTURES)}
    said = capfd.readouterr()
    nowhere(tmp_path, work_dir(), said.out + said.err + caplog.text)


def run(*words) -> None:
    main([str(word) for word in words if word])


def nowhere(*places: Path | str) -> None:
    """Not one of the planted words stands in a file, compressed columns of tables included, or in a text."""
    for place in places:
        files = [place] if isinstance(place, str) else [f for f in place.rglob("*") if f.is_file()]
        texts = [f if isinstance(f, str) else f"{f.name} " + f.read_bytes().decode("latin-1") + columns(f) for f in files]
        assert texts and not [(word, text[:80]) for text in texts for word in PLANTED if word in text]


def columns(file: Path) -> str:
    return json.dumps(read_table(file).astype(str).to_dict("list")) if file.suffix == ".parquet" and "features" not in file.parts else ""


def test_the_search_finds_what_is_there(tmp_path):
    (tmp_path / "a.json").write_text("token s3cret")
    with pytest.raises(AssertionError, match="s3cret"):
        nowhere(tmp_path)


@pytest.mark.parametrize(
    ("found", "kept"),
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
def test_an_address_is_written_down_without_what_opens_doors(found, kept):
    assert strip_credentials(found) == kept


@pytest.mark.parametrize("source", [civitai, lexica])
@pytest.mark.parametrize("url", ["https://bob:pw@host", "https://host/?token=x"])
def test_a_key_in_the_address_of_a_source_is_refused_and_not_repeated(source, url):
    with pytest.raises(ValueError, match="url contains a user, a password or a key: remove it") as said:
        list(source.rows(source.Config(url=url, **({"limit": 1} if source is civitai else {"queries": ("a",)}))))
    assert "pw" not in str(said.value) and "=x" not in str(said.value)
