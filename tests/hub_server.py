"""A server that speaks the Hub's protocol as far as its client needs it: repositories, commits, LFS, downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest

TOKEN = "hf_of_a_test"


@dataclass
class Hub:
    """What the server holds. files : "dataset USER/NAME" -> name -> bytes. commits : how many each has had.

    private : repositories that only the token sees. cut : downloads end half-way. spoil : their bytes are others'.
    refuse : commits are answered with 500.
    """

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, int] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    cut: bool = False
    spoil: bool = False
    refuse: bool = False


@contextmanager
def hub_server(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Hub]:
    """Serve a hub, and have the client use it, with a token and a cache folder of its own."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name, value in {
        "ENDPOINT": hub.address, "HF_HUB_CACHE": str(folder), "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_TOKEN_PATH": str(folder / "no token"),
    }.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    hub: Hub

    def do_HEAD(self) -> None:
        self.download(body=False)

    def do_GET(self) -> None:
        found = re.fullmatch(r"/api/(dataset|model)s/([^/]+/[^/?]+)(?:\?.*)?", self.path)
        if not found:
            self.download(body=True)
        elif self.sees(f"{found[1]} {found[2]}"):
            self.answer({"id": found[2], "sha": "0" * 40, "siblings": [], "private": False, "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/(dataset|model)s/([^/]+/[^/]+)/(preupload|commit)/main(?:\?.*)?", self.path):
            getattr(self, found[3])(f"{found[1]} {found[2]}", body)
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        else:
            self.answer({"error": self.path}, 404)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.objects[self.path.rpartition("/")[2]] = body
        self.answer({})

    def do_DELETE(self) -> None:
        one = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = f"{one.get('type') or 'model'} {one['organization']}/{one['name']}"
        del self.hub.files[name]
        self.answer({})

    def create(self, one: dict[str, Any]) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "who are you?"}, 401)
        name = f"{one.get('type') or 'model'} {one['organization']}/{one['name']}"
        self.hub.files.setdefault(name, {})
        if one.get("private") or one.get("visibility") == "private":
            self.hub.private.add(name)
        return self.answer({"url": f"{self.hub.address}/{one['organization']}/{one['name']}"})

    def preupload(self, repository: str, body: bytes) -> None:
        files = [
            {
                "path": one["path"],
                "uploadMode": "regular" if one["path"].endswith(".md") else "lfs",
                "shouldIgnore": False,
            }
            for one in json.loads(body)["files"]
        ]
        self.answer({"files": files})

    def commit(self, repository: str, body: bytes) -> None:
        if self.hub.refuse:
            return self.answer({"error": "the disk is full"}, 400)
        kept = self.hub.files[repository]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                kept[line["value"]["path"]] = self.hub.objects[line["value"]["oid"]]
        self.hub.commits[repository] = self.hub.commits.get(repository, 0) + 1
        url = f"{self.hub.address}/{'datasets/' if repository.startswith('dataset') else ''}{repository.split()[1]}"
        return self.answer({"commitUrl": f"{url}/commit/{'1' * 40}", "commitOid": "1" * 40, "success": True})

    def sees(self, repository: str) -> bool:
        """Whether there is such a repository for who asks; answers where there is none."""
        secret = repository in self.hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        if repository in self.hub.files and not secret:
            return True
        self.answer({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
        return False

    def download(self, body: bool) -> None:
        found = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        repository = f"{'dataset' if found and found[1] else 'model'} {found[2]}" if found else ""
        if not found or not self.sees(repository):
            return
        content = self.hub.files[repository].get(found[3])
        if content is None:
            return self.answer({}, 404, **{"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha256(content).hexdigest()
        sent = bytes(len(content)) if self.hub.spoil else content
        self.send_response(200)
        for name, value in (
            ("X-Repo-Commit", "1" * 40), ("ETag", f'"{etag}"'), ("X-Linked-Etag", f'"{etag}"'),
            ("Content-Length", str(len(content))),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(sent[: len(sent) // 2] if self.hub.cut else sent)
            self.close_connection = True

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass
