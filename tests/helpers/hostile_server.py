"""A web site on loopback with configurable responses: slow, endless, of wrong length, redirecting anywhere."""

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
    """Serves `answer(path, headers)` -> (status, headers, body) while its block lasts.

    A body is bytes, a list of bytes sent a tenth of a second apart, or a function that writes to the open connection. robots: the text of
    robots.txt, or its whole answer; None: 404. `requests` lists (path, headers) of all requests except those of robots.txt.
    """

    def __init__(self, answer: Callable, robots: str | tuple | None = None):
        site, self.requests, self.robots_requests = self, [], 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/robots.txt":
                    site.robots_requests += 1
                    response = (404, {}, b"") if robots is None else robots if isinstance(robots, tuple) else (200, {}, robots.encode())
                else:
                    site.requests.append((self.path, dict(self.headers)))
                    response = answer(self.path, self.headers)
                self.send(*response)

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
                except OSError:  # the client closed the connection
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
    """A port that accepts connections and never responds."""

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


def png_of_claimed_size(width: int, height: int) -> bytes:
    """A PNG of 75 bytes whose header claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return head + chunk(b"IDAT", zlib.compress(b"\0" * 4)[:6].ljust(18, b"\0")) + chunk(b"IEND", b"")


def gzip_of_zeros(size: int) -> bytes:
    """gzip of `size` zero bytes."""
    return gzip.compress(b"\0" * size)


def trickle(seconds: float, head: bytes = b"") -> Callable:
    """A body of one byte every twentieth of a second."""

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
    """Asserts that the block stays within a peak of memory and a CPU time."""
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
        assert time.process_time() - start < seconds
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()
