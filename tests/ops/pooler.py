"""pgbouncer in transaction mode before the tests' PostgreSQL, set up by docs/pgbouncer.ini."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tests.ops.production import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
CONNECTIONS = 3
"""Of the database's, for everybody: each is another's after every transaction."""


PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def pooled(url: str, folder: Path) -> Iterator[str]:
    """The address of the same database through a pooler; of itself where there is none."""
    if PROGRAM is None:
        yield url
        return
    at, port = urlsplit(url), free_port()
    text = (REPOSITORY / "docs" / "pgbouncer.ini").read_text()
    login = f"host={at.hostname} port={at.port or 5432} user={at.username or 'postgres'}"
    if at.password:
        login += f" password={at.password}"
    for line in (
        f"* = {login}",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        # Its clients need no password here, as the tests' server asks for none.
        "auth_type = any",
        f"default_pool_size = {CONNECTIONS}",
    ):
        key = line.partition(" =")[0]
        text, found = re.subn(rf"^{re.escape(key)} = .*$", line, text, flags=re.MULTILINE)
        assert found == 1, f"docs/pgbouncer.ini has no {key}"
    config = folder / "pgbouncer.ini"
    config.write_text(text.replace("auth_file = /tmp/userlist.txt\n", ""))
    # It refuses to run as root.
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    with config.open() as file:
        process = subprocess.Popen(
            [*words, PROGRAM, "-q", "/dev/stdin"], stdin=file, stderr=subprocess.DEVNULL
        )
    through = f"postgres://{at.username or 'postgres'}@127.0.0.1:{port}{at.path}"
    try:
        for _ in range(100):
            try:
                psycopg.connect(through, connect_timeout=2).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, "pgbouncer ended"
                time.sleep(0.1)
        yield through
    finally:
        process.terminate()
        process.wait(10)
