"""A model hub on loopback with the part of the real interface that downloading and uploading an adapter need."""

import json
import socket
from base64 import b64decode
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = "hf_loopback"


def free_port() -> int:
    """A port of 127.0.0.1 that is not in use."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Hub(ThreadingHTTPServer):
    """repos: name -> path -> bytes. requests: method, path and token of each."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def commit(self, name: str) -> str:
        return sha1(repr(sorted(self.repos[name].items())).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def respond(self, body: bytes | dict, code: int = 200, **headers: str) -> None:
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def record(self) -> list[str]:
        self.server.requests.append((self.command, self.path, self.headers.get("Authorization", "")))
        return self.path.partition("?")[0].strip("/").split("/")

    def do_GET(self) -> None:
        parts = self.record()
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in self.server.repos:
            return self.respond({"error": "Repository not body"}, 404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not body")
        files, commit = self.server.repos[name], self.server.commit(name)
        if parts[0] == "api" and "tree" in parts:
            rows = [{"type": "file", "path": path, "size": len(data), "oid": sha1(data).hexdigest()} for path, data in files.items()]
            return self.respond(json.dumps(rows).encode(), Content_Type="application/json")
        if parts[0] == "api":
            if len(parts) > 4 and parts[5] not in ("main", commit):
                return self.respond({"error": "Invalid rev"}, 404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            return self.respond({"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files], "tags": []})
        path = "/".join(parts[4:])
        if path not in files:
            return self.respond({}, 404, X_Error_Code="EntryNotFound")
        return self.respond(files[path], ETag=f'"{sha1(files[path]).hexdigest()}"', X_Repo_Commit=commit)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        parts = self.record()
        body = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else self.read_chunks()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.respond({"error": "Invalid credentials"}, 401, X_Error_Message="Invalid username or password.")
        if parts[1:] == ["repos", "create"]:
            repo = json.loads(body)
            name = f"{repo['organization']}/{repo['name']}" if repo.get("organization") else repo["name"]
            self.server.repos.setdefault(name, {})
            self.server.private[name] = bool(repo.get("private")) or repo.get("visibility") == "private"
            return self.respond({"url": f"{self.server.address}/{name}", "name": name, "id": name})
        if parts[1:] == ["validate-yaml"]:
            return self.respond({"errors": [], "warnings": []})
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = json.loads(body)["files"]
            return self.respond({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        for row in map(json.loads, body.splitlines()):
            if row["key"] == "file":
                self.server.repos[name][row["value"]["path"]] = b64decode(row["value"]["content"])
        commit = self.server.commit(name)
        return self.respond({"commitUrl": f"{self.server.address}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def read_chunks(self) -> bytes:
        """The body of a request with chunked transfer encoding."""
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


@contextmanager
def hub():
    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
