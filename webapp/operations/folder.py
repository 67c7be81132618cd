"""The data folder's files, copied out and in with their sha256."""

import fnmatch
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection

BLOCK = 1024 * 1024

# What a running installation makes anew by itself, or what is secret in clear. All else in the folder is kept, what
# later versions put there too.
OWN = ("lock", "logs", "redis", "secret_key", "sign-ins.txt", "celerybeat-schedule*", ".*")
# Work of a job that isn't done: it is made again.
UNFINISHED = (".*", "*.part", "*.progress.json")
UNFINISHED_IMPORT = "tmp*"


def files_kept(root: Path) -> Iterator[tuple[str, Path]]:
    """Files that belong into a backup, by their path in the data folder, in a fixed order."""
    for entry in sorted(root.iterdir()):
        if not _is_own(entry):
            yield from _walk(entry, entry.name)


def is_base_link(path: Path) -> bool:
    """Whether it is RUN_DIR/base, which leads to a base model: that may lie elsewhere and be large, and the link is set
    anew whenever a version needs it."""
    return path.name == "base" and path.is_symlink() and path.parent.parent == settings.DATA_DIR / "runs"


def _is_own(entry: Path) -> bool:
    if any(fnmatch.fnmatch(entry.name, pattern) for pattern in OWN) or entry == settings.STATIC_ROOT:
        return True
    if connection.vendor != "sqlite":
        return False
    database = Path(connection.settings_dict["NAME"]).name
    return entry.name in (database, f"{database}-wal", f"{database}-shm", f"{database}-journal")


def _walk(path: Path, name: str) -> Iterator[tuple[str, Path]]:
    if any(fnmatch.fnmatch(path.name, pattern) for pattern in UNFINISHED):
        return
    if is_base_link(path):
        return
    if path.is_dir():
        if name.startswith("imports/") and fnmatch.fnmatch(path.name, UNFINISHED_IMPORT):
            return
        try:
            entries = sorted(path.iterdir())
        except FileNotFoundError:  # a job took it away meanwhile
            return
        for entry in entries:
            yield from _walk(entry, f"{name}/{entry.name}")
    elif path.is_file():
        yield name, path


class Copier:
    """Copies files into a folder. What is one file under two names stays one (runs hold links to snapshots)."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self._seen: dict[tuple[int, int], tuple[Path, dict[str, Any]]] = {}

    def copy(self, name: str, source: Path) -> dict[str, Any]:
        """Copy it to `name`; its bytes and sha256. Raises OSError."""
        target = self.target / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as file:
            status = os.fstat(file.fileno())
            identity = (status.st_dev, status.st_ino)
            if status.st_nlink > 1 and identity in self._seen:
                twin, facts = self._seen[identity]
                try:
                    os.link(twin, target)
                    return facts
                except OSError:  # a file system without links
                    pass
            digest, count = hashlib.sha256(), 0
            with target.open("xb") as out:
                while block := file.read(BLOCK):
                    digest.update(block)
                    out.write(block)
                    count += len(block)
        facts = {"bytes": count, "sha256": digest.hexdigest()}
        if status.st_nlink > 1:
            self._seen[identity] = (target, facts)
        return facts


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
