"""Every web source yields a row for each candidate, with its image or a reason."""

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from helpers.hostile_server import Site, item, page

from miniature.gallery import Gallery
from sur_adapter.config import from_dict
from sur_adapter.data.sources import civitai, lexica, miniature, urls

REAL = Path(__file__).parents[3] / "shared" / "realdata"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real images is not beside this checkout")


def rows(site, **settings) -> list[dict]:
    """The rows of civitai for a site or a gallery on loopback, without a rate limit."""
    private = [urlsplit(site.url).netloc, *settings.pop("private", [])]
    return list(civitai.rows(civitai.Config(**{"url": site.url, "rate": None, "workers": 32, "private": private} | settings)))


# civitai


def test_rows_come_in_the_order_of_the_gallery_and_cursors_are_followed_up_to_the_limit():
    with Gallery(450, seed=1, retry_after=0) as gallery:
        result = rows(gallery, limit=430, nsfw="X")
        assert [r["url"] for r in result] == [gallery.item(i, True)["url"] for i in range(430)]
        assert [r["complex_prompt"] for r in result] == [gallery.prompt(i) or None for i in range(430)]
        assert [r["data"] for r in result] == [gallery.file(i)[0] for i in range(430)]
        assert not any(r["dropped"] for r in result)
        assert {r["nsfw"] for r in result} == {"None", "Soft", "Mature", "X"}
        assert len(rows(gallery, limit=1000, nsfw="X")) == 450


def test_flagged_images_above_the_configured_level_are_not_requested_and_not_fetched():
    with Gallery(100, seed=1, rates={"nsfw": 0.3}) as gallery:
        assert {r["nsfw"] for r in rows(gallery, limit=100)} == {"None"}

    def answer(path, _):
        return page([item(f"{site.url}/{n}", nsfwLevel=n) for n in ("None", "Soft", "X")]) if "/api" in path else (200, {}, b"p")

    with Site(answer) as site:
        assert [r["dropped"] for r in rows(site, limit=5, nsfw="Soft")] == [None, None, "flagged X"]
        assert sorted(p for p, _ in site.requests if "/api" not in p) == ["/None", "/Soft"], "concurrent requests have no order"


def test_each_failure_of_an_image_is_a_row_with_a_reason_in_its_place():
    def answer(path, headers):
        if path.startswith("/api"):
            paths = ("good", "missing", "huge", "slow", "busy")
            invalid = [{"type": "video"}, item("file:///etc/passwd"), item(None), "no item", item("http://"), item("http://10.0.0.1/a.png")]
            return page([item(f"{site.url}/{p}") for p in paths] + invalid)
        body = {"/good": b"good", "/huge": b"x" * 3000, "/slow": [b"x"] * 30}.get(path)
        return (200, {}, body) if body else (404 if path == "/missing" else 503, {"Retry-After": "0"}, b"")

    with Site(answer) as site:
        result = rows(site, limit=50, tries=2, timeout=0.5, max_bytes=2000)
        assert [r["dropped"] for r in result] == [
            *(None, "http 404", "too many bytes", "timeout", "http 503"),
            *("not an image", "no address", "no address", "no address", "no address", "private address"),
        ]
        assert result[0]["data"] == b"good" and result[0]["complex_prompt"] == "a cat"
        assert [p for p, _ in site.requests].count("/missing") == 1, "a 404 is not requested again"
        assert [p for p, _ in site.requests].count("/busy") == 2


def test_the_token_is_sent_to_the_api_host_only(monkeypatch):
    monkeypatch.setenv("CIVITAI_TOKEN", "secret")

    def redirect(path, headers):
        return 302, {"Location": other.url + path}, b""

    def serve(path, headers):
        return page([item(f"{other.url}/a.png"), item(f"{api.url}/b.png")]) if path.startswith("/api") else (200, {}, b"ok")

    with Site(serve) as other, Site(redirect) as api:
        url = api.url.replace("127.0.0.1", "localhost")
        result = rows(api, url=url, limit=5, private=[other.host, urlsplit(url).netloc])
        assert [r["data"] for r in result] == [b"ok", b"ok"]
        paths = [urlsplit(p).path for p, h in api.requests if h.get("Authorization") == "Bearer secret"]
        assert paths == ["/api/v1/images"] and len(other.requests) == 3
        assert not any("secret" in str(request) for request in other.requests)
        assert all("sur-adapter" in h["User-Agent"] for _, h in api.requests + other.requests)


def test_a_later_page_that_fails_is_a_row_and_a_failed_first_page_is_an_error():
    later = {}

    def answer(path, headers):
        if "cursor" in path:
            return later["answer"]
        return page([item(f"{site.url}/x")], nextCursor="c2") if "/api" in path else (200, {}, b"ok")

    wrong = {
        "http 500": (500, {}, b""),
        "not JSON": (200, {}, b"[" * 60_000),
        "no list of items": (200, {}, b'{"items": {"0": 1}}'),
        "too many bytes": (200, {}, b'{"items": [' + b"1," * 40_000 + b"1]}"),
    }
    for reason, later["answer"] in wrong.items():
        with Site(answer) as site:
            result = rows(site, limit=5, tries=1, max_bytes=2**16)
            assert [r["dropped"] for r in result] == [None, f"page: {reason}"] and "cursor=c2" in result[1]["url"]
    with Site(lambda *_: (401, {}, b"")) as site, pytest.raises(ValueError, match=r"gave no first page \(http 401\): set CIVITAI_TOKEN"):
        rows(site, limit=5)
    with Site(lambda *_: (200, {}, b"<html>")) as site, pytest.raises(ValueError, match="not JSON"):
        rows(site, limit=5)
    with Site(lambda *_: page([])) as site, pytest.raises(ValueError, match=r"\(private address\): name its host:port"):
        list(civitai.rows(civitai.Config(url=site.url, limit=5)))


@pytest.mark.parametrize(
    ("source", "values", "sentence"),
    [
        (civitai, {}, "civitai.limit is missing"),
        (civitai, {"limit": 5, "nsfw": "Mild"}, "civitai.nsfw is 'Mild': choose None or Soft or Mature or X"),
        (civitai, {"limit": 5, "listing": "image"}, r"civitai.listing is 'image' .did you mean 'images'.*: choose images or models"),
        (civitai, {"limit": "all"}, "civitai.limit is 'all': give a whole number"),
        (civitai, {"limit": 5, "rate": 0}, "civitai.rate is 0: give requests per second above 0, or null"),
        (civitai, {"limit": 5, "timeout": -1}, "civitai.timeout is -1: give seconds above 0"),
        (civitai, {"limit": 5, "tries": 0}, "civitai.tries is 0: give at least 1"),
        (lexica, {"queries": []}, "lexica.queries is empty: name what to search for"),
        (urls, {"path": "a.csv", "private": "127.0.0.1:80"}, "urls.private is '127.0.0.1:80': give a list"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_sentence(source, values, sentence):
    with pytest.raises(ValueError, match=f"params.yaml: sources.{sentence}"):
        from_dict(source.Config, values, f"sources.{source.__name__.rpartition('.')[2]}")


def test_a_cursor_that_leads_nowhere_ends_the_listing_with_a_reason():
    count = iter(range(1000))
    for leads, reason in (
        (lambda: {"nextCursor": "same"}, "the cursor repeats"),
        (lambda: {"nextCursor": {"no": "cursor"}}, "malformed cursor"),
        (lambda: {"nextPage": "http://[x/"}, "malformed cursor"),
    ):
        with Site(lambda path, _, leads=leads: page(["x"], **leads())) as site:
            assert rows(site, limit=50)[-1]["dropped"] == f"page: {reason}"
            assert len(site.requests) <= 2
    with Site(lambda path, _: page([], nextCursor=next(count))) as site:
        assert [r["dropped"] for r in rows(site, limit=50)] == [f"page: no picture on {civitai.MAX_EMPTY_PAGES} pages"]


MODELS = [
    {"name": "a", "modelVersions": [{"images": [{"n": 0, "nsfw": "None"}, {"n": 1, "nsfw": "X"}]}, {"images": [{"n": 2, "nsfw": "None"}]}]},
    {"name": "b", "modelVersions": None},
    "no model",
]


def test_the_listing_by_models_is_read_in_order_and_its_numbered_pages_are_followed():
    def answer(path, headers):
        if not path.startswith("/api"):
            return 200, {}, path.encode()
        number = int(parse_qs(urlsplit(path).query).get("page", ["1"])[0])
        models = json.loads(json.dumps(MODELS))
        for image in (i for m in models[:1] for v in m["modelVersions"] for i in v["images"]):
            image |= {"url": f"{site.url}/{number}/{image['n']}", "type": "image", "meta": {"prompt": f"p{image['n']}"}}
        return page(models, currentPage=number, **({"nextPage": f"https://elsewhere.org/?page={number + 1}"} if number < 3 else {}))

    with Site(answer) as site:
        result = rows(site, limit=50, listing="models")
        assert [urlsplit(r["url"]).path for r in result] == [f"/{p}/{n}" for p in (1, 2, 3) for n in (0, 1, 2)]
        assert [r["dropped"] for r in result] == [None, "flagged X", None] * 3
        assert result[8]["data"] == b"/3/2" and result[8]["complex_prompt"] == "p2"
        assert len(rows(site, limit=4, listing="models")) == 4


@real
@pytest.mark.parametrize("name", ["meta-1.sfw.json", "meta-2.sfw.json"])
def test_recorded_pages_of_the_real_site_are_read(name):
    recorded = json.loads((REAL / "civitai-api-pages" / name).read_text())
    images = [i for m in recorded["items"] for v in m["modelVersions"] for i in v["images"]]
    images_by_url = {i["url"]: str(n) for n, i in enumerate(images)}
    for i in images:  # recorded pages, with the URLs of images on loopback
        i["url"] = f"http://images/{images_by_url[i['url']]}"

    def answer(path, headers):
        return page(recorded["items"]) if path.startswith("/api") else (200, {}, b"image")

    with Site(answer) as site:
        for i in images:
            i["url"] = i["url"].replace("http://images", site.url)
        result = rows(site, limit=10_000, listing="models")
    assert len(result) == len(images) > 100
    for row, image in zip(result, images, strict=True):
        assert row["nsfw"] == image["nsfw"] and row["width"] == image["width"]
        assert (row["data"] is None) == (row["nsfw"] != "None")
        assert bool(row["complex_prompt"]) == bool((image["meta"] or {}).get("prompt"))


# lexica


def test_lexica_is_read_query_by_query_and_an_image_found_twice_is_fetched_once():
    def answer(path, headers):
        if not path.startswith("/api"):
            return 200, {}, path.encode()
        if (query := parse_qs(urlsplit(path).query)["q"][0]) == "broken":
            return 200, {}, b"oops"
        images = [{"src": f"{site.url}/{query}", "prompt": f" {query} ", "nsfw": query == "b & c", "width": 9}, {"src": f"{site.url}/same"}]
        return 200, {}, json.dumps({"images": [*images, {"src": f"{site.url}/g", "grid": True}, 7]}).encode()

    with Site(answer) as site:
        settings = {"url": site.url, "rate": None, "private": [site.host]}
        result = list(lexica.rows(lexica.Config(queries=("a", "broken", "b & c"), **settings)))
        assert [r["dropped"] for r in result] == [
            *(None, None, "a grid of pictures", "no address", "page: not JSON"),
            *(None, "duplicate", "a grid of pictures", "no address"),
        ]
        assert [result[i]["complex_prompt"] for i in (0, 5)] == ["a", "b & c"] and [result[i]["nsfw"] for i in (0, 1, 5)] == [
            "None",
            "Unknown",
            "X",
        ]
        assert [p for p, _ in site.requests].count("/same") == 1 and result[0]["data"] == b"/a"
        assert len(list(lexica.rows(lexica.Config(queries=("a",), limit=2, **settings)))) == 2
        with pytest.raises(ValueError, match=r"no answer to the first query \(not JSON\): try later"):
            list(lexica.rows(lexica.Config(queries=("broken",), **settings)))


# a list of URLs


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_list_of_urls_is_fetched_in_order_and_a_line_without_a_url_stays_a_row(tmp_path, kind, monkeypatch):
    import pandas as pd

    monkeypatch.setattr(urls, "BATCH_SIZE", 3)
    with Site(lambda path, _: (200, {}, path.encode())) as site:
        table = pd.DataFrame({"link": [f"{site.url}/{i}" for i in range(7)] + ["", "ftp://x/y"], "words": [" p "] * 8 + [""], "other": 1})
        getattr(table, f"to_{kind}")(file := tmp_path / f"list.{kind}", index=False)
        settings = {"path": str(file), "url": "link", "prompt": "words", "licence": "CC0", "rate": None, "private": [site.host]}
        result = list(urls.rows(urls.Config(**settings)))
        assert [r["data"] for r in result] == [f"/{i}".encode() for i in range(7)] + [None, None]
        assert [r["dropped"] for r in result] == [None] * 7 + ["no address"] * 2
        assert [r["complex_prompt"] for r in result] == ["p"] * 8 + [None] and result[0]["licence"] == "CC0"
        assert len(list(urls.rows(urls.Config(**settings, limit=4)))) == 4
        before = urls.Config(path=str(file)).inputs()
        getattr(table[1:], f"to_{kind}")(file, index=False)
        assert urls.Config(path=str(file)).inputs() != before


def test_a_list_that_is_missing_or_lacks_a_column_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file: name a list of URLs"):
        urls.rows(urls.Config(path=str(tmp_path / "none.csv")))
    (tmp_path / "a.csv").write_text("link,prompt\nx,y\n")
    with pytest.raises(ValueError, match="has no column 'url', but link, prompt: name the right one"):
        urls.rows(urls.Config(path=str(tmp_path / "a.csv")))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="a.parquet cannot be read .*: repair or replace it"):
        urls.rows(urls.Config(path=str(tmp_path / "a.parquet")))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="neither .parquet nor .csv"):
        urls.rows(urls.Config(path=str(tmp_path / "a.txt")))


def test_the_miniature_yields_the_same_rows_each_time_on_any_port():
    a, b, c = (list(miniature.rows(miniature.Config(count=40, seed=seed))) for seed in (4, 4, 5))
    assert a == b != c
    assert a[3]["url"].startswith("gallery://miniature/images/1000003.") and a[3]["source"] == "miniature"
