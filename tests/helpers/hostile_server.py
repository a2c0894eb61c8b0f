"""A web site on loopback that does what it is told, however ill that is: slow, endless, lying about lengths, leading astray."""

import gzip
import json
import socket
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Site:
    """`answer(path, headers)` -> (status, headers, body); a body is bytes, a list of bytes sent a tenth of a second apart, or a function
    that is given the open file and writes what it likes. What was asked, robots.txt apart, is kept in `asked`; `robots` is its text."""

    def __init__(self, answer: Callable, robots: str | tuple | None = None):
        site, self.asked, self.robots_asked = self, [], 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/robots.txt":
                    site.robots_asked += 1
                    given = (404, {}, b"") if robots is None else robots if isinstance(robots, tuple) else (200, {}, robots.encode())
                else:
                    site.asked.append((self.path, dict(self.headers)))
                    given = answer(self.path, self.headers)
                self.send(*given)

            def send(self, status, headers, body):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    if callable(body):
                        return body(self.wfile)
                    for part in body if isinstance(body, list) else [body]:
                        self.wfile.write(part)
                        self.wfile.flush()
                        if isinstance(body, list):
                            time.sleep(0.1)
                except OSError:  # the client had enough
                    return None

            def log_message(self, *_):
                pass

        self.server = type("Server", (ThreadingHTTPServer,), {"request_queue_size": 256})(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.host}"

    def __enter__(self):
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Mute:
    """A port that takes connections and never says a word."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.socket.getsockname()[1]}"
        return self

    def __exit__(self, *_):
        self.socket.close()


def page(items, **metadata) -> tuple:
    return 200, {"Content-Type": "application/json"}, json.dumps({"items": items, "metadata": metadata}).encode()


def item(url, **more) -> dict:
    return {"url": url, "width": 8, "height": 8, "type": "image", "nsfwLevel": "None", "meta": {"prompt": " a cat "}} | more


def claimed(width: int, height: int) -> bytes:
    """A PNG that says it is that large, and is 75 bytes long."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return head + chunk(b"IDAT", zlib.compress(b"\0" * 4)[:6].ljust(18, b"\0")) + chunk(b"IEND", b"")


def bomb(size: int) -> bytes:
    """gzip of so many zeros."""
    return gzip.compress(b"\0" * size)


def trickle(seconds: float, head: bytes = b"") -> Callable:
    """One byte every twentieth of a second."""

    def write(file):
        file.write(head)
        for _ in range(int(seconds * 20)):
            file.write(b"x")
            file.flush()
            time.sleep(0.05)

    return write


def endless(file) -> None:
    while True:
        file.write(b"x" * 65536)


@contextmanager
def bounded(megabytes: float, seconds: float):
    """No more memory at a time and no more of the processor than that."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        assert time.process_time() - began < seconds
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()
