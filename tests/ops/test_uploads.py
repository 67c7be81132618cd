"""A body that is too large, of unknown length or from somebody who may not upload is refused before it is read."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.test.client import MULTIPART_CONTENT

from tests.instance import REPOSITORY, own_environment
from webapp.accounts.models import User
from webapp.corpus.models import Import, Project

MB = 1024 * 1024
ClientOf = Callable[[User], Client]


class Unread:
    """A body that nobody may read."""

    def read(self, *_: Any) -> bytes:
        raise AssertionError("the body was read")

    readline = read

    def __len__(self) -> int:
        return 1


def post_unread(client: Client, path: str, *, length: int | None, **headers: str) -> Any:
    """POST with a body that fails the test when somebody reads from it."""
    stated = {} if length is None else {"CONTENT_LENGTH": str(length)}
    # The test client would work out a length of its own.
    request = {
        "PATH_INFO": path,
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": MULTIPART_CONTENT,
        "wsgi.input": Unread(),
        **stated,
        **headers,
    }
    return client.request(**request)


@pytest.mark.parametrize(
    ("role", "status"), [("anonymous", 302), ("stranger", 404), ("annotator", 403), ("researcher", 403)]
)
def test_nothing_is_read_from_whoever_may_not_upload(
    role: str, status: int, project: Project, client_of: ClientOf, request: pytest.FixtureRequest
) -> None:
    client = Client() if role == "anonymous" else client_of(request.getfixturevalue(role))
    for length in (1000, 150 * MB, 4000 * MB):
        assert post_unread(client, "/p/capitals/imports/", length=length).status_code == status


def test_too_large_an_upload_is_refused_with_its_remedy(
    admin: User, client_of: ClientOf, settings: Any
) -> None:
    answer = post_unread(client_of(admin), "/p/capitals/imports/", length=settings.MAX_UPLOAD_BYTES + 2 * MB)
    page = answer.content.decode()
    assert answer.status_code == 413
    for words in ("200 MB", "split the file", "gzip", "manage.py import_data --project capitals"):
        assert words in page


@pytest.mark.parametrize(
    "path", ["/sign-in/", "/account/", "/p/capitals/settings/", "/p/capitals/runs/start/"]
)
def test_where_no_file_is_expected_the_limit_is_2_mb(path: str, admin: User, client_of: ClientOf) -> None:
    answer = post_unread(client_of(admin), path, length=2 * MB + 1)
    assert answer.status_code == 413
    assert "2 MB" in answer.content.decode()


def test_a_body_of_unknown_length_is_refused(admin: User, client_of: ClientOf) -> None:
    for path in ("/p/capitals/imports/", "/p/capitals/settings/"):
        answer = post_unread(client_of(admin), path, length=None, HTTP_TRANSFER_ENCODING="chunked")
        assert answer.status_code == 411
        assert "Content-Length" in answer.content.decode()


def test_an_upload_within_the_limit_still_comes_in(
    admin: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.jobs.enqueue", lambda *args, **_: None)
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin)
    token = re.search(
        r'name="csrfmiddlewaretoken" value="(\w+)"', client.get("/p/capitals/imports/").content.decode()
    )
    for given, status in ((token.group(1), 302), ("x" * 64, 403)):
        body = {"uploads": [_file("a.jsonl", b" " * 5 * MB)], "format": "auto", "csrfmiddlewaretoken": given}
        answer = client.post("/p/capitals/imports/", body)
        assert answer.status_code == status
    assert Import.objects.count() == 1


def _file(name: str, content: bytes) -> Any:
    return SimpleUploadedFile(name, content)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, psutil.Process, Path]]:
    """A real gunicorn on an empty database of its own: port, process, folder of its temporary files."""
    folder = tmp_path_factory.mktemp("server")
    temporary = folder / "tmp"
    temporary.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = own_environment(folder / "data") | {"TMPDIR": str(temporary), "CALIPER_DEBUG": "true"}
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        cwd=REPOSITORY,
        env=environment,
        check=True,
    )
    bind = f"127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "webapp.wsgi:application", "--bind", bind, "--workers", "1",
             "--worker-class", "gthread", "--threads", "2", "--no-control-socket"],
            cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port, psutil.Process(process.pid), temporary
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.parametrize(
    ("path", "status"), [("/sign-in/", b"413"), ("/p/capitals/imports/", b"302")], ids=["form", "upload"]
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_real_server_keeps_nothing(
    path: str, status: bytes, chunked: bool, server: tuple[int, psutil.Process, Path]
) -> None:
    port, process, temporary = server
    block = b"x" * 65536
    header = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {400 * MB}"
    start = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\nCookie: csrftoken={'a' * 32}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    part = b'--b\r\nContent-Disposition: form-data; name="uploads"; filename="a"\r\n\r\n'
    sent, kept = 0, 0
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(start.encode() + (b"%x\r\n%s\r\n" % (len(part), part) if chunked else part))
        answer = connection.recv(65536)
        try:
            while sent < 30 * MB:
                connection.sendall(b"10000\r\n%s\r\n" % block if chunked else block)
                sent += len(block)
                kept = max(kept, _kept(process, temporary))
        except OSError:
            pass  # The server has closed: it doesn't want the rest.
    expected = b"411" if chunked and status == b"413" else status
    assert answer.split()[1] == expected, answer
    assert kept == 0
    memory = sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])
    assert memory < 400 * MB


def _kept(process: psutil.Process, temporary: Path) -> int:
    """Bytes in temporary files, those that have no name any more included."""
    kept = sum(path.stat().st_size for path in temporary.rglob("*.upload*"))
    for each in process.children(recursive=True):
        for number in os.listdir(f"/proc/{each.pid}/fd") if sys.platform == "linux" else []:
            try:
                link = os.readlink(f"/proc/{each.pid}/fd/{number}")
                if "upload" in link:
                    kept += os.stat(f"/proc/{each.pid}/fd/{number}").st_size
            except OSError:
                continue
    return kept
