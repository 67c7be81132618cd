"""A worker brings the files of an address into an import's folder; there they are read like uploaded ones.

list     the files that lie there, with their sizes, at one commit of the hub
choose   the data files of the config and split that were asked for, as `datasets` finds them (importing.splits)
fetch    each as a stream beside its place, and renamed when whole: what broke off vanishes, and a retry has the rest

The bytes are those that lie there. Only Arrow files, which imports don't read, are turned into Parquet.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from django.conf import settings

from webapp.importing.addresses import Address, AddressRefused, local_path
from webapp.importing.archives import is_data
from webapp.importing.names import safe_name
from webapp.importing.report import OWN_FILES
from webapp.importing.sources import ImportRefused, printable
from webapp.importing.splits import CARD, SETTINGS, chosen, configs_of
from webapp.importing.spool import OnProgress

FETCHING = "tmp-fetching"
BLOCK = 1024 * 1024
MAX_FILES = 1000
MAX_LISTED = 20_000
# A card with its settings.
MAX_CARD_BYTES = 2 * 1024 * 1024
ARROW = ".arrow"


@dataclass(frozen=True)
class Remote:
    """A file that lies at an address: its path below it, bytes, and its sha256 where the other side says so."""

    path: str
    size: int
    sha256: str = ""

    @property
    def is_data(self) -> bool:
        name = PurePosixPath(self.path).name
        return is_data(name) or name.lower().endswith((".zip", ARROW))


@dataclass(frozen=True)
class Place:
    """An address, opened: an fsspec file system, the root of the paths there, and the commit of a hub."""

    system: Any
    root: str
    commit: str = ""

    def open(self, path: str) -> Any:
        # The hub's client streams without blocks: one request a file, gone on with where it broke off.
        blocks = {"block_size": 0} if self.commit else {}
        return self.system.open(f"{self.root}/{path}", "rb", **blocks)


def fetch(address: Address, *, config: str, split: str, folder: Path, progress: OnProgress) -> dict[str, Any]:
    """Bring the data files into the folder, which holds nothing else; returns {commit, config, split, files}.

    What an earlier attempt left whole is kept where its sha256 is still the one announced, else thrown away.
    `progress("fetching", KiB, KiB)` may raise to stop. Raises ImportRefused.
    """
    with explained(address):
        place, files = _listed(address)
        kept, config, split = _chosen(address, place, files, config, split, folder)
        _check_size(address, kept)
        found = _fetch(place, kept, folder, progress)
        fetched = {file["name"] for file in found}
        for path in folder.iterdir():
            if path.is_file() and path.name not in fetched | OWN_FILES:
                path.unlink()
    return {"commit": place.commit, "config": config, "split": split, "files": found}


def _listed(address: Address) -> tuple[Place, list[Remote]]:
    return _of_hub(address) if address.repo else _of_store(address)


def _of_hub(address: Address) -> tuple[Place, list[Remote]]:
    from huggingface_hub import HfApi, HfFileSystem
    from huggingface_hub.hf_api import RepoFile

    given: dict[str, Any] = {"endpoint": settings.HUB_ENDPOINT, "token": settings.HUB_TOKEN or False}
    api = HfApi(**given)
    commit = api.dataset_info(address.repo, revision=address.revision or None).sha
    tree = api.list_repo_tree(address.repo, recursive=True, revision=commit, repo_type="dataset")
    files = [
        Remote(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else "")
        for entry in _bounded(tree)
        if isinstance(entry, RepoFile)
    ]
    system = HfFileSystem(**given, skip_instance_cache=True)
    return Place(system, f"datasets/{address.repo}@{commit}", str(commit)), files


def _of_store(address: Address) -> tuple[Place, list[Remote]]:
    from fsspec.core import url_to_fs

    if address.text.startswith("file://"):
        local_path(address.text, settings.STORES, "CALIPER_STORES")
    try:
        system, root = url_to_fs(address.text, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        raise AddressRefused(
            f"This server can't read {address.text.partition('://')[0]}:// addresses. Its operator may install what "
            "they need (pip install -e '.[stores]' for s3:// and gs://)."
        ) from error
    info = system.info(root)
    if info["type"] == "file":
        root, _, name = root.rpartition("/")
        return Place(system, root), [Remote(name, int(info["size"]))]
    files = []
    for path, entry in _bounded(system.find(root, detail=True).items()):
        if entry["type"] != "file":
            continue
        if address.text.startswith("file://"):
            # A link inside the folder may lead out of it.
            local_path(f"file://{path}", settings.STORES, "CALIPER_STORES")
        files.append(Remote(path.removeprefix(root).lstrip("/"), int(entry["size"])))
    return Place(system, root), files


def _bounded(entries: Any) -> Iterator[Any]:
    for number, entry in enumerate(entries):
        if number >= MAX_LISTED:
            raise ImportRefused(f"More than {MAX_LISTED:,} files lie there. Name a folder with fewer.")
        yield entry


def _chosen(
    address: Address, place: Place, files: list[Remote], config: str, split: str, folder: Path
) -> tuple[list[Remote], str, str]:
    """The files to fetch, and which config and split they are; both are empty for a single file."""
    data = {file.path: file for file in files if file.is_data}
    if not data:
        script = " It may be made by a script, which is never run." if address.repo else ""
        raise AddressRefused(f"{address.text} holds no .jsonl, .json, .csv, .parquet or .arrow file.{script}")
    if len(files) == 1 and not (address.repo or config or split):
        return files, "", ""
    texts = {}
    for file in files:
        if file.path in (CARD, SETTINGS) and file.size <= MAX_CARD_BYTES:
            with place.open(file.path) as opened:
                texts[file.path] = opened.read(MAX_CARD_BYTES).decode("utf-8", "replace")
    paths, config, split = chosen(configs_of(list(data), texts, folder), config, split)
    return [data[path] for path in paths if path in data], config, split


def _check_size(address: Address, files: Sequence[Remote]) -> None:
    size, most = sum(file.size for file in files), settings.MAX_UPLOAD_BYTES
    if len(files) > MAX_FILES:
        raise ImportRefused(f"{len(files):,} files are more than the {MAX_FILES:,} allowed. Name fewer.")
    if size > most:
        raise ImportRefused(
            f"{size / 2**20:,.0f} MB at {address.text} are more than the {most // 2**20} MB allowed. Name a smaller "
            "split or file, or ask the operator to raise CALIPER_MAX_UPLOAD_MB."
        )


def _fetch(place: Place, files: Sequence[Remote], folder: Path, progress: OnProgress) -> list[dict[str, Any]]:
    work = folder / FETCHING
    work.mkdir(exist_ok=True)
    done, total = 0, max(1, sum(file.size for file in files) // 1024)
    taken: list[str] = []
    found = []
    try:
        for file in files:
            packed = file.path.endswith(ARROW)
            name = safe_name(file.path.removesuffix(ARROW) + ".parquet" if packed else file.path, taken=taken)
            taken.append(name)
            digest = _digest_of(folder / name) if file.sha256 and not packed else ""
            if not digest or digest != file.sha256:
                heard = partial(_heard, progress, done, total)
                digest = _stream(place, file, work / "coming", heard)
                if packed:
                    to_parquet(work / "coming", work / name)
                (work / (name if packed else "coming")).replace(folder / name)
            done += file.size // 1024
            found.append({"path": printable(file.path), "name": name, "bytes": file.size, "sha256": digest})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return found


def _heard(progress: OnProgress, done: int, total: int, seen: int) -> None:
    progress("fetching", done + seen // 1024, total)


def _stream(place: Place, file: Remote, target: Path, heard: Callable[[int], None]) -> str:
    """Write one file; returns its sha256. Raises ImportRefused where it isn't the file that was listed."""
    digest, seen = hashlib.sha256(), 0
    with place.open(file.path) as source, target.open("wb") as out:
        while block := source.read(BLOCK):
            seen += len(block)
            if seen > file.size:
                break
            digest.update(block)
            out.write(block)
            heard(seen)
    if seen != file.size or (file.sha256 and digest.hexdigest() != file.sha256):
        raise ImportRefused(f"{printable(file.path)} came otherwise than it was announced. Try again.")
    return digest.hexdigest()


def _digest_of(path: Path) -> str:
    """The sha256 of a file that an earlier attempt left whole; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_parquet(source: Path, target: Path) -> None:
    """An Arrow file, as `datasets` saves them, as Parquet, a batch at a time. Raises ImportRefused."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pa.memory_map(str(source)) as file:
            try:
                reader: Any = pa.ipc.open_stream(file)
                batches: Iterator[Any] = iter(reader)
            except pa.ArrowInvalid:
                file.seek(0)
                reader = pa.ipc.open_file(file)
                batches = (reader.get_batch(place) for place in range(reader.num_record_batches))
            with pq.ParquetWriter(target, reader.schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
    except pa.ArrowException as error:
        raise ImportRefused(
            f"{source.name} is no Arrow file that can be read. Save it as Parquet."
        ) from error


# Whose errors say that the other side didn't answer: of the hub's client, of s3fs and of gcsfs.
_CLIENTS = {"httpx", "httpx2", "aiohttp", "botocore", "requests"}


def is_silence(error: BaseException) -> bool:
    """Whether an error says that a hub or store could not be reached, or broke off."""
    modules = {each.__module__.partition(".")[0] for each in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or bool(modules & _CLIENTS)


@contextmanager
def explained(address: Address) -> Iterator[None]:
    """Inside, what the clients of hubs and stores raise becomes an ImportRefused with a remedy; no token is told."""
    from huggingface_hub import errors

    where = address.text
    try:
        yield
    except errors.GatedRepoError as error:
        raise AddressRefused(
            f"{where} is given only to those who were let in (gated). Its operator has to be let in there, and to set "
            "HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        wanted = f"revision {address.revision}" if address.revision else "such revision"
        raise AddressRefused(
            f"{where} has no {wanted}. Write a branch, a tag or a commit.", "revision"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise AddressRefused(
            f"There is no {where}, or it is private. Check the name; for a private one the operator sets HF_TOKEN."
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise AddressRefused(
            "This server never asks the hub (HF_HUB_OFFLINE). Upload the files instead."
        ) from error
    except errors.HfHubHTTPError as error:
        raise ImportRefused(
            f"The hub answered for {where} with status {error.response.status_code}. Try again later."
        ) from error
    except FileNotFoundError as error:
        raise AddressRefused(f"There is nothing at {where}. Check the address.") from error
    except PermissionError as error:
        raise AddressRefused(
            f"{where} may not be read by this server. Its operator can allow it there."
        ) from error
    except Exception as error:
        if is_silence(error):
            raise ImportRefused(
                f"{where} can't be reached ({type(error).__name__}). Try again later."
            ) from error
        raise
