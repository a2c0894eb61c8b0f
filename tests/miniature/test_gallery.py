"""The gallery serves every image, and every planted fault, to a plain HTTP client."""

import json
import subprocess
import sys
import time
from collections import Counter
from io import BytesIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from helpers.repository import ROOT
from PIL import Image, UnidentifiedImageError

from miniature import judge
from miniature.gallery import FAULTS, Gallery, serve_in_process
from miniature.words import read

COUNT = 700


def get(url: str) -> tuple[int, bytes, dict]:
    try:
        with urlopen(url, timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def pages(gallery: Gallery, **query):
    cursor = {}
    while True:
        status, body, _ = get(f"{gallery.url}/api/v1/images?{urlencode(query | cursor)}")
        assert status == 200, body
        page = json.loads(body)
        yield page
        if "nextCursor" not in page["metadata"]:
            return
        cursor = {"cursor": page["metadata"]["nextCursor"]}


@pytest.fixture(scope="module")
def crawled():
    """(gallery, items by id, first response by id, last response by id), of each image."""
    with Gallery(COUNT, seed=3) as gallery:
        items = [item for page in pages(gallery, withMeta="true", limit=100) for item in page["items"]]
        first = {item["id"]: get(item["url"]) for item in items}
        last = {i["id"]: get(i["url"]) if first[i["id"]][0] in (429, 503) else first[i["id"]] for i in items}
        yield gallery, {item["id"]: item for item in items}, first, last


def test_cursors_lead_to_every_image_exactly_once(crawled):
    gallery, items, _, last = crawled
    assert sorted(items) == [gallery.id(i) for i in range(COUNT)]
    assert all(status == 200 for status, _, _ in last.values())


def test_every_kind_of_fault_is_planted_at_about_its_configured_rate(crawled):
    gallery, *_ = crawled
    planted = Counter(gallery.faults.values())
    assert set(planted) == set(FAULTS)
    for fault, share in FAULTS.items():
        assert abs(planted[fault] - share * COUNT) <= 4 * (share * COUNT) ** 0.5 + 1, fault


def test_an_image_shows_what_its_prompt_says_unless_the_planted_fault_is_a_wrong_prompt(crawled):
    gallery, items, _, last = crawled
    for number, item in items.items():
        fault = gallery.faults.get(number)
        if fault in ("no_prompt", "tiny", "truncated", "html"):
            continue
        requested, shown = read(item["meta"]["prompt"]), judge.read(Image.open(BytesIO(last[number][1])))
        assert judge.agree(shown, gallery.includes[number])
        assert judge.agree(requested, shown) == (fault != "wrong_prompt"), (fault, item["meta"]["prompt"])


def test_only_truncated_images_and_html_pages_cannot_be_opened(crawled):
    gallery, _, _, last = crawled
    for number, (_, body, headers) in last.items():
        assert headers["Content-Type"].startswith("image/")
        try:
            Image.open(BytesIO(body)).load()
            opens = True
        except (UnidentifiedImageError, OSError, SyntaxError):
            opens = False
        assert opens == (gallery.faults.get(number) not in ("html", "truncated")), gallery.faults.get(number)


def test_exact_duplicates_have_equal_bytes_and_reencoded_ones_an_equal_scene(crawled):
    gallery, _, _, last = crawled
    same = Counter(body for _, body, _ in last.values())
    shown = Counter(json.dumps(v) for v in gallery.includes.values())
    for number, fault in gallery.faults.items():
        if fault == "duplicate":
            assert same[last[number][1]] >= 2
        if fault == "reencoded":
            assert last[number][1][:2] == b"\xff\xd8" and shown[json.dumps(gallery.includes[number])] >= 2


def test_missing_prompts_nsfw_flags_and_tiny_images_match_the_recorded_faults(crawled):
    gallery, items, _, _ = crawled
    for number, item in items.items():
        fault = gallery.faults.get(number)
        assert bool((item["meta"] or {}).get("prompt")) == (fault != "no_prompt")
        assert item["nsfw"] == (item["nsfwLevel"] != "None") == (item["browsingLevel"] > 1) == (fault == "nsfw")
        assert (item["width"] == 16) == (fault == "tiny")


def test_a_busy_url_responds_once_with_retry_after_and_then_with_the_image(crawled):
    gallery, _, first, last = crawled
    for number, (status, _, headers) in first.items():
        fault = gallery.faults.get(number, "")
        assert status == (int(fault[-3:]) if fault.startswith("busy") else 200)
        if status != 200:
            assert headers["Retry-After"] == "1" and last[number][0] == 200


def test_without_the_parameter_with_meta_prompts_are_not_sent(crawled):
    gallery, *_ = crawled
    assert all("meta" not in item for page in pages(gallery, limit=200) for item in page["items"])


def test_the_nsfw_level_and_the_browsing_level_filter_the_items(crawled):
    gallery, items, _, _ = crawled
    safe = {n for n, item in items.items() if not item["nsfw"]}
    assert {i["id"] for page in pages(gallery, limit=200, nsfw="None") for i in page["items"]} == safe
    assert {i["id"] for page in pages(gallery, limit=200, browsingLevel=14) for i in page["items"]} == set(items) - safe


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"limit": 201}, 400),
        ({"limit": 0}, 400),
        ({"cursor": "?"}, 400),
        ({"nsfw": "Maybe"}, 400),
        ({"page": 11, "limit": 100}, 429),
        ({"page": "x"}, 400),
    ],
)
def test_requests_that_the_real_api_refuses_are_refused(crawled, query, status):
    assert get(f"{crawled[0].url}/api/v1/images?{urlencode(query)}")[0] == status


def test_an_unknown_path_returns_404(crawled):
    for path in ("/images/999.png", "/images/x.png", "/images/1000000.gif", "/"):
        assert get(crawled[0].url + path)[0] == 404


def test_the_same_seed_makes_the_same_gallery():
    with Gallery(60, seed=9) as a, Gallery(60, seed=9) as b, Gallery(60, seed=10) as other:
        assert a.faults == b.faults and a.includes == b.includes != other.includes
        assert [a.file(i) for i in range(60)] == [b.file(i) for i in range(60)]


def test_a_misspelled_fault_or_too_many_faults_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="unknown fault 'nsfv': name one of wrong_prompt"):
        Gallery(10, rates={"nsfv": 0.1})
    with pytest.raises(ValueError, match="add up to 1.2: they must not exceed 1"):
        Gallery(10, rates={"nsfw": 0.6, "tiny": 0.6})


def servers(seed: int) -> list[str]:
    """The running processes that serve the gallery with this seed; a zombie has no command line."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if f"-m miniature.gallery 30 {seed} " in line and line.split()[0].endswith(sys.executable)]


def wait_until(condition) -> bool:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_a_process_of_its_own_serves_the_same_gallery_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Gallery(30, 77_001) as here, serve_in_process(30, 77_001) as url, serve_in_process(30, 77_001) as other:
        assert len({here.url, url, other}) == 3 and len(servers(77_001)) == 2, "each takes a free port"
        for index in range(30):
            path = f"/images/{here.id(index)}.{here.ext(index)}"
            assert len({(status, body) for status, body, _ in (get(address + path) for address in (here.url, url, other))}) == 1
        pages = [get(f"{address}/api/v1/images?withMeta=true&limit=7")[1].decode().replace(address, "") for address in (here.url, url)]
        assert pages[0] == pages[1] and "cursor" in pages[0]
    assert not servers(77_001), "it has ended with its block"
    with pytest.raises(URLError):
        get(url)


def test_the_process_ends_when_the_block_raises_and_when_its_parent_is_killed():
    with pytest.raises(KeyboardInterrupt), serve_in_process(30, 77_002):
        assert servers(77_002)
        raise KeyboardInterrupt
    assert not servers(77_002)
    code = "import time\nfrom miniature.gallery import serve_in_process\nwith serve_in_process(30, 77_003) as url:\n"
    code += "    print(url, flush=True)\n    time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    url = parent.stdout.readline().strip()
    assert get(f"{url}/robots.txt")[0] == 200
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not servers(77_003)), "nothing of a killed crawl stays"
    with pytest.raises(URLError):
        get(f"{url}/robots.txt")


def test_a_server_that_cannot_start_is_an_error():
    with pytest.raises(RuntimeError, match="the gallery's server has ended before it served anything"), serve_in_process(-1, "x"):
        pass
