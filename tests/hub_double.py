"""A hub on this machine for the real clients: huggingface_hub and `datasets` speak HTTP to it, as to the real one.

It holds repositories as commits of files, and checks what it is sent: the token, the sha256 of what is uploaded by
LFS, that a commit names only what was uploaded, and that no body holds a token. What was wrong stands in `problems`.
Not here: Xet's own protocol, pull requests, buckets.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

READ, WRITE = "hf_readreadread", "hf_writewritewrite"
LFS = (".parquet", ".safetensors", ".arrow", ".zip", ".bin")
PAGE = 3

Files = dict[str, bytes]


@dataclass
class Repo:
    """A repository: its commits, the newest last, each with all files."""

    private: bool = False
    gated: bool = False
    commits: list[tuple[str, Files]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Files, message: str = "") -> str:
        digest = hashlib.sha1(repr((len(self.commits), sorted(files), message)).encode()).hexdigest()
        self.commits.append((digest, files))
        self.messages.append(message)
        return digest

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> Files:
        return self.commits[-1][1]

    def at(self, revision: str) -> tuple[str, Files] | None:
        wanted = self.head if revision in ("main", "HEAD") else self.tags.get(revision, revision)
        return next((each for each in self.commits if each[0] == wanted), None)


class Answer(Exception):
    """What is answered at once instead: a status, and the hub's code for it."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message = status, code, message


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.forget()

    def forget(self) -> None:
        """As at the beginning."""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.uploaded: dict[str, bytes] = {}
        self.problems: list[str] = []
        self.seen: list[str] = []
        # What is sent in place of a file, by its path; and what happens before one, and before a commit.
        self.served: Files = {}
        self.before_file: Callable[[str], Any] = lambda path: None
        self.before_commit: Callable[[], Any] = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def dataset(self, name: str, files: Files, kind: str = "dataset", **about: Any) -> Repo:
        """A data set (or model) with one commit."""
        repo = self.repos[(kind, name)] = Repo(**about)
        repo.commit(files, "first")
        return repo


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


def clients_at(hub: Hub, cache: Path, patch: Any) -> None:
    """Point at the double what the clients read from the environment when they are loaded; `patch` is a MonkeyPatch."""
    from huggingface_hub import constants

    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\x00" % len(data) + data).hexdigest()


_NAME = r"(?P<name>[\w.-]+(?:/[\w.-]+)?)"
_ROUTES = [
    ("GET", r"/api/(?P<kind>datasets|models)/NAME/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", "tree"),
    ("GET", r"/api/(?P<kind>datasets|models)/NAME(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("POST", r"/api/(?P<kind>datasets|models)/NAME/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("POST", r"/api/(?P<kind>datasets|models)/NAME/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", r"/api/(?P<kind>datasets|models)/NAME/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", r"/(?P<kind>datasets/)?NAME\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/storage/(?P<path>[0-9a-f]{64})", "store"),
    ("POST", r"/storage/verify", "verify"),
    ("HEAD", r"/(?P<kind>datasets/)?NAME/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ("GET", r"/(?P<kind>datasets/)?NAME/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]
ROUTES = [(method, re.compile(form.replace("NAME", _NAME)), name) for method, form, name in _ROUTES]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer's head and body leave together.
    wbufsize = 64 * 1024
    server: Hub

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def _any(self) -> None:
        hub = self.server
        parts = urlsplit(self.path)
        hub.seen.append(f"{self.command} {parts.path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.query = parse_qs(parts.query)
        sent = self.headers.get("Authorization", "")
        self.token = sent.removeprefix("Bearer ")
        if sent and self.token not in (READ, WRITE):
            hub.problems.append(f"{self.command} {parts.path} with another token: {sent}")
        if any(token.encode() in self.body or token in self.path for token in (READ, WRITE)):
            hub.problems.append(f"{self.command} {parts.path} tells a token")
        for method, form, name in ROUTES:
            if method == self.command and (found := form.fullmatch(parts.path)):
                given = {key: unquote(value) for key, value in found.groupdict().items() if value}
                try:
                    getattr(self, f"_{name}")(**given)
                except Answer as answer:
                    self._refuse(answer)
                return
        if parts.path != "/api/agent-harnesses":  # the client's own curiosity
            hub.problems.append(f"{self.command} {self.path} is unknown")
        self._refuse(Answer(404, message="unknown"))

    do_GET = do_HEAD = do_POST = do_PUT = _any

    # --- Answers ---

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def _refuse(self, answer: Answer) -> None:
        codes = {"X_Error_Code": answer.code} if answer.code else {}
        self._json(
            {"error": answer.message}, answer.status, X_Error_Message=answer.message or "refused", **codes
        )

    # --- What is asked ---

    def _repo(self, kind: str, name: str, *, writes: bool = False) -> Repo:
        repo = self.server.repos.get(("dataset" if kind.startswith("dataset") else "model", name))
        if repo is None or (repo.private and not self.token):
            raise Answer(404 if self.token else 401, "RepoNotFound", "Repository not found")
        if repo.gated and not self.token:
            raise Answer(401, "GatedRepo", "Access to it is restricted")
        if writes and self.token != WRITE:
            self.server.problems.append(f"{self.command} {self.path} without a token that may write")
            raise Answer(403, message="Forbidden")
        return repo

    def _at(self, repo: Repo, revision: str) -> tuple[str, Files]:
        found = repo.at(revision)
        if found is None:
            raise Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _info(self, kind: str, name: str, revision: str = "main") -> None:
        repo = self._repo(kind, name)
        commit, files = self._at(repo, revision)
        self._json({
            "_id": "0", "id": name, "sha": commit, "private": repo.private, "gated": repo.gated, "disabled": False,
            "downloads": 0, "likes": 0, "tags": [], "siblings": [{"rfilename": path} for path in files],
        })  # fmt: skip

    def _entry(self, path: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
        if path.endswith(LFS):
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
        return entry

    def _tree(self, kind: str, name: str, revision: str, path: str = "") -> None:
        _, files = self._at(self._repo(kind, name), revision)
        below = f"{path}/" if path else ""
        found: dict[str, dict[str, Any]] = {}
        recursive = self.query.get("recursive") == ["true"] or self.query.get("recursive") == ["True"]
        for file, data in files.items():
            if not file.startswith(below):
                continue
            folders = file[len(below) :].split("/")[:-1]
            for depth in range(1, len(folders) + 1):
                folder = below + "/".join(folders[:depth])
                if recursive or depth == 1:
                    found[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
            if recursive or not folders:
                found[file] = self._entry(file, data)
        if path and not found:
            raise Answer(404, "EntryNotFound", "does not exist")
        entries = list(found.values())
        first = int(self.query.get("cursor", ["0"])[0])
        link = {}
        if first + PAGE < len(entries):
            again = urlsplit(self.path)
            flags = "&".join(f"{key}={value[0]}" for key, value in self.query.items() if key != "cursor")
            link = {"Link": f'<{self.server.url}{again.path}?{flags}&cursor={first + PAGE}>; rel="next"'}
        self._json(entries[first : first + PAGE], **link)

    def _paths_info(self, kind: str, name: str, revision: str) -> None:
        _, files = self._at(self._repo(kind, name), revision)
        sent = json.loads(self.body) if self.body.startswith(b"{") else parse_qs(self.body.decode())
        self._json([self._entry(path, files[path]) for path in sent["paths"] if path in files])

    def _resolve(self, name: str, revision: str, path: str, kind: str = "") -> None:
        commit, files = self._at(self._repo(kind, name), revision)
        if path not in files:
            raise Answer(404, "EntryNotFound", "Entry not found")
        self.server.before_file(path)
        data = self.server.served.get(path, files[path])
        about = {"X_Repo_Commit": commit, "ETag": f'"{git_oid(data)}"', "Accept_Ranges": "bytes"}
        if path.endswith(LFS):
            about |= {"X_Linked_ETag": f'"{sha256(data)}"', "X_Linked_Size": str(len(data))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(200, data, **about)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        if first > last:
            self._send(416, b"", Content_Range=f"bytes */{len(data)}")
            return
        about["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(206, data[first : last + 1], **about)

    # --- What is sent ---

    def _create(self) -> None:
        sent = json.loads(self.body)
        name = f"{sent['organization']}/{sent['name']}" if sent.get("organization") else sent["name"]
        if self.token != WRITE:
            raise Answer(401, message="Invalid username or password.")
        if name.startswith("others/"):
            raise Answer(403, message="You don't have the rights to create a repository there")
        kind = sent.get("type", "model")
        url = f"{self.server.url}/{kind}s/{name}" if kind != "model" else f"{self.server.url}/{name}"
        if (kind, name) in self.server.repos:
            self._json({"error": "You already created this repo", "url": url}, 409)
            return
        repo = self.server.repos[(kind, name)] = Repo(private=sent.get("visibility") == "private")
        repo.commit({".gitattributes": b"*.parquet filter=lfs\n"}, "initial commit")
        self._json({"url": url})

    def _validate(self) -> None:
        sent = json.loads(self.body)
        self._json(
            {
                "errors": [] if sent["content"].startswith("---\n") else [{"message": "no YAML"}],
                "warnings": [],
            }
        )

    def _preupload(self, kind: str, name: str, revision: str) -> None:
        _, files = self._at(self._repo(kind, name, writes=True), revision)
        answers = []
        for sent in json.loads(self.body)["files"]:
            path, mode = sent["path"], "lfs" if sent["path"].endswith(LFS) else "regular"
            if ".." in path or path.startswith("/"):
                self.server.problems.append(f"a path leads out: {path}")
            known = (
                {"oid": sha256(files[path]) if mode == "lfs" else git_oid(files[path])}
                if path in files
                else {}
            )
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        self._json({"files": answers})

    def _batch(self, name: str, kind: str = "") -> None:
        self._repo(kind, name, writes=True)
        sent = json.loads(self.body)
        if sent["hash_algo"] != "sha256" or sent["operation"] != "upload":
            self.server.problems.append(f"an LFS batch of another kind: {sent}")
        objects = []
        for each in sent["objects"]:
            actions = {
                "upload": {"href": f"{self.server.url}/storage/{each['oid']}", "header": {}},
                "verify": {"href": f"{self.server.url}/storage/verify", "header": {}},
            }
            there = each["oid"] in self.server.uploaded
            objects.append(
                {"oid": each["oid"], "size": each["size"], **({} if there else {"actions": actions})}
            )
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, path: str) -> None:
        if sha256(self.body) != path:
            self.server.problems.append("what was uploaded by LFS has another sha256 than announced")
            raise Answer(400)
        self.server.uploaded[path] = self.body
        self._send(200, b"")

    def _verify(self) -> None:
        sent = json.loads(self.body)
        if len(self.server.uploaded.get(sent["oid"], b"")) != sent["size"]:
            raise Answer(404, message="not uploaded")
        self._json({})

    def _commit(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(kind, name, writes=True)
        self.server.before_commit()
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        if header["key"] != "header" or not header["value"]["summary"]:
            self.server.problems.append("a commit without a header")
        if header["value"].get("parentCommit", repo.head) != repo.head:
            raise Answer(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(repo.files)
        for operation in operations:
            value = operation["value"]
            match operation["key"]:
                case "file":
                    if value["path"].endswith(LFS):
                        self.server.problems.append(f"{value['path']} was sent inline, not by LFS")
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    if len(self.server.uploaded.get(value["oid"], b"")) != value["size"]:
                        self.server.problems.append(f"{value['path']} was committed and never uploaded")
                        raise Answer(400)
                    files[value["path"]] = self.server.uploaded[value["oid"]]
                case "deletedFile":
                    if files.pop(value["path"], None) is None:
                        raise Answer(404, "EntryNotFound", "A file with this name doesn't exist")
                case other:
                    self.server.problems.append(f"an unknown operation {other}")
        commit = repo.commit(files, header["value"]["summary"])
        self._json(
            {
                "success": True,
                "commitOid": commit,
                "commitUrl": f"{self.server.url}/{kind}/{name}/commit/{commit}",
            }
        )
