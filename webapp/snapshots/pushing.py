"""Pushing to a hub or a store: asking for it, and what the worker does.

A hub's repository gets one commit: the files, and a mark (caliper.json) that says what they were made of. A repository
that has files and no such mark is somebody else's and stays as it is; so does a store's folder that isn't empty. What
an earlier push brought and this one doesn't have is taken away in the same commit; other files stay.
"""

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from webapp import __version__, life
from webapp.accounts.models import User
from webapp.corpus.audit import Action, audit
from webapp.importing.addresses import MAX_LENGTH, AddressRefused, hub_repo, store_address
from webapp.importing.fetching import is_silence
from webapp.jobs import JobFailed, carried
from webapp.snapshots.pushes import Part, Push

MARK = "caliper.json"
# What a hub itself puts into a new repository.
FROM_THE_BEGINNING = {".gitattributes"}
BLOCK = 1024 * 1024
# Between two looks whether somebody pressed Cancel.
SECONDS_BETWEEN = 0.5
MAX_MARK_BYTES = 4 * 1024 * 1024

OnBytes = Callable[[str, int, int], None]


class PushRefused(JobFailed):
    """It can't be pushed there; the message says why and what to do."""


def push_address(given: str, kind: str) -> str:
    """Where to push, as it is kept: hf://datasets/ORG/NAME, hf://ORG/NAME for models, or a store's address.

    Checked without asking anybody. Raises AddressRefused.
    """
    text = given.strip()
    if not text or len(text) > MAX_LENGTH or not text.isprintable():
        raise AddressRefused(f"Write ORG/NAME or an address, of at most {MAX_LENGTH} plain characters.")
    if "://" in text and not text.startswith("hf://"):
        return store_address(text, settings.STORES_OUT, "CALIPER_STORES_OUT")
    if not settings.HUB_PUSH_TOKEN:
        raise AddressRefused(
            "This server has no token for the hub. Ask its operator to set CALIPER_HUB_TOKEN."
        )
    folder = "datasets/" if kind == "dataset" else ""
    repo = hub_repo(text.removeprefix("hf://").removeprefix(folder))
    if "/" not in repo:
        raise AddressRefused("Write whose it is as well: ORG/NAME.")
    return f"hf://{folder}{repo}"


def push_start(*, export: Any, address: str, public: bool, created_by: User) -> Push:
    """Queue a push of an Export or ModelExport; one to the same address that is on its way is returned instead.

    Raises AddressRefused.
    """
    kind = export.pushes.model.kind
    address = push_address(address, kind)
    try:
        with transaction.atomic():
            push: Push = export.pushes.create(address=address, public=public, created_by=created_by)
            detail = {"push": push.pk, "kind": kind, "to": address, "public": public, **push.facts}
            audit(project=push.project, actor=created_by, action=Action.PUSHED, detail=detail)
            push.enqueue()
    except IntegrityError:
        # The same is on its way already.
        push = export.pushes.active().get(address=address)
    return push


@transaction.atomic
def push_retry(*, push: Push, actor: User) -> bool:
    """FAILED | LOST | CANCELLED -> QUEUED; False if it was none of these, or another one goes there."""
    try:
        with transaction.atomic():
            queued = push.requeue()
    except IntegrityError:
        return False
    if queued:
        detail = {"push": push.pk, "kind": push.kind, "to": push.address, "again": True}
        audit(project=push.project, actor=actor, action=Action.PUSHED, detail=detail)
    return queued


def push_run(push: Push) -> None:
    """Carry a QUEUED push to its end: claim it, and leave it DONE, FAILED or CANCELLED. Never raises."""
    if not push.claim():
        return
    with carried(push), life.alive(push):
        last = 0.0

        def progress(phase: str, done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= SECONDS_BETWEEN:
                last = time.monotonic()
                push.proceed(phase=phase, step=done // 1024, total=max(1, total // 1024))

        push.proceed(phase="pushing")
        with push.parts() as parts:
            report = parts_push(
                parts,
                push.address,
                kind=push.kind,
                public=push.public,
                title=push.title,
                facts=push.facts,
                progress=progress,
            )
        push.finish(report=report)


def parts_push(
    parts: Sequence[Part],
    address: str,
    *,
    kind: str,
    public: bool,
    title: str,
    facts: dict[str, Any],
    progress: OnBytes = lambda phase, done, total: None,
) -> dict[str, Any]:
    """Carry files to an address; returns {url, commit, files, bytes}. Raises PushRefused and what `progress` does."""
    for part in parts:
        path = PurePosixPath(part.path)
        leads_out = path.is_absolute() or ".." in path.parts
        assert not leads_out, "a file would lie elsewhere"
    mark = {"made_by": f"Caliper {__version__}", **facts, "files": sorted(part.path for part in parts)}
    text = (json.dumps(mark, indent=2, ensure_ascii=False) + "\n").encode()
    carried_over = [*parts, Part(MARK, len(text), lambda: io.BytesIO(text))]
    with _explained(address):
        # The rules are asked again: the operator may have changed them.
        if push_address(address, kind).startswith("hf://"):
            found = _to_hub(carried_over, address, kind, public, title, progress)
        else:
            found = _to_store(carried_over, address, progress)
    return {**found, "files": len(parts), "bytes": sum(part.size for part in parts)}


class _Counted(io.BufferedReader):
    """A file that tells how much of it was read; so a push says how far it is, and can be stopped."""

    def __init__(self, raw: Any, heard: Callable[[int], None]) -> None:
        super().__init__(raw)
        self._heard = heard

    def read(self, size: int | None = -1, /) -> bytes:
        block = super().read(size)
        self._heard(len(block))
        return block


def _to_hub(
    parts: Sequence[Part], address: str, kind: str, public: bool, title: str, progress: OnBytes
) -> dict[str, Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    repo = address.removeprefix("hf://").removeprefix("datasets/")
    api = HfApi(endpoint=settings.HUB_ENDPOINT, token=settings.HUB_PUSH_TOKEN, library_name="caliper")
    api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
    info: Any = api.repo_info(repo, repo_type=kind)
    there = {file.rfilename for file in info.siblings or ()}
    if there - FROM_THE_BEGINNING and MARK not in there:
        raise PushRefused(f"{address} has files that Caliper didn't push. Choose another name.")
    if not public and not info.private:
        raise PushRefused(
            f"Everybody can read {address} already. Choose another name, or say that it may be public."
        )
    earlier = _marked(api, repo, kind, str(info.sha)) if MARK in there else set()
    stale = (earlier & there) - {part.path for part in parts}
    done, total = 0, 0

    def heard(size: int) -> None:
        nonlocal done
        done += size
        progress("pushing", min(done, total), total)

    opened: list[Any] = []
    try:
        for part in parts:
            opened.append(_Counted(part.open(), heard))
        # Each is read once for its digest and once to be sent.
        total = 2 * sum(part.size for part in parts)
        operations: list[Any] = [
            CommitOperationAdd(path_in_repo=part.path, path_or_fileobj=file)
            for part, file in zip(parts, opened, strict=True)
        ]
        operations += [CommitOperationDelete(path_in_repo=path) for path in sorted(stale)]
        commit = api.create_commit(
            repo, operations, repo_type=kind, commit_message=title, parent_commit=info.sha, num_threads=1
        )
    finally:
        for file in opened:
            file.close()
    base = f"{settings.HUB_ENDPOINT}/datasets" if kind == "dataset" else settings.HUB_ENDPOINT
    return {"url": f"{base}/{repo}/tree/{commit.oid}", "commit": commit.oid, "private": bool(info.private)}


def _marked(api: Any, repo: str, kind: str, commit: str) -> set[str]:
    """The files that an earlier push brought, by its mark; none where that can't be read."""
    from huggingface_hub import HfFileSystem

    system = HfFileSystem(endpoint=api.endpoint, token=api.token, skip_instance_cache=True)
    folder = f"datasets/{repo}" if kind == "dataset" else repo
    try:
        with system.open(f"{folder}@{commit}/{MARK}", "rb", block_size=0) as file:
            files = json.loads(file.read(MAX_MARK_BYTES))["files"]
        return {path for path in files if isinstance(path, str)}
    except (ValueError, KeyError, TypeError, RecursionError):
        return set()


def _to_store(parts: Sequence[Part], address: str, progress: OnBytes) -> dict[str, Any]:
    """The files as a folder of a store; what was written of one that broke off is taken away again."""
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(address, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        raise PushRefused(
            "This server can't write to such addresses. Its operator may install what they need (pip install -e "
            "'.[stores]' for s3:// and gs://)."
        ) from error
    if system.exists(root) and (system.isfile(root) or system.find(root)):
        raise PushRefused(f"There is something at {address} already. Name a new folder.")
    total, done = sum(part.size for part in parts), 0
    written: list[str] = []
    try:
        for part in parts:
            target = f"{root}/{part.path}"
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            written.append(target)
            with part.open() as source, system.open(target, "wb") as out:
                while block := source.read(BLOCK):
                    out.write(block)
                    done += len(block)
                    progress("pushing", done, total)
    except BaseException:
        for target in written:
            with suppress(Exception):
                system.rm_file(target)
        raise
    return {"url": "", "commit": ""}


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Inside, what a hub's or store's client raises becomes a PushRefused with a remedy; no token is told."""
    from huggingface_hub import errors

    try:
        yield
    except AddressRefused as error:
        raise PushRefused(str(error)) from error
    except errors.OfflineModeIsEnabled as error:
        raise PushRefused("This server never asks the hub (HF_HUB_OFFLINE).") from error
    except errors.HfHubHTTPError as error:
        raise PushRefused(_answered(address, error.response.status_code)) from error
    except PermissionError as error:
        raise PushRefused(
            f"{address} may not be written by this server. Its operator can allow it there."
        ) from error
    except Exception as error:
        if is_silence(error):
            raise PushRefused(
                f"{address} can't be reached ({type(error).__name__}). Try again later."
            ) from error
        raise


def _answered(address: str, status: int) -> str:
    match status:
        case 401 | 403 | 404:
            return f"The operator's token may not write to {address}. Choose another name, or ask for the right to."
        case 412:
            return f"Somebody changed {address} meanwhile. Try again."
    return f"The hub answered for {address} with status {status}. Try again later."
