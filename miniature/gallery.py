"""A prompt gallery on loopback, in the shape of Civitai's `/api/v1/images`, with the faults of a real one planted.

    with Gallery(count=200, seed=0) as gallery:
        requests.get(gallery.url + "/api/v1/images", params={"withMeta": "true", "limit": 100})

Pictures are scenes of the miniature without held-out combinations (scenes.HELD_OUT), each with its keyword prompt. What is wrong with
which picture is kept in `gallery.faults`; what each really shows, in `gallery.includes`. The same count, seed and rates make the same
gallery.

    with serve_in_process(count=200) as url:

serves one from a process of its own, so that drawing pictures and fetching them share no interpreter lock.
"""

import json
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import islice
from pathlib import Path
from random import Random
from subprocess import PIPE, Popen
from threading import Lock, Thread
from urllib.parse import parse_qs, urlencode, urlsplit

from PIL import Image

from miniature.scenes import Scene, make
from miniature.words import complex_prompt, simple_prompt

FIRST_SEED = 2_000_000  # scenes no model was trained or tested on
FAULTS = {
    "wrong_prompt": 0.05,  # the prompt of another scene
    "duplicate": 0.03,  # the very bytes of an earlier picture, other tags around its prompt
    "reencoded": 0.03,  # an earlier picture as a JPEG, a little larger
    "no_prompt": 0.03,  # meta null, meta without a prompt, or an empty one
    "nsfw": 0.03,  # flagged Soft, Mature or X; the picture itself is as harmless as all others
    "tiny": 0.02,  # 16×16
    "truncated": 0.02,  # the file ends early
    "html": 0.01,  # an error page that calls itself image/png
    "busy_503": 0.005,  # answers 503 once, then as it should
    "busy_429": 0.005,  # answers 429 once, then as it should
}
LEVELS = {"None": 1, "Soft": 2, "Mature": 4, "X": 8}
TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
PAGE_LIMIT = 200


class Gallery:
    """`count` pictures, served while the `with` block lasts. `rates`: fault -> share of the pictures; `url` is its address."""

    def __init__(self, count: int, seed: int = 0, rates: dict[str, float] = FAULTS, retry_after: int = 1):
        if unknown := set(rates) - set(FAULTS):
            raise ValueError(f"unknown fault {sorted(unknown)[0]!r}: name one of {', '.join(FAULTS)}")
        if sum(rates.values()) > 1:
            raise ValueError(f"the rates of all faults add up to {sum(rates.values()):g}: they must not exceed 1")
        self.count, self.seed, self.retry_after = count, seed, retry_after
        rng = Random(f"gallery {seed}")
        drawn = [rng.choices([None, *rates], [1 - sum(rates.values()), *rates.values()])[0] for _ in range(count)]
        self._copy_of = {i: rng.randrange(i) for i, fault in enumerate(drawn) if fault in ("duplicate", "reencoded") and i}
        self.faults = {self.id(i): fault for i, fault in enumerate(drawn) if fault and (i or fault not in ("duplicate", "reencoded"))}
        self._copy_of = {i: self._root(i) for i in self._copy_of}
        self._served: set[str] = set()
        self._lock = Lock()

    # what there is

    def id(self, index: int) -> int:
        return 1_000_000 + index

    def scene(self, index: int) -> Scene:
        return make(FIRST_SEED + self.seed * 100_000 + self._copy_of.get(index, index), known=True)

    @property
    def includes(self) -> dict[int, list[dict]]:
        """What each picture really shows, by id."""
        return {self.id(i): self.scene(i).include for i in range(self.count)}

    def prompt(self, index: int) -> str | None:
        fault = self.faults.get(self.id(index))
        if fault == "no_prompt":
            return Random(index).choice((None, ""))
        scene = self.scene(index)
        if fault == "wrong_prompt":
            others = (make(scene.seed + 50_000 + k, known=True) for k in range(1000))
            scene = next(other for other in others if other.include != scene.include)
        return complex_prompt(scene, index)

    def sentence(self, id: int) -> str:
        """A plain sentence that is true of the picture with this id, whatever its prompt says."""
        index = id - self.id(0)
        return simple_prompt(self.scene(index), index, "phrases")

    @lru_cache(maxsize=4096)  # noqa: B019 - a gallery lives as long as its block
    def file(self, index: int) -> tuple[bytes, str]:
        """(bytes, extension) as served, faults and all."""
        fault, ext = self.faults.get(self.id(index)), self.ext(index)
        if fault == "html":
            return b"<!doctype html><title>502 Bad Gateway</title><h1>502 Bad Gateway</h1>" * 8, ext
        if fault == "duplicate":
            return self.file(self._copy_of[index])
        image = self.scene(index).draw()
        if fault == "tiny":
            image = image.resize((16, 16))
        if fault == "reencoded":
            image = image.resize((80, 80), Image.Resampling.LANCZOS)
        data = _encode(image, ext)
        return (data[: len(data) * 6 // 10] if fault == "truncated" else data), ext

    def ext(self, index: int) -> str:
        fault = self.faults.get(self.id(index))
        if fault == "duplicate":
            return self.ext(self._copy_of[index])
        if fault == "reencoded":
            return "jpeg"
        return "png" if fault == "html" else Random(f"ext {index}").choices(("png", "jpeg", "webp"), (8, 1, 1))[0]

    def _root(self, index: int) -> int:
        """The first picture a copy goes back to: copies of copies, of pages and of cut files are of no use."""
        spoiled = ("html", "truncated", "tiny", "no_prompt", "nsfw", "wrong_prompt")
        while index in self._copy_of or self.faults.get(self.id(index)) in spoiled:
            index = self._copy_of.get(index, index - 1) if index else self.count - 1
        return index

    # how it is served

    def item(self, index: int, with_meta: bool) -> dict:
        """One entry of `items`, in Civitai's fields."""
        fault, level = self.faults.get(self.id(index)), self.level(index)
        side = {"tiny": 16, "reencoded": 80}.get(fault, 64)
        item = {
            "id": self.id(index),
            "url": f"{self.url}/images/{self.id(index)}.{self.ext(index)}",
            "hash": None,
            "width": side,
            "height": side,
            "type": "image",
            "nsfw": level != "None",
            "nsfwLevel": level,
            "browsingLevel": LEVELS[level],
            "createdAt": f"2026-01-{1 + index % 28:02d}T00:00:00.000Z",
            "postId": 500_000 + index // 4,
            "username": f"painter{index % 17}",
            "baseModel": "Miniature",
            "stats": {"cryCount": 0, "laughCount": 0, "likeCount": index % 23, "heartCount": index % 7, "commentCount": 0},
        }
        if with_meta:
            meta = {"seed": index, "steps": 20, "sampler": "DDIM", "cfgScale": 3, "Size": f"{side}x{side}", "negativePrompt": "blurry"}
            prompt = self.prompt(index)
            bare = fault == "no_prompt" and prompt is None
            item["meta"] = None if bare else meta | {"prompt": prompt}
        return item

    def level(self, index: int) -> str:
        """None | Soft | Mature | X"""
        flagged = self.faults.get(self.id(index)) == "nsfw"
        return Random(f"nsfw {index}").choice(("Soft", "Mature", "X")) if flagged else "None"

    def page(self, query: dict[str, str]) -> tuple[int, dict]:
        """(status, JSON) of GET /api/v1/images."""
        try:
            limit, start = int(query.get("limit", 100)), _uncursor(query["cursor"]) if "cursor" in query else 0
            page = int(query.get("page", 1))
            mask = int(query["browsingLevel"]) if "browsingLevel" in query else _mask(query.get("nsfw", "X"))
        except (ValueError, KeyError):
            return 400, {"error": "limit, page, cursor, nsfw or browsingLevel is malformed"}
        if not 0 < limit <= PAGE_LIMIT:
            return 400, {"error": f"limit must be 1 to {PAGE_LIMIT}"}
        if page * limit > 1000:
            return 429, {"error": "use cursors to page beyond 1000 items"}
        shown = list(islice((i for i in range(start, self.count) if LEVELS[self.level(i)] & mask), limit + 1))
        metadata = {"pageSize": limit}
        if len(shown) > limit:
            metadata["nextCursor"] = _cursor(shown[limit])
            metadata["nextPage"] = f"{self.url}/api/v1/images?" + urlencode(query | {"cursor": metadata["nextCursor"]})
        with_meta = query.get("withMeta") == "true"
        return 200, {"items": [self.item(i, with_meta) for i in shown[:limit]], "metadata": metadata}

    def picture(self, path: str) -> tuple[int, bytes, str]:
        """(status, bytes, content type) of GET /images/…"""
        name, _, ext = path.removeprefix("/images/").partition(".")
        index = int(name) - self.id(0) if name.isdecimal() else -1
        if not (0 <= index < self.count and ext == self.ext(index)):
            return 404, b"not found", "text/plain"
        return 200, self.file(index)[0], TYPES[ext]

    def busy(self, path: str) -> int | None:
        """429 or 503 the first time an overloaded address is asked for, None ever after."""
        name = path.rsplit("/", 1)[-1].split(".")[0]
        fault = self.faults.get(int(name)) if name.isdecimal() else None
        if fault not in ("busy_429", "busy_503"):
            return None
        with self._lock:
            if path in self._served:
                return None
            self._served.add(path)
        return int(fault[-3:])

    def __enter__(self) -> "Gallery":
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"gallery": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serve_in_process(count: int, seed: int = 0, retry_after: int = 1) -> Iterator[str]:
    """Serves `Gallery(count, seed, retry_after=retry_after)` from another process while the block lasts; yields its URL.

    The process ends when its standard input does, so also if this one is killed. Raises RuntimeError if it does not start.
    """
    command = [sys.executable, "-m", "miniature.gallery", *map(str, (count, seed, retry_after))]
    root = Path(__file__).parents[1]  # from which `-m` finds this module, wherever this process runs
    with Popen(command, cwd=root, stdin=PIPE, stdout=PIPE, text=True, start_new_session=True) as process:  # Ctrl-C is for this one
        try:
            if not (url := process.stdout.readline().strip()):
                raise RuntimeError("the process of the gallery's server has ended before it served anything: see its message above")
            yield url
        finally:
            process.stdin.close()
            process.wait()  # after an interrupt, Popen would not


def _serve_until_stdin_ends(count: int, seed: int, retry_after: int) -> None:
    with Gallery(count, seed, retry_after=retry_after) as gallery:
        print(gallery.url, flush=True)
        sys.stdin.read()


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # with the library's 5, a crowd at a busy machine's door hangs for half a minute

    def handle_error(self, *_) -> None:
        """Nobody need hear of a reader who went away amid an answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)


class _Handler(BaseHTTPRequestHandler):
    gallery: Gallery
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # buffered: one packet for the header and a small body

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if status := self.gallery.busy(url.path):
            self._send(status, b"busy", "text/plain", {"Retry-After": str(self.gallery.retry_after)})
        elif url.path == "/robots.txt":
            self._send(200, b"User-agent: *\nAllow: /\n", "text/plain")
        elif url.path == "/api/v1/images":
            status, body = self.gallery.page({k: v[0] for k, v in parse_qs(url.query).items()})
            self._send(status, json.dumps(body).encode(), "application/json")
        else:
            self._send(*self.gallery.picture(url.path))

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def _encode(image: Image.Image, ext: str) -> bytes:
    buffer = BytesIO()
    options = {"jpeg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(ext, {})
    image.save(buffer, ext, **options)
    return buffer.getvalue()


def _cursor(index: int) -> str:
    return urlsafe_b64encode(f"at {index}".encode()).decode()


def _uncursor(cursor: str) -> int:
    return int(urlsafe_b64decode(cursor).decode().removeprefix("at "))


def _mask(level: str) -> int:
    """Civitai's older `nsfw`: everything up to a level."""
    return 2 * LEVELS[level] - 1


if __name__ == "__main__":
    _serve_until_stdin_ends(*map(int, sys.argv[1:]))
