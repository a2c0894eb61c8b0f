"""A model hub on loopback that knows as much of the real one's interface as fetching and sending an adapter takes."""

import json
import socket
from base64 import b64decode
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = "hf_loopback"


def free() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


class Hub(ThreadingHTTPServer):
    """repos: name -> path -> bytes. asked: method, path and token of every request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def commit(self, name: str) -> str:
        return sha1(repr(sorted(self.repos[name].items())).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body: bytes | dict, code: int = 200, **headers: str) -> None:
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def note(self) -> list[str]:
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
        return self.path.partition("?")[0].strip("/").split("/")

    def do_GET(self) -> None:
        words = self.note()
        name = "/".join(words[2:4] if words[0] == "api" else words[:2])
        if name not in self.server.repos:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        files, commit = self.server.repos[name], self.server.commit(name)
        if words[0] == "api" and "tree" in words:
            rows = [{"type": "file", "path": path, "size": len(data), "oid": sha1(data).hexdigest()} for path, data in files.items()]
            return self.answer(json.dumps(rows).encode(), Content_Type="application/json")
        if words[0] == "api":
            if len(words) > 4 and words[5] not in ("main", commit):
                return self.answer({"error": "Invalid rev"}, 404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            return self.answer({"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files], "tags": []})
        path = "/".join(words[4:])
        if path not in files:
            return self.answer({}, 404, X_Error_Code="EntryNotFound")
        return self.answer(files[path], ETag=f'"{sha1(files[path]).hexdigest()}"', X_Repo_Commit=commit)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        words = self.note()
        body = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else self.chunks()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid credentials"}, 401, X_Error_Message="Invalid username or password.")
        if words[1:] == ["repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.server.repos.setdefault(name, {})
            self.server.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
            return self.answer({"url": f"{self.server.address}/{name}", "name": name, "id": name})
        if words[1:] == ["validate-yaml"]:
            return self.answer({"errors": [], "warnings": []})
        name = "/".join(words[2:4])
        if words[4] == "preupload":
            asked = json.loads(body)["files"]
            return self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]})
        for row in map(json.loads, body.splitlines()):
            if row["key"] == "file":
                self.server.repos[name][row["value"]["path"]] = b64decode(row["value"]["content"])
        commit = self.server.commit(name)
        return self.answer({"commitUrl": f"{self.server.address}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def chunks(self) -> bytes:
        """A body whose length was not told."""
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found


@contextmanager
def hub():
    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
