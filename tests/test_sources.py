"""Every source gives a row for each candidate, kept or not, and says why."""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from miniature.gallery import Gallery
from sur_adapter.sources import civitai, miniature

REAL = Path(__file__).parents[2] / "shared" / "realdata"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real pictures is not beside this checkout")


class Site:
    """A web site on loopback: `answer(path, headers)` -> (status, headers, body), what was asked is kept in `asked`."""

    def __init__(self, answer):
        site, self.asked = self, []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked.append((self.path, dict(self.headers)))
                status, headers, body = answer(self.path, self.headers)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in body if isinstance(body, list) else [body]:
                    try:
                        self.wfile.write(part)
                        self.wfile.flush()
                    except OSError:  # the client had enough
                        return
                    if isinstance(body, list):
                        time.sleep(0.1)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.server.daemon_threads = True
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def page(items, **metadata) -> tuple:
    return 200, {"Content-Type": "application/json"}, json.dumps({"items": items, "metadata": metadata}).encode()


def item(url, **more) -> dict:
    return {"url": url, "width": 8, "height": 8, "type": "image", "nsfwLevel": "None", "meta": {"prompt": " a cat "}} | more


# civitai


def test_rows_come_in_the_order_of_the_gallery_and_cursors_are_followed_up_to_the_limit():
    with Gallery(450, seed=1, retry_after=0) as gallery:
        rows = list(civitai.rows(url=gallery.url, limit=430, nsfw="X"))
        assert [r["url"] for r in rows] == [gallery.item(i, True)["url"] for i in range(430)]
        assert [r["complex_prompt"] for r in rows] == [gallery.prompt(i) or None for i in range(430)]
        assert [r["data"] for r in rows] == [gallery.file(i)[0] for i in range(430)]
        assert not any(r["dropped"] for r in rows)
        assert {r["nsfw"] for r in rows} == {"None", "Soft", "Mature", "X"}
        assert len(list(civitai.rows(url=gallery.url, limit=1000, nsfw="X"))) == 450


def test_only_what_was_asked_for_is_shown_of_flagged_pictures():
    with Gallery(100, seed=1, rates={"nsfw": 0.3}) as gallery:
        assert {r["nsfw"] for r in civitai.rows(url=gallery.url, limit=100)} == {"None"}


def test_whatever_goes_wrong_with_a_picture_ends_in_a_reason_in_its_place():
    def answer(path, headers):
        if path.startswith("/api"):
            paths = ("good", "missing", "huge", "slow", "busy")
            odd = [
                {"type": "video"},
                item("file:///etc/passwd"),
                item(None),
                "no item",
                item("http://127.0.0.1:1/closed.png"),
                item("http://"),
            ]
            return page([item(f"{site.url}/{p}") for p in paths] + odd)
        body = {"/good": b"good", "/huge": b"x" * 3000, "/slow": [b"x"] * 30}.get(path)
        return (200, {}, body) if body else (404 if path == "/missing" else 503, {"Retry-After": "0"}, b"")

    with Site(answer) as site:
        rows = list(civitai.rows(url=site.url, limit=50, tries=2, timeout=0.5, max_bytes=2000))
        assert [r["dropped"] for r in rows] == [
            *(None, "http 404", "too many bytes", "timeout", "http 503"),
            *("not an image", "no address", "no address", "no address", "connection failed", "no address"),
        ]
        assert rows[0]["data"] == b"good" and rows[0]["complex_prompt"] == "a cat"
        assert [p for p, _ in site.asked].count("/missing") == 1, "a 404 is not asked for again"
        assert [p for p, _ in site.asked].count("/busy") == 2


def test_a_busy_host_is_left_alone_for_as_long_as_it_asks():
    times = []

    def answer(path, headers):
        if path.startswith("/api"):
            return page([item(f"{site.url}/a.png")])
        times.append(time.monotonic())
        return (429, {"Retry-After": "1"}, b"") if len(times) == 1 else (200, {}, b"ok")

    with Site(answer) as site:
        assert [r["data"] for r in civitai.rows(url=site.url, limit=5)] == [b"ok"]
    assert times[1] - times[0] >= 1


def test_a_host_that_asks_for_an_hour_is_not_asked_again():
    def answer(path, headers):
        return page([item(f"{site.url}/a.png")]) if path.startswith("/api") else (429, {"Retry-After": "3600"}, b"")

    with Site(answer) as site:
        assert [r["dropped"] for r in civitai.rows(url=site.url, limit=5)] == ["http 429"]
        assert len(site.asked) == 2


def test_the_token_goes_to_the_api_and_to_nobody_else(monkeypatch):
    monkeypatch.setenv("CIVITAI_TOKEN", "secret")

    def moved(path, headers):
        return 302, {"Location": other.url + path}, b""

    def elsewhere(path, headers):
        return page([item(f"{other.url}/a.png"), item(f"{api.url}/b.png")]) if path.startswith("/api") else (200, {}, b"ok")

    with Site(elsewhere) as other, Site(moved) as api:
        rows = list(civitai.rows(url=api.url.replace("127.0.0.1", "localhost"), limit=5))
        assert [r["data"] for r in rows] == [b"ok", b"ok"]
        told = [urlsplit(p).path for p, h in api.asked if h.get("Authorization") == "Bearer secret"]
        assert told == ["/api/v1/images"] and len(other.asked) == 3
        assert not any("secret" in str(asked) for asked in other.asked)
        assert all("sur-adapter" in h["User-Agent"] for _, h in api.asked + other.asked)


def test_a_later_page_that_fails_is_a_row_with_a_reason_and_the_first_a_sentence():
    def answer(path, headers):
        return (
            (500, {}, b"") if "cursor" in path else page([item(f"{site.url}/x")], nextCursor="c2") if "/api" in path else (200, {}, b"ok")
        )

    with Site(answer) as site:
        rows = list(civitai.rows(url=site.url, limit=5, tries=1))
        assert [(r["dropped"], r["url"].rpartition("=")[2]) for r in rows][1] == ("page: http 500", "c2")
    with Site(lambda *_: (401, {}, b"")) as site, pytest.raises(ValueError, match=r"gave no first page \(http 401\): set CIVITAI_TOKEN"):
        list(civitai.rows(url=site.url, limit=5))
    with Site(lambda *_: (200, {}, b"<html>")) as site, pytest.raises(ValueError, match="not JSON"):
        list(civitai.rows(url=site.url, limit=5))


def test_a_cursor_that_leads_in_a_circle_is_left():
    with Site(lambda path, _: page([item("x")], nextCursor="same")) as site:
        assert len(list(civitai.rows(url=site.url, limit=50))) == 2
    with Site(lambda path, _: page([item("x")], nextCursor={"no": "cursor"})) as site:
        assert len(list(civitai.rows(url=site.url, limit=50))) == 1


@real
def test_recorded_items_of_the_real_site_are_read_whatever_their_meta_holds():
    models = json.loads((REAL / "civitai-api-pages" / "meta-1.sfw.json").read_text())["items"]
    items = [i for m in models for v in m["modelVersions"] for i in v["images"]]
    with Site(lambda path, _: page(items) if path.startswith("/api") else (200, {}, b"")) as site:
        items = [i | {"url": site.url + "/p"} for i in items[:200]]
        rows = list(civitai.rows(url=site.url, limit=200))
    assert len(rows) == len(items) > 100
    for row, told in zip(rows, items, strict=True):
        assert row["nsfw"] == told["nsfw"] and row["width"] == told["width"]
        assert bool(row["complex_prompt"]) == bool((told["meta"] or {}).get("prompt"))


def test_the_miniature_gives_the_same_rows_each_time_whatever_its_port():
    a, b = list(miniature.rows(count=40, seed=4)), list(miniature.rows(count=40, seed=4))
    assert a == b != list(miniature.rows(count=40, seed=5))
    assert a[3]["url"].startswith("gallery://miniature/images/1000003.") and a[3]["source"] == "miniature"
