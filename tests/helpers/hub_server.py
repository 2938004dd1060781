"""A Hugging Face hub in a box, on loopback: what `huggingface_hub` and `datasets` ask of its HTTP API.

Repositories live in memory, each a list of commits. Files ending in LARGE are kept as on the hub: announced under their
SHA-256, and sent and received at another address (git LFS), where no login may go. Xet, the hub's own protocol for
large files, is not spoken: clients run with HF_HUB_DISABLE_XET=1, and the hub then offers LFS. `faults` makes the next
answers go wrong.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet")
TOKEN = "hf_ofthebox12345"
Files = dict[str, bytes]


@dataclass
class Fault:
    """What the next `times` requests whose `METHOD path` holds `where` get in place of the right answer.

    `status`: this answer, with `headers`. `cut`: the first bytes of the file, then a broken connection. `short`: a file
    of so many bytes, which says that it is whole. `flip`: the right size with one other byte.
    """

    where: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    short: int = 0
    flip: bool = False


@dataclass
class Repo:
    commits: list[tuple[str, Files]]
    gated: bool = False
    private: bool = False

    def at(self, revision: str) -> tuple[str, Files] | None:
        if revision in ("main", "HEAD"):
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


def commit_id(files: Files) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Hub:
    """The server's state. `requests` are what was asked, as (method, path, Range, whether a login came along)."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str, bool]] = []
        self.lock = threading.Lock()
        self.url = self.storage = ""
        self.closed = False

    def put(self, name: str, files: Files, commit: str = "", **options: bool) -> str:
        """Add a commit to a repository (`models/owner/name`, `datasets/owner/name`); returns its id."""
        commit = commit or commit_id(files)
        repo = self.repos.setdefault(name, Repo([], **options))
        repo.commits.append((commit, files))
        self.blobs |= {hashlib.sha256(data).hexdigest(): data for data in files.values()}
        return commit

    def fault_of(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.where in request and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def hub_in_a_box() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    port = server.server_address[1]
    # Another host name is another host to a client: no login goes there.
    hub.url, hub.storage = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closed = True  # connections that were kept alive end, too
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    body = b""

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.closed:
            self.close_connection = True
            return
        login = "Authorization" in self.headers
        with self.hub.lock:
            self.hub.requests.append((self.command, path, self.headers.get("Range", ""), login))
        fault = self.hub.fault_of(f"{self.command} {path}")
        if fault is not None and fault.status:
            return self._send(fault.status, b"{}", fault.headers)
        for pattern, serve in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match:
                return serve(self, fault=fault, query=parse_qs(parts.query), **match.groupdict())
        self._send(404, b'{"error": "no such address"}')

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _commit(self, kind: str, repo: str, revision: str) -> tuple[str, Files] | None:
        """The commit asked for; None where it was refused already, as the hub refuses."""
        found = self.hub.repos.get(f"{kind}/{repo}")
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        code, status = "", 0
        if found is None or (found.private and not known):
            code, status = "RepoNotFound", 404 if known else 401
        elif found.gated and not known:
            code, status = "GatedRepo", 401
        elif found.at(revision) is None:
            code, status = "RevisionNotFound", 404
        if code:
            self._send(status, b"{}", {"X-Error-Code": code})
            return None
        assert found is not None
        return found.at(revision)

    # --- reading -----------------------------------------------------------------------------------------------------

    def info(self, kind: str, repo: str, revision: str | None = None, **_: Any) -> None:
        found = self._commit(kind, repo, revision or "main")
        if found is not None:
            self._json({"id": repo, "sha": found[0], "siblings": [{"rfilename": name} for name in found[1]]})

    def tree(self, kind: str, repo: str, revision: str, folder: str | None = None, query: Any = None, **_: Any) -> None:
        found = self._commit(kind, repo, revision)
        if found is None:
            return
        start = f"{folder}/" if folder else ""
        below = {name: data for name, data in found[1].items() if name.startswith(start)}
        if folder and not below:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        if query.get("recursive", ["False"])[0].lower() == "true":
            return self._json([*map(_folder_entry, _folders(below)), *(_entry(n, d) for n, d in below.items())])
        here = {name: data for name, data in below.items() if "/" not in name.removeprefix(start)}
        folders = sorted({start + name.removeprefix(start).split("/")[0] for name in below if name not in here})
        self._json([*map(_folder_entry, folders), *(_entry(name, data) for name, data in here.items())])

    def paths(self, kind: str, repo: str, revision: str, **_: Any) -> None:
        found = self._commit(kind, repo, revision)
        if found is None:
            return
        form = self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
        asked = parse_qs(self.body.decode()) if form else json.loads(self.body)
        wanted = [name.rstrip("/") for name in asked.get("paths", [])]
        folders = set(_folders(found[1]))
        entries = [_entry(name, found[1][name]) for name in wanted if name in found[1]]
        self._json([*entries, *(_folder_entry(name) for name in wanted if name in folders)])

    def resolve(self, repo: str, revision: str, file: str, fault: Fault | None, kind: str | None, **_: Any) -> None:
        found = self._commit((kind or "models").rstrip("/"), repo, revision)
        if found is None:
            return
        commit, files = found
        if file not in files:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data, headers = files[file], {"X-Repo-Commit": commit}
        if not file.endswith(LARGE):
            return self._file(data, {**headers, "ETag": f'"{_git_oid(data)}"'}, fault)
        sha256 = hashlib.sha256(data).hexdigest()
        linked = {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
        self._send(302, b"", {**headers, **linked, "Location": f"{self.hub.storage}/storage/{sha256}"})

    def stored(self, sha256: str, fault: Fault | None, **_: Any) -> None:
        self._file(self.hub.blobs[sha256], {"ETag": f'"{sha256}"'}, fault)

    def _file(self, data: bytes, headers: dict[str, str], fault: Fault | None) -> None:
        if fault is not None and fault.flip:
            data = bytes([data[0] ^ 1]) + data[1:]
        if fault is not None and fault.short:
            data = data[: fault.short]
        status, start = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        whole = len(data)
        if start:
            last = int(start[2]) if start[2] else whole - 1
            status, data = 206, data[int(start[1]) : last + 1]
            headers["Content-Range"] = f"bytes {start[1]}-{last}/{whole}"
        headers |= {"Content-Length": str(len(data)), "Accept-Ranges": "bytes"}
        if fault is not None and fault.cut:
            self._send(status, data[: fault.cut], headers)
            self.close_connection = True
            return
        self._send(status, data, headers)

    # --- writing -----------------------------------------------------------------------------------------------------

    def _may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._send(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        return False

    def create(self, **_: Any) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self._may_write():
            return
        if not name.startswith("me/"):
            return self._send(403, b"{}", {"X-Error-Message": "You may not create repositories there"})
        private = asked.get("visibility") == "private"
        self.hub.repos.setdefault(f"models/{name}", Repo([(commit_id({}), {})], private=private))
        self._json({"url": f"{self.hub.url}/{name}"})

    def validate(self, **_: Any) -> None:
        content = json.loads(self.body)["content"]
        problem = "" if content.startswith("---\n") else "no metadata"
        self._json({"warnings": [], "errors": [{"message": problem}] if problem else []})

    def preupload(self, kind: str, repo: str, revision: str, **_: Any) -> None:
        if self._commit(kind, repo, revision) is None:
            return
        modes = {True: "lfs", False: "regular"}
        files = [
            {"path": file["path"], "uploadMode": modes[file["path"].endswith(LARGE)], "shouldIgnore": False}
            for file in json.loads(self.body)["files"]
        ]
        self._json({"files": files})

    def batch(self, **_: Any) -> None:
        objects: list[dict[str, Any]] = []
        for one in json.loads(self.body)["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.hub.storage}/storage/{one['oid']}"}}
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def store(self, sha256: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            return self._send(400, b'{"error": "another SHA-256"}')
        self.hub.blobs[sha256] = self.body
        self._send(200, b"")

    def commit(self, kind: str, repo: str, revision: str, **_: Any) -> None:
        found = self._commit(kind, repo, revision)
        if found is None or not self._may_write():
            return
        files = dict(found[1])
        for entry in map(json.loads, self.body.splitlines()):
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        commit = self.hub.put(f"{kind}/{repo}", files)
        self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})


def _get_or_put(handler: _Handler, sha256: str, fault: Fault | None, **_: Any) -> None:
    if handler.command == "PUT":
        handler.store(sha256)
    else:
        handler.stored(sha256, fault)


_API = r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, Any]] = [
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.validate),
    (_API + r"(/revision/(?P<revision>[^/]+))?", _Handler.info),
    (_API + r"/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", _Handler.tree),
    (_API + r"/paths-info/(?P<revision>[^/]+)", _Handler.paths),
    (_API + r"/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    (_API + r"/commit/(?P<revision>[^/]+)", _Handler.commit),
    (r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.batch),
    (r"/storage/(?P<sha256>[0-9a-f]{64})", _get_or_put),
    (r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
]


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(data), "oid": _git_oid(data)}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _folder_entry(name: str) -> dict[str, Any]:
    return {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}


def _folders(files: Files) -> list[str]:
    found = {"/".join(name.split("/")[:depth]) for name in files for depth in range(1, name.count("/") + 1)}
    return sorted(found)
