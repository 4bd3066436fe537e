"""A server on this machine that speaks the hub's API as far as `huggingface_hub` and `datasets` use it.

It answers as the hub does: large files by a redirect to a host of their own, renamed repositories by a redirect, an
unknown one with 401 for whoever sends no token, files of a gated one with 401 and 403. It can drop a connection.
Models can be pushed: small files within the commit, large ones to the host of their own before it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_LARGE = (".safetensors", ".parquet")  # what the hub keeps in LFS
_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?$")
_PUSH = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main$")
_BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch$")
READ_ONLY = "hf_ReadOnly"  # a token that may not write
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


@dataclass
class Repository:
    """Files at one commit; `gate` is the status that downloads of them get."""

    files: dict[str, bytes]
    commit: str = "c" * 40
    gate: int = 0
    is_private: bool = False
    messages: list[str] = field(default_factory=list)  # of the commits pushed


@dataclass
class Hub:
    """What is served, what was asked, and which files' connections are dropped in the middle, once each."""

    models: dict[str, Repository] = field(default_factory=dict)
    datasets: dict[str, Repository] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    drops: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)  # files that every connection for is closed without an answer
    uploaded: dict[str, bytes] = field(default_factory=dict)  # large files by their sha256
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    url: str = ""

    def ranges_of(self, name: str) -> list[str]:
        """Return the Range of each GET of a file's content."""
        digests = {_sha256(r.files[name]) for r in (*self.models.values(), *self.datasets.values()) if name in r.files}
        return [asked for method, path, asked in self.asked if method == "GET" and path.rpartition("/")[2] in digests]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""

    def _handle(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range") or ""))
        for old, new in self.hub.renamed.items():
            if f"/{old}/" in f"{path}/":
                return self._reply(307, headers={"Location": self.path.replace(old, new)})
        if self.command == "PUT":
            self.hub.uploaded[_sha256(content)] = content
            return self._reply(200)
        self.body = content.decode()
        if path == "/api/validate-yaml":
            return self._reply(200, {"warnings": [], "errors": []})
        if path == "/api/repos/create":
            return self._create(json.loads(self.body))
        if match := _PUSH.match(path) or _BATCH.match(path):
            return self._take(match[1], match[2] if match.lastindex == 2 else "batch")
        if path.startswith("/lfs/"):
            return self._reply_large(path.rpartition("/")[2])
        if match := _API.match(path):
            return self._reply_api(*match.groups())
        if match := _FILE.match(path):
            return self._reply_file(*match.groups())
        return self._reply(404)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if self.headers.get("Authorization") in (None, f"Bearer {READ_ONLY}"):
            return self._refuse(403, "Forbidden", "You don't have the rights to create a model under this namespace")
        is_new = name not in self.hub.models
        self.hub.models.setdefault(name, Repository({}, is_private=_is_private(asked)))
        return self._reply(200 if is_new else 409, {"url": f"{self.hub.url}/{name}"})

    def _take(self, name: str, what: str) -> None:
        """Answer one step of a push: which files are large, where these go, and the commit."""
        if what == "preupload":
            files = [file["path"] for file in json.loads(self.body)["files"]]
            modes = {path: "lfs" if path.endswith(_LARGE) else "regular" for path in files}
            answers = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return self._reply(200, {"files": answers})
        if what == "batch":
            objects = json.loads(self.body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{self.hub.url}/upload/{one['oid']}"}}
            return self._reply(200, {"transfer": "basic", "objects": objects})
        repository = self.hub.models[name]
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.messages.append(value["summary"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.uploaded[value["oid"]]
            else:
                repository.files[value["path"]] = base64.b64decode(value["content"])
        repository.commit = _sha256(self.body.encode())[:40]
        where = f"{self.hub.url}/{name}/commit/{repository.commit}"
        return self._reply(200, {"success": True, "commitOid": repository.commit, "commitUrl": where})

    def _reply_api(self, kind: str, name: str, what: str | None, revision: str | None, under: str | None) -> None:
        repository = self._find(kind, name, revision)
        if repository is None:
            return
        entries = [_entry(path, content) for path, content in sorted(repository.files.items())]
        if what == "tree":
            folder = f"{under}/" if under else ""
            inside = [entry for entry in entries if entry["path"].startswith(folder)]
            is_flat = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() not in ("true", "1")
            shown = _first_level(inside, folder) if is_flat else inside
            return self._reply(200, shown) if shown else self._refuse(404, "EntryNotFound", "no such folder")
        if what == "paths-info":
            wanted = json.loads(self.body)["paths"] if self.body.startswith("{") else parse_qs(self.body)["paths"]
            listed = [entry for entry in _with_folders(entries) if entry["path"] in wanted]
            return self._reply(200, listed)
        siblings = [{"rfilename": path} for path in repository.files]
        gated = "manual" if repository.gate else False
        return self._reply(
            200, {"id": name, "sha": repository.commit, "gated": gated, "siblings": siblings, "tags": []}
        )

    def _reply_file(self, is_dataset: str | None, name: str, revision: str, path: str) -> None:
        repository = self._find("datasets" if is_dataset else "models", name, revision)
        if repository is None:
            return
        commit = {"X-Repo-Commit": repository.commit}
        if repository.gate:
            told = f"Access to model {name} is restricted and you are not in the authorized list"
            return self._refuse(repository.gate, "GatedRepo", told)
        content = repository.files.get(path)
        if content is None:
            return self._refuse(404, "EntryNotFound", "Entry not found", commit)
        entry = _entry(path, content)
        if "lfs" not in entry:
            return self._reply_bytes(content, {**commit, "ETag": f'"{entry["oid"]}"'})
        digest = entry["lfs"]["oid"]
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        # By another name of this machine: the files' host is not the hub's, and must not see its token.
        location = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/lfs/{digest}"
        return self._reply(302, headers={**commit, **linked, "Location": location})

    def _reply_large(self, digest: str) -> None:
        every = [one for r in (*self.hub.models.values(), *self.hub.datasets.values()) for one in r.files.items()]
        name, content = next((path, content) for path, content in every if _sha256(content) == digest)
        if name in self.hub.gone:
            self.close_connection = True
            return
        is_dropped = self.command == "GET" and name in self.hub.drops
        self.hub.drops.discard(name if is_dropped else "")
        self._reply_bytes(content, {"ETag": f'"{digest}"'}, is_dropped=is_dropped)

    def _find(self, kind: str, name: str, revision: str | None) -> Repository | None:
        repository = getattr(self.hub, kind).get(name)
        if repository is None:
            status = 404 if "Authorization" in self.headers else 401
            return self._refuse(status, "RepoNotFound", "Invalid username or password.")
        if unquote(revision or "main") not in ("main", repository.commit):
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
        self._reply(status, {"error": message}, told)

    def _reply_bytes(self, content: bytes, headers: dict[str, str], *, is_dropped: bool = False) -> None:
        start, status = 0, 200
        if match := re.match(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start, status = int(match[1]), 206
            headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        sent = content[start:]
        self._begin(status, {**headers, "Accept-Ranges": "bytes", "Content-Length": str(len(sent))})
        if self.command != "HEAD":
            with suppress(ConnectionError):
                self.wfile.write(sent[: len(sent) // 2] if is_dropped else sent)
        self.close_connection |= is_dropped

    def _reply(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
        text = b"" if value is None else json.dumps(value).encode()
        self._begin(status, {"Content-Type": "application/json", "Content-Length": str(len(text)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(text)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry = {"type": "file", "oid": blob, "size": len(content), "path": path}
    if path.endswith(_LARGE):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
    return entry


def _with_folders(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    folders = {part["path"].rpartition("/")[0] for part in entries} - {""}
    return [*entries, *({"type": "directory", "oid": "d" * 40, "size": 0, "path": folder} for folder in folders)]


def _first_level(entries: list[dict[str, Any]], folder: str) -> list[dict[str, Any]]:
    return [entry for entry in _with_folders(entries) if "/" not in entry["path"].removeprefix(folder)]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _is_private(asked: dict[str, Any]) -> bool:
    """Return whether a private repository is asked for, in the words of today's client or of those before."""
    return asked.get("visibility") == "private" or asked.get("private") is True
