"""A model hub on loopback that speaks what huggingface_hub needs, counts what it sends, and fails on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c" * 40
_PATH = re.compile(
    r"/(?:api/models/(?P<api>[^?]+?)/revision/(?P<at>[^/?]+)|(?P<model>.+)/resolve/(?P<rev>[^/]+)/(?P<file>[^?]+))"
)


@dataclass
class Hub:
    """Repositories by id (folders), and how the hub misbehaves."""

    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut_after: dict[str, int] = field(default_factory=dict)
    """File -> bytes of its next answer after which the connection breaks, once."""
    forged: set[str] = field(default_factory=set)
    """Files whose last byte is sent wrong."""
    outside_lfs: bool = False
    """List weight files without SHA-256, as a hub lists small files."""
    status: int = 200
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes sent of each file."""
    tokens: set[str] = field(default_factory=set)
    """Authorization headers that came."""
    url: str = ""

    def sent_weights(self) -> set[str]:
        return {file for file in self.sent if file.endswith(".safetensors")}


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """Serve a hub on a free port until the end of the block."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Keep the test's output free of access logs."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if token := self.headers.get("Authorization"):
            self.state.tokens.add(token)
        match = _PATH.match(self.path)
        model = match and (match["api"] or match["model"])
        if self.state.status != 200:
            self._refuse(self.state.status, "", "the hub is ill")
        elif not match or model not in self.state.repositories:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif model in self.state.gated and not self.headers.get("Authorization"):
            self._refuse(401, "GatedRepo", "Access to this model is restricted")
        elif match["api"]:
            self._send_json(self._listing(model))
        else:
            self._send_file(self.state.repositories[model] / match["file"], body=body)

    def _listing(self, model: str) -> dict[str, Any]:
        siblings = []
        for path in sorted(self.state.repositories[model].iterdir()):
            entry: dict[str, Any] = {"rfilename": path.name, "size": path.stat().st_size}
            if path.suffix == ".safetensors" and not self.state.outside_lfs:
                entry["lfs"] = {"size": path.stat().st_size, "sha256": _sha256(path), "pointerSize": 134}
            siblings.append(entry)
        return {"id": model, "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}

    def _send_file(self, path: Path, *, body: bool) -> None:
        if not path.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        data = path.read_bytes()
        if path.name in self.state.forged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        begin = 0
        if wanted := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin = int(wanted[1])
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{_sha256(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("X-Linked-Etag", f'"{_sha256(path)}"')
        self.send_header("Content-Length", str(len(data) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if body:
            cut = self.state.cut_after.pop(path.name, None)
            piece = data[begin : None if cut is None else begin + cut]
            self.wfile.write(piece)
            self.state.sent[path.name] += len(piece)
            self.close_connection = cut is not None

    def _send_json(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
