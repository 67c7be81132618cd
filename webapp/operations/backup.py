"""A backup: a folder with all rows and all files of an installation, whatever its database. And the way back.

    DIR/manifest.json     written last; without it the backup is not whole
    DIR/tables/NAME.jsonl.gz
    DIR/files/...         the data folder

Rows are read first, at one moment; files are copied after that. Jobs only add files, and what removes some waits for
the backup, so no row points to a file that isn't there. The signing key and sessions are left out: people sign in
again. A job that ran is RUNNING in the backup; after a restore it becomes LOST and can be resumed.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from webapp import __version__
from webapp.keeping import files_held
from webapp.operations.folder import Copier, file_digest, files_kept
from webapp.operations.tables import (
    BadRow,
    column_names,
    filled_table,
    lines_read,
    rows_digest,
    rows_load,
    rows_write,
    sequences_reset,
    tables,
    tables_empty,
    tables_left_out,
)
from webapp.snapshots.reading import consistent_read

FORMAT = 1
MANIFEST = "manifest.json"

Say = Callable[[str], None]


class BackupRefused(Exception):
    """Nothing was changed; the message says why and what to do."""


@dataclass(frozen=True)
class Summary:
    digest: str
    rows: int
    files: int
    bytes: int
    seconds: float


def _silent(line: str) -> None:
    pass


def backup_make(*, folder: Path, say: Say = _silent) -> Summary:
    """Write a backup into a folder that isn't there yet, beside and renamed when whole. Raises BackupRefused."""
    started = time.monotonic()
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BackupRefused(f"{folder} is there already and not empty. Name a new folder.")
    if folder.is_relative_to(settings.DATA_DIR.resolve()):
        raise BackupRefused(
            f"{folder} lies in the data folder, which is what is backed up. Name one outside."
        )
    work = folder.with_name(f".{folder.name}.part")
    try:
        work.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise BackupRefused(
            f"{work} is there: another backup runs, or one was broken off. In the second case delete it."
        ) from None
    try:
        with files_held(shared=True):
            manifest = _written(work, say)
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        os.sync()
        if folder.exists():
            folder.rmdir()
        work.rename(folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return _summary(manifest, started)


def _written(work: Path, say: Say) -> dict[str, Any]:
    (work / "tables").mkdir()
    written = {}
    with consistent_read():
        migrations = _migrations()
        for model in tables():
            name = model._meta.db_table
            written[name] = rows_write(model, _table_path(work, name))
    say(f"{sum(table['rows'] for table in written.values()):,} rows of {len(written)} tables")
    copier, files, gone = Copier(work / "files"), {}, 0
    for name, path in files_kept(settings.DATA_DIR):
        try:
            files[name] = copier.copy(name, path)
        except FileNotFoundError:  # a running job took it away: a checkpoint that was replaced, say
            (work / "files" / name).unlink(missing_ok=True)
            gone += 1
    say(f"{len(files):,} files" + (f"; {gone} went away meanwhile" if gone else ""))
    return {
        "format": FORMAT,
        "caliper": __version__,
        "created_at": timezone.now().isoformat(),
        "database": connection.vendor,
        "migrations": migrations,
        "left_out": [model._meta.db_table for model in tables_left_out()],
        "tables": written,
        "files": files,
        "digest": content_digest(written, files),
    }


def content_digest(tables: dict[str, Any], files: dict[str, Any]) -> str:
    """One sha256 for all rows and files: two installations that hold the same have the same."""
    content = {
        "tables": {name: [table["rows"], table["sha256"]] for name, table in tables.items()},
        "files": {name: file["sha256"] for name, file in files.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _summary(manifest: dict[str, Any], started: float) -> Summary:
    return Summary(
        digest=manifest["digest"],
        rows=sum(table["rows"] for table in manifest["tables"].values()),
        files=len(manifest["files"]),
        bytes=sum(file["bytes"] for file in manifest["files"].values()),
        seconds=time.monotonic() - started,
    )


def _table_path(folder: Path, name: str) -> Path:
    return folder / "tables" / f"{name}.jsonl.gz"


def _migrations() -> dict[str, list[str]]:
    """Which migrations of the apps whose tables are kept have been applied."""
    apps = {model._meta.app_label for model in tables()}
    found: dict[str, list[str]] = {}
    for app, name in sorted(MigrationRecorder(connection).applied_migrations()):
        if app in apps:
            found.setdefault(app, []).append(name)
    return found


def backup_restore(*, folder: Path, replace: bool = False, say: Say = _silent) -> Summary:
    """Bring a backup into this installation, all of it or nothing. Raises BackupRefused.

    The database has to be migrated and empty, and the data folder empty; `replace` deletes the rows that are there and
    sets the files aside.
    """
    started = time.monotonic()
    manifest = manifest_read(folder)
    _check_fit(manifest)
    if not replace:
        _check_empty()
    _check_digests(folder, manifest)
    say("all checksums are right")
    aside = settings.DATA_DIR / f".replaced-{timezone.now():%Y%m%d-%H%M%S}"
    placed: list[Path] = []
    moved: list[tuple[Path, Path]] = []
    try:
        with files_held(shared=True), transaction.atomic():
            if replace:
                tables_empty()
            for model in tables():
                rows_load(model, lines_read(_table_path(folder, model._meta.db_table)))
            sequences_reset()
            say("the rows are in; copying the files")
            if replace:
                _set_aside(aside, moved)
            copier = Copier(settings.DATA_DIR)
            for name in manifest["files"]:
                target = settings.DATA_DIR / name
                if target.exists():  # not ours to take away again
                    raise FileExistsError(f"{target} is there already.")
                placed.append(target)
                copier.copy(name, folder / "files" / name)
    except BaseException as error:
        for path in placed:
            path.unlink(missing_ok=True)
        for source, target in moved:
            source.parent.mkdir(parents=True, exist_ok=True)
            target.rename(source)
        if isinstance(error, (DatabaseError, BadRow, OSError)):
            raise BackupRefused(f"Nothing was restored: {' '.join(str(error).split())}") from error
        raise
    if moved:
        say(f"the files that were there are in {aside}; delete them when all is well")
    return _summary(manifest, started)


def manifest_read(folder: Path) -> dict[str, Any]:
    """The manifest, checked for its form. Raises BackupRefused."""
    path = folder / MANIFEST
    if not path.is_file():
        raise BackupRefused(
            f"{folder} is no backup: it has no {MANIFEST}. Name the folder that `manage.py backup` made."
        )
    try:
        manifest = json.loads(path.read_text())
        known = manifest["format"] == FORMAT
        files, written = manifest["files"], manifest["tables"]
        sound = manifest["digest"] == content_digest(written, files) and all(map(_inside, files))
    except (ValueError, KeyError, TypeError, AttributeError):
        known, sound = True, False
    if not known:
        raise BackupRefused(
            f"This backup has format {manifest['format']}, and this Caliper ({__version__}) reads {FORMAT}. "
            "Install the version that made it."
        )
    if not sound:
        raise BackupRefused(f"{path} is damaged. Take another backup.")
    return manifest


def _inside(name: str) -> bool:
    """A path that stays below the folder it is joined to."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and bool(path.parts)


def _check_fit(manifest: dict[str, Any]) -> None:
    """The same tables, columns and migrations here as there."""
    here = _migrations()
    theirs = manifest["migrations"]
    differing = sorted(app for app in {*here, *theirs} if here.get(app) != theirs.get(app))
    if differing:
        app = differing[0]
        last, other = ((side.get(app) or ["none"])[-1] for side in (here, theirs))
        raise BackupRefused(
            f"The backup is of Caliper {manifest['caliper']} with {app} at migration {other}; this database has {last}."
            " Install the version that made the backup, run `manage.py migrate` and restore; then upgrade."
        )
    wanted = {model._meta.db_table: column_names(model) for model in tables()}
    found = {name: table["columns"] for name, table in manifest["tables"].items()}
    if wanted != found:
        name = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))[0]
        raise BackupRefused(
            f"The table {name} is another one in the backup than here. Install the version that made the backup, with "
            "the same settings."
        )


def _check_empty() -> None:
    if name := filled_table():
        raise BackupRefused(
            f"This database is not empty: {name} has rows. Restore into a new one, or say --replace to delete what "
            "it holds."
        )
    if (first := next(files_kept(settings.DATA_DIR), None)) is not None:
        raise BackupRefused(
            f"The data folder {settings.DATA_DIR} is not empty: it has {first[0]}. Name a new one in "
            "CALIPER_DATA_DIR, or say --replace to set its files aside."
        )


def _check_digests(folder: Path, manifest: dict[str, Any]) -> None:
    """Every table and file is there, whole, and there is no other."""
    for name, table in manifest["tables"].items():
        try:
            found = rows_digest(_table_path(folder, name))
        except (OSError, EOFError) as error:
            raise BackupRefused(f"The table {name} of this backup is damaged: {error}.") from error
        if found != (table["rows"], table["sha256"]):
            raise BackupRefused(f"The table {name} of this backup is damaged: its checksum is another one.")
    root = folder / "files"
    present = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
    if unknown := sorted(present - set(manifest["files"])):
        raise BackupRefused(f"{root / unknown[0]} is not of this backup. Take it away.")
    for name, facts in manifest["files"].items():
        path = root / name
        if name not in present or path.is_symlink():
            raise BackupRefused(f"This backup is damaged: {path} is missing. Take another backup.")
        if file_digest(path) != facts["sha256"]:
            raise BackupRefused(f"This backup is damaged: the checksum of {path} is another one.")


def _set_aside(aside: Path, moved: list[tuple[Path, Path]]) -> None:
    """Move the files that are there, so that a mistake costs disk and no data."""
    for name, path in list(files_kept(settings.DATA_DIR)):
        target = aside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        moved.append((path, target))
        with contextlib.suppress(OSError):
            path.parent.rmdir()
