"""A bucket store on this machine for the real s3fs: as much of S3 as reading and writing whole objects takes."""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

KEY, SECRET = "AKIADOUBLE", "a-secret-of-the-double"
WHEN = "2026-01-02T03:04:05.000Z"


class Store(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        # By bucket/key.
        self.objects: dict[str, bytes] = {}
        self.problems: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running() -> Iterator[Store]:
    store = Store()
    threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 64 * 1024
    server: Store

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self) -> None:
        self._send(
            404,
            b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>",
            Content_Type="application/xml",
        )

    def _any(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path).lstrip("/"), parse_qs(parts.query, keep_blank_values=True)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
            self.server.problems.append(f"{self.command} {self.path} isn't signed")
        if SECRET in self.path or SECRET.encode() in body:
            self.server.problems.append(f"{self.command} {self.path} tells the secret")
        if self.command == "GET" and "list-type" in query:
            self._list(path.rstrip("/"), query)
        elif self.command in ("GET", "HEAD"):
            self._get(path)
        elif self.command == "PUT":
            self.server.objects[path] = body
            self._send(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
        elif self.command == "DELETE":
            self.server.objects.pop(path, None)
            self._send(204)
        else:
            self.server.problems.append(f"{self.command} {self.path} is unknown")
            self._send(501)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any

    def _get(self, path: str) -> None:
        if (data := self.server.objects.get(path)) is None:
            self._missing()
            return
        about = {
            "ETag": f'"{hashlib.md5(data).hexdigest()}"',
            "Last_Modified": "Fri, 02 Jan 2026 03:04:05 GMT",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(200, data, **about)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        self._send(206, data[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(data)}", **about)

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        keys = sorted(
            key
            for path in self.server.objects
            if path.startswith(f"{bucket}/") and (key := path[len(bucket) + 1 :]).startswith(prefix)
        )
        folders = {
            prefix + key[len(prefix) :].partition(delimiter)[0] + delimiter
            for key in keys
            if delimiter and delimiter in key[len(prefix) :]
        }
        found = [key for key in keys if not any(key.startswith(folder) for folder in folders)]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[f'{bucket}/{key}'])}</Size>"
            f'<LastModified>{WHEN}</LastModified><ETag>"0"</ETag><StorageClass>STANDARD</StorageClass></Contents>'
            for key in found
        )
        shared = "".join(
            f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in sorted(folders)
        )
        text = (
            f'<?xml version="1.0"?><ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>'
            f"<KeyCount>{len(found)}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
            f"{contents}{shared}</ListBucketResult>"
        )
        self._send(200, text.encode(), Content_Type="application/xml")
