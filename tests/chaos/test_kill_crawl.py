"""A killed crawl resumes, and each row of a hostile site ends with an image or a reason."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random
from threading import Lock
from urllib.parse import parse_qs, urlsplit

import pytest
from helpers.hostile_server import Site, item, page, png_of_claimed_size
from helpers.made_images import png
from helpers.repository import ROOT
from helpers.small_models import encode
from helpers.stages import crawl
from PIL import Image
from ruamel.yaml import YAML

from sur_adapter.data.crawl.removal import hash_value
from sur_adapter.data.sources import civitai, miniature
from sur_adapter.io.shards import read_table, read_tar
from sur_adapter.io.work_cache import work_dir

pytestmark = pytest.mark.usefixtures("own_work")

COUNT, WORKERS, SHARD = 300, 4, 64


class NumberedImages(Site):
    """COUNT images in pages of 40; some are missing, some are duplicates. `after(n)` is called after the n-th image request."""

    def __init__(self):
        self.num_requests, self.after, self.lock = 0, lambda _: None, Lock()
        super().__init__(self.answer)

    def answer(self, path, _):
        if path.startswith("/api"):
            start = int(parse_qs(urlsplit(path).query).get("cursor", ["0"])[0])
            end = min(start + 40, COUNT)
            return page([item(f"{self.url}/{i}") for i in range(start, end)], **({"nextCursor": end} if end < COUNT else {}))
        with self.lock:
            self.num_requests += 1
            self.after(self.num_requests)
        number = int(path[1:])
        return (404, {}, b"") if number % 17 == 3 else (200, {}, png(text={"number": str(number if number % 13 else 0)}))


def start(site: Site, out: Path) -> subprocess.Popen:
    file = out.parent.parent / "params.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    rules = {"url": site.url, "limit": COUNT, "rate": None, "workers": WORKERS, "private": [site.host]}
    YAML().dump({"sources": {"civitai": rules}}, file)
    command = [sys.executable, "-m", "stages", "crawl", "--source", out.name, "--out", str(out), "--rows-per-shard", str(SHARD)]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"SUR_PARAMS": str(file), "TQDM_DISABLE": "1"})


def contents(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


@pytest.mark.parametrize("seed", range(int(os.environ.get("SUR_KILLS", "1"))))
def test_a_crawl_killed_at_any_moment_ends_with_the_same_bytes_and_requests_nothing_twice(tmp_path, seed):
    with NumberedImages() as site:
        assert start(site, tmp_path / "undisturbed" / "civitai").wait() == 0
        num_requests = len(site.requests)
        assert site.num_requests == COUNT
        site.requests.clear()
        moments = sorted(Random(seed).sample(range(1, COUNT), 3))
        site.num_requests = 0
        for moment in moments:
            process = start(site, tmp_path / "killed" / "civitai")
            site.after = lambda n, moment=moment, process=process: process.kill() if n >= moment else None
            assert process.wait() == -9
            assert not (tmp_path / "killed" / "civitai").exists(), "outs are published at the end"
        site.after = lambda n: None
        assert start(site, tmp_path / "killed" / "civitai").wait() == 0
        assert contents(tmp_path / "killed" / "civitai") == contents(tmp_path / "undisturbed" / "civitai")
        paths = [path for path, _ in site.requests]
        twice = {p for p in paths if paths.count(p) > 1}
        assert len(twice) <= len(moments) * WORKERS, "only requests in flight at a kill are repeated"
        assert sum(p.startswith("/api") for p in paths) <= num_requests - COUNT + len(moments), "finished pages are not requested again"
    assert not [f for f in work_dir().iterdir() if f.is_dir()]


def test_finished_shards_are_not_crawled_again_and_duplicates_before_and_after_the_kill_are_detected(tmp_path):
    with NumberedImages() as site:
        process = start(site, tmp_path / "a" / "civitai")

        def after(n: int) -> None:
            if n > 230:  # all rows of three shards have a response, so one will be written
                while process.poll() is None and not list(work_dir().glob("*/prompts-*.parquet")):
                    time.sleep(0.01)
                process.kill()

        site.after = after
        process.wait()
        (work,) = (f for f in work_dir().iterdir() if f.is_dir())
        shards = len(list(work.glob("prompts-*.parquet")))
        rows = len(list(work.glob("row-*")))
        assert shards and rows, "one shard is finished and the next has rows"
        first = {path for path, _ in site.requests}
        site.requests.clear()
        site.after = lambda n: None
        assert start(site, tmp_path / "a" / "civitai").wait() == 0
        again = {p for p, _ in site.requests} & first
        assert len(again) <= WORKERS
    table = read_table(tmp_path / "a" / "civitai")
    assert len(table) == COUNT and list(table.url.str.rpartition("/")[2].astype(int)) == list(range(COUNT))
    assert table.dropped.value_counts().to_dict() == {
        "http 404": 18,
        "duplicate": sum(i % 13 == 0 and i % 17 != 3 for i in range(COUNT)) - 1,
    }
    assert [key for key, _, _ in read_tar(tmp_path / "a" / "civitai")] == list(table.id[table.dropped.isna()])


def test_an_interrupted_crawl_of_the_miniature_resumes_on_another_port(tmp_path, monkeypatch):
    def digest(sources, name):
        crawl(tmp_path / name / "miniature", sources=sources)
        return contents(tmp_path / name / "miniature")

    sources, rows = {"miniature": {"count": 120, "seed": 2}}, miniature.rows

    def broken(config, state):
        for number, row in enumerate(rows(config, state)):
            if number == 70:
                raise KeyboardInterrupt
            yield row

    undisturbed = digest(sources, "undisturbed")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(miniature, "rows", broken)
        digest(sources, "again")
    (work,) = (f for f in work_dir().iterdir() if f.is_dir())
    assert len(list(work.glob("row-*"))) >= 70
    assert digest(sources, "again") == undisturbed


def test_an_invalid_page_is_fetched_again_at_the_next_start(tmp_path):
    answers = iter([(200, {}, b'{"error": "busy"}'), page([])])
    with Site(lambda *_: next(answers)) as site:
        rules = {"civitai": {"url": site.url, "limit": 5, "private": [site.host]}}
        for reason in ("no list of items", "gave no row"):
            with pytest.raises(ValueError, match=reason):
                crawl(tmp_path / "civitai", sources=rules)


def test_closing_the_rows_early_ends_the_fetcher_thread_and_its_requests():
    with Site(lambda path, _: page([item(f"{site.url}/{i}") for i in range(200)]) if "/api" in path else (200, {}, [b"x"] * 2)) as site:
        rows = civitai.rows(civitai.Config(url=site.url, limit=200, rate=None, private=(site.host,)))
        next(rows)
        assert "fetcher" in {thread.name for thread in threading.enumerate()}
        rows.close()
        before = len(site.requests)
        time.sleep(0.3)
        assert "fetcher" not in {thread.name for thread in threading.enumerate()} and len(site.requests) <= before + 8 < 60


def test_a_list_that_changed_since_a_failed_crawl_is_crawled_from_its_start(tmp_path):
    with Site(lambda path, _: (200, {}, png(text={"path": path})) if path != "/stop" else (200, {}, b"")) as site:
        file = tmp_path / "list.csv"
        rules = {"urls": {"path": str(file), "rate": None, "private": [site.host]}}
        file.write_text(f"url,prompt\n{site.url}/1,a\n{site.url}/2,b\n")
        (tmp_path / "no-folder").write_text("a file where the outs should be")
        with pytest.raises(OSError):
            crawl(tmp_path / "no-folder" / "urls", sources=rules)
        (work,) = (f for f in work_dir().iterdir() if f.is_dir())
        assert sorted(f.name for f in work.iterdir()) == ["images-000000.tar", "prompts-000000.parquet"], (
            "rows of a finished shard are stored once"
        )
        file.write_text(f"url,prompt\n{site.url}/3,c\n{site.url}/2,b\n")
        crawl(tmp_path / "raw" / "urls", sources=rules)
    table = read_table(tmp_path / "raw" / "urls")
    assert list(table.url.str[-1]) == ["3", "2"] and list(table.complex_prompt) == ["c", "b"]


def test_a_sample_removed_after_a_failed_crawl_is_not_in_the_shards_that_were_finished(tmp_path):
    with Site(lambda path, _: (200, {}, png(text={"path": path}))) as site:
        (tmp_path / "list.csv").write_text(f"url,prompt\n{site.url}/1,a\n{site.url}/2,b\n")
        rules = {"urls": {"path": str(tmp_path / "list.csv"), "rate": None, "private": [site.host]}}
        (tmp_path / "no-folder").write_text("a file where the outs should be")
        with pytest.raises(OSError):
            crawl(tmp_path / "no-folder" / "urls", sources=rules)
        assert list(work_dir().glob("*/prompts-000000.parquet")), "both rows are in a finished shard"
        (removals := tmp_path / "forgotten.txt").write_text(hash_value(f"{site.url}/1") + "\n")
        crawl(tmp_path / "raw" / "urls", removals, sources=rules)
    table = read_table(tmp_path / "raw" / "urls")
    assert list(table.dropped.fillna("kept")) == ["forgotten", "kept"] and list(table.complex_prompt.fillna("none")) == ["none", "b"]
    assert len(list(read_tar(tmp_path / "raw" / "urls"))) == 1


def test_every_row_of_a_hostile_site_ends_with_an_image_or_a_reason(tmp_path):
    served = {
        "image.png": ((200, {"Content-Type": "text/html"}, png()), None),
        "page.png": ((200, {"Content-Type": "image/png"}, b"<html>"), "not an image"),
        "cut.jpg": ((200, {}, encode(Image.effect_noise((64, 64), 80), "jpeg")[:-900]), "truncated"),
        "bomb.png": ((200, {}, png_of_claimed_size(9000, 9000)), "too many pixels"),
        "nothing.png": ((200, {}, b""), "not an image"),
        "noai.png": ((200, {"X-Robots-Tag": "noai"}, png("blue")), "opted out: noai"),
        "private/x.png": ((200, {}, png("green")), "robots.txt forbids"),
        "gone.png": ((410, {}, b""), "http 410"),
    }
    assert len(png_of_claimed_size(9000, 9000)) == 75

    def answer(path, _):
        return page([item(f"{site.url}/{name}") for name in served]) if path.startswith("/api") else served[path[1:]][0]

    with Site(answer, "User-agent: *\nDisallow: /private") as site:
        crawl(tmp_path / "civitai", sources={"civitai": {"url": site.url, "limit": 50, "rate": None, "private": [site.host]}})
    table = read_table(tmp_path / "civitai")
    assert [r if isinstance(r, str) else None for r in table.dropped] == [reason for _, reason in served.values()]
    assert [(ext, data) for _, ext, data in read_tar(tmp_path / "civitai")] == [("png", png())]
