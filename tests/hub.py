"""A Hub on the loopback interface, as much of one as pushing a model and reading it back need."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """
    Repositories in memory.

    Attributes:
        commits: Message and all files of the repository after it, for each commit, by repository.
    """

    def __init__(self):
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.blobs: dict[str, bytes] = {}
        self.url = ""

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

    def do_PUT(self):
        self.hub.blobs[self.path.rpartition("/")[2]] = self.body()
        self.reply({})

    def do_POST(self):
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
