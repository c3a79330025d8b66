"""A Hub on the loopback interface, as much of one as pushing a model and reading it back need."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Fault:
    """
    What goes wrong with requests.

    Args:
        method: `"GET"`, `"POST"` or `"PUT"`.
        part: What the path of the request has in it.
        status: What is answered; `None` breaks the connection in the middle of the body.
        times: How often it goes wrong.
    """

    method: str
    part: str
    status: int | None
    times: int = 1_000_000


class Hub:
    """
    Repositories in memory.

    Attributes:
        commits: Message and all files of the repository after it, for each commit, by repository.
        writers: Tokens that may write; anybody may where it is `None`.
        readers: Tokens that may only read.
        faults: What goes wrong.
        requests: Method and path of every request.
    """

    def __init__(self):
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.blobs: dict[str, bytes] = {}
        self.writers: set[str] | None = None
        self.readers: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.url = ""

    def find_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.part in path:
                fault.times -= 1
                return fault
        return None

    def refusal(self, token: str, writes: bool) -> int | None:
        """The status that a request with this token is refused with."""
        if self.writers is None or token in self.writers:
            return None
        return (403 if writes else None) if token in self.readers else 401

    def files(self, repository: str) -> dict[str, bytes]:
        commits = self.commits[repository]
        return commits[-1][1] if commits else {}

    def commit(self, repository: str, lines: list[dict]) -> None:
        files, message = dict(self.files(repository)), ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        self.commits[repository].append((message, files))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, content, status=200, headers=()):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (("Content-Length", str(len(content))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def is_refused(self) -> bool:
        """Answer a request that something goes wrong with, or whose token does not do."""
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        fault = self.hub.find_fault(self.command, path)
        if fault is not None and fault.status is None:
            self.rfile.read(min(64, int(self.headers.get("Content-Length", 0))))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return True
        # Blobs are uploaded to an address that is its own permission.
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        writes = self.command == "POST" or path.endswith("/auth-check/write")
        status = fault.status if fault is not None else self.hub.refusal(token, writes)
        if status is None or (fault is None and self.command == "PUT"):
            return False
        self.body()
        self.reply({"error": f"refused with {status}"}, status)
        return True

    def do_PUT(self):
        if self.is_refused():
            return
        self.hub.blobs[self.path.rpartition("/")[2]] = self.body()
        self.reply({})

    def do_POST(self):
        if self.is_refused():
            return
        body, path = self.body(), urlsplit(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
            known = name in self.hub.commits
            self.hub.commits.setdefault(name, [])
            url = f"{self.hub.url}/{name}"
            self.reply({"url": url, "name": name, "id": name}, 409 if known else 200)
        elif path == "/api/validate-yaml":
            self.reply({"warnings": [], "errors": []})
        elif path.endswith("/info/lfs/objects/batch"):
            self.reply({"objects": [self.upload(item) for item in json.loads(body)["objects"]]})
        elif "/preupload/" in path:
            modes = [
                {
                    "path": item["path"],
                    "uploadMode": "lfs" if item["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for item in json.loads(body)["files"]
            ]
            self.reply({"files": modes})
        elif "/commit/" in path:
            repository = path.removeprefix("/api/models/").partition("/commit/")[0]
            self.hub.commit(repository, [json.loads(line) for line in body.splitlines() if line])
            oid = f"{len(self.hub.commits[repository]):040d}"
            self.reply({"commitOid": oid, "commitUrl": f"{self.hub.url}/{repository}/commit/{oid}", "success": True})
        else:
            self.reply({"error": path}, 404)

    def upload(self, item: dict) -> dict:
        found = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in self.hub.blobs:
            found["actions"] = {"upload": {"href": f"{self.hub.url}/blobs/{item['oid']}"}}
        return found

    def do_GET(self):
        if self.is_refused():
            return
        path = unquote(urlsplit(self.path).path).strip("/")
        if path.startswith("api/models/"):
            repository = "/".join(path.split("/")[2:4])
            if repository in self.hub.commits:
                siblings = [{"rfilename": name} for name in self.hub.files(repository)]
                oid = f"{len(self.hub.commits[repository]):040d}"
                self.reply({"id": repository, "modelId": repository, "sha": oid, "siblings": siblings})
                return
        repository, _, rest = path.partition("/resolve/")
        name = rest.partition("/")[2]
        if repository not in self.hub.commits:
            self.reply({}, 404, [("X-Error-Code", "RepoNotFound")])
        elif name not in self.hub.files(repository):
            self.reply({}, 404, [("X-Error-Code", "EntryNotFound")])
        else:
            content = self.hub.files(repository)[name]
            etag, oid = hashlib.sha256(content).hexdigest(), f"{len(self.hub.commits[repository]):040d}"
            self.reply(content, headers=[("ETag", f'"{etag}"'), ("X-Repo-Commit", oid)])

    do_HEAD = do_GET


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub that answers at `hub.url` until the context is left."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def connect(hub: Hub, monkeypatch, home) -> None:
    """Make the real client of this process talk to the hub, and not wait before it tries again."""
    import huggingface_hub
    import transformers.utils.hub
    from huggingface_hub.utils import _http

    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Its protocol is more than a test can stand in for.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # Clients keep the address that they had at first.
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
    impatient = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr(_http, "time", impatient)
