"""Zips and folders of files: which of their files are read, in which order, and which are passed over.

Nothing is unpacked onto the disk: a file of a zip is read from the zip as a stream (`open_member`).
"""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from django.conf import settings

from webapp.importing.sources import UNPACK_FACTOR, Budget, ImportRefused, Source, printable

MAX_FILES_INSIDE = 1000
# A zip's list of names, which is read whole.
MAX_LIST_BYTES = 4 * 1024 * 1024
ZIP = b"PK\x03\x04"
EMPTY_ZIP = b"PK\x05\x06"
DATA_SUFFIXES = {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".txt", ".parquet"}
_OFFICE = {"[Content_Types].xml": "an Excel or Word file", "mimetype": "an OpenDocument file"}
# Of Hugging Face's folders, and what stands beside data.
_CONFIG = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_PAPERS = ("readme", "license", "licence", "changelog", "citation")
# What zipfile and the decompressors raise about bytes that were changed.
DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, IndexError, KeyError, struct.error,
)  # fmt: skip
UNKNOWN_METHOD = (NotImplementedError, RuntimeError)

PassedOver = dict[str, Any]


def expanded(sources: Sequence[Source]) -> tuple[list[Source], list[PassedOver]]:
    """The data files in the order given, those of zips and folders by name; and what was passed over, for the report.

    Raises ImportRefused for a zip that is damaged, encrypted or too large.
    """
    found: list[Source] = []
    passed: list[PassedOver] = []
    for source in sources:
        if source.member is not None:
            found.append(source)
            continue
        if source.path.is_dir():
            inside = _folder(source, passed)
        elif is_zip(source.path):
            inside = _zip(source, passed)
        else:
            found.append(source)
            continue
        if not inside:
            raise ImportRefused(
                f"{source.name} holds no data file. Put .jsonl, .json, .csv, .tsv or .parquet files into it."
            )
        found += inside
    return _told_apart(found), passed


def is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in (ZIP, EMPTY_ZIP)


def _told_apart(sources: list[Source]) -> list[Source]:
    """Each file has a name of its own, so that messages say which one they speak of."""
    taken: set[str] = set()
    apart = []
    for source in sources:
        name, number = source.name, 1
        while name in taken:
            number += 1
            name = f"{source.name} ({number})"
        taken.add(name)
        apart.append(replace(source, name=name))
    return apart


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def is_data(name: str) -> bool:
    """Whether a file's name, without its folders, says that it holds rows."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    if name.lower() in _CONFIG or name.split(".")[0].lower() in _PAPERS:
        return False
    return bool(suffixes) and suffixes[-1] in DATA_SUFFIXES


def pass_over(passed: list[PassedOver], name: str, size: int, why: str) -> None:
    passed.append({"name": name, "bytes": size, "rows": 0, "read_as": "", "passed_over": why})


def _sorted_out(
    source: Source, names: Sequence[tuple[str, int]], passed: list[PassedOver]
) -> Iterator[tuple[int, str]]:
    """(place, safe name) of those files that hold data; the others are noted."""
    if len(names) > MAX_FILES_INSIDE:
        raise ImportRefused(
            f"{source.name} holds {len(names):,} files, more than {MAX_FILES_INSIDE:,}. Join or split them."
        )
    hidden = 0
    for place, (name, size) in sorted(enumerate(names), key=lambda item: item[1][0]):
        # Names are shown, never opened: what leads out of the folder is only left away.
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        if _is_hidden(parts) or not parts:
            hidden += 1
            continue
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in "/".join(parts))
        shown = f"{source.name}/{shown[-200:]}"
        if is_data(parts[-1]):
            yield place, shown
        else:
            pass_over(passed, shown, size, "is not a data file")
    if hidden:
        files = "1 hidden file" if hidden == 1 else f"{hidden:,} hidden files"
        pass_over(passed, source.name, 0, f"{files} (of macOS, or with a dot before the name)")


def _folder(source: Source, passed: list[PassedOver]) -> list[Source]:
    paths = []
    for path in source.path.rglob("*"):
        if path.is_file():
            paths.append(path)
        if len(paths) > MAX_FILES_INSIDE:
            break
    names = [(path.relative_to(source.path).as_posix(), path.stat().st_size) for path in paths]
    inside = []
    for place, name in _sorted_out(source, names, passed):
        if is_zip(paths[place]):
            pass_over(passed, name, names[place][1], "is a zip inside a folder: import it by itself")
        elif names[place][1] == 0:
            pass_over(passed, name, 0, "is empty")
        else:
            inside.append(Source(paths[place], name))
    return inside


def _zip(source: Source, passed: list[PassedOver]) -> list[Source]:
    _check_list(source)
    with _opened(source) as archive:
        infos = archive.infolist()
        for name, what in _OFFICE.items():
            if any(info.filename == name for info in infos):
                raise ImportRefused(f"{source.name} is {what}. Save its sheet as “CSV UTF-8”.")
        files = [(place, info) for place, info in enumerate(infos) if not info.filename.endswith("/")]
        unpacked = sum(info.file_size for _, info in files)
        if unpacked > UNPACK_FACTOR * settings.MAX_UPLOAD_BYTES:
            raise ImportRefused(
                f"{source.name} holds more than {UNPACK_FACTOR * settings.MAX_UPLOAD_BYTES // 2**20} MB once "
                "unpacked. Split it."
            )
        inside = []
        budget = Budget(UNPACK_FACTOR * settings.MAX_UPLOAD_BYTES)
        for order, name in _sorted_out(
            source, [(info.filename, info.file_size) for _, info in files], passed
        ):
            place, info = files[order]
            if info.flag_bits & 0x1:
                raise ImportRefused(f"{name} is encrypted. Pack it without a password.")
            if info.file_size == 0:
                pass_over(passed, name, 0, "is empty")
            else:
                inside.append(Source(source.path, name, place, info.compress_size, budget))
    return inside


def _check_list(source: Source) -> None:
    """Refuse a zip with a huge list of names before zipfile reads it."""
    with source.path.open("rb") as file:
        size = source.path.stat().st_size
        file.seek(max(0, size - 65_557))
        tail = file.read()
    place = tail.rfind(EMPTY_ZIP)
    if place < 0 or len(tail) < place + 22:
        raise ImportRefused(f"{source.name} is a damaged zip: its end is missing. Pack it again.")
    count, list_bytes = struct.unpack("<HL", tail[place + 10 : place + 16])
    if count > MAX_FILES_INSIDE * 3 or list_bytes > MAX_LIST_BYTES:
        raise ImportRefused(
            f"{source.name} holds too many files (more than {MAX_FILES_INSIDE:,}). Join or split them."
        )


@contextmanager
def _opened(source: Source) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(source.path)
    except (*DAMAGED, *UNKNOWN_METHOD) as error:
        raise ImportRefused(
            f"{source.name} is a damaged zip ({printable(str(error))[:200]}). Pack it again."
        ) from error
    with archive:
        yield archive


@contextmanager
def open_member(source: Source) -> Iterator[tuple[IO[bytes], int]]:
    """A file inside a zip as a stream, and its size once unpacked."""
    assert source.member is not None
    with _opened(source) as archive:
        info = archive.infolist()[source.member]
        try:
            stream = archive.open(info)
        except UNKNOWN_METHOD as error:
            raise ImportRefused(
                f"{source.name} is packed in a way that is not read here ({error}). Pack it as an ordinary zip."
            ) from error
        except DAMAGED as error:
            raise damaged(source, error) from error
        with stream:
            yield stream, info.file_size


def damaged(source: Source, error: Exception) -> ImportRefused:
    why = printable(str(error))[:200]
    return ImportRefused(f"{source.name} is damaged and cannot be unpacked ({why}). Pack it again.")
