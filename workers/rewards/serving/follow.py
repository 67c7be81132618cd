"""Keeping to what a project serves: asks Caliper, finds or fetches the files, and puts the version in place.

A version that can't be had or loaded leaves the one before in its place; the problem stands in /healthz.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from ..artifacts.save import ArtifactError, read_config
from ..files import fsync, sha256_of
from .holder import Held, Holder
from .metrics import Metrics

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
LONGEST_PAUSE = 60.0  # between tries at something that goes on failing
PATIENCE = httpx.Timeout(10, read=60)
# A file of the model folder, or of the base model in its folder base.
NAME = re.compile(r"(base/)?[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
DIGEST = re.compile(r"[0-9a-f]{64}")


class Unfollowable(Exception):
    """What the project serves can't be had just now; the message says why."""


class Unanswered(Unfollowable):
    """Caliper itself can't be asked, or says that nothing serves."""


def api_of(address: str) -> str:
    """The address of a project's API, from that of its page (http://host/p/SLUG). Raises ValueError."""
    parts = urlsplit(address)
    found = re.fullmatch(r"(.*)/p/([-A-Za-z0-9_]+)/?", parts.path)
    if parts.scheme not in ("http", "https") or not parts.hostname or found is None:
        raise ValueError(
            f"{address} is no project's address; give it as on its page: http://host:8000/p/SLUG"
        )
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{found[1]}/api/v1/projects/{found[2]}"


def client_of(address: str, token: str) -> httpx.AsyncClient:
    """Asks a project's API."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # gunicorn closes an idle connection after two seconds; a request that meets the closing fails
    limits = httpx.Limits(keepalive_expiry=1.0)
    return httpx.AsyncClient(base_url=api_of(address), headers=headers, timeout=PATIENCE, limits=limits)


class Follower:
    """Puts in place what a project serves, as long as it runs."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        holder: Holder,
        metrics: Metrics,
        *,
        method: str | None,
        data: Path | None,
        fetched: Path,
        ask_back: Callable[[dict[str, Any] | None], None],
    ) -> None:
        """`data`: Caliper's data folder, where this machine shares it. `fetched`: where downloads are kept.
        `ask_back` is told the project's wish to have rollouts judged."""
        self._client, self._holder, self._metrics = client, holder, metrics
        self._method, self._data, self._fetched, self._ask_back = method, data, fetched, ask_back
        self._tag: str | None = None

    async def run(self) -> None:
        """For ever."""
        pause = POLL_SECONDS
        while True:
            try:
                await self.look()
                self._holder.problem, pause = "", POLL_SECONDS
            except (Unfollowable, ArtifactError) as error:
                if str(error) != self._holder.problem:
                    logger.warning("%s", error)
                self._holder.problem = str(error)
                pause = POLL_SECONDS if isinstance(error, Unanswered) else min(2 * pause, LONGEST_PAUSE)
            except Exception as error:  # whatever it is, the version in place goes on serving
                logger.exception("looking at what the project serves failed")
                self._holder.problem = (
                    f"what the project serves can't be loaded ({type(error).__name__}); see the log"
                )
                pause = min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Ask once, and put a new version in place. Raises Unfollowable and ArtifactError."""
        query = {} if self._method is None else {"method": self._method}
        response = await self._get("/serving", params=query, tag=self._tag)
        if response.status_code == 304:
            return
        version, folder, files, ask_back = _read(response)
        current = self._holder.current
        if current is None or current.digest != version["digest"]:
            try:
                held = await self._held(version, folder, files)
            except Exception:
                self._metrics.failed_swaps.inc()
                raise
            self._holder.current = held
            self._metrics.serves(held.name, held.digest)
            if current is not None:
                self._metrics.swaps.inc()
            logger.info("serving %s (%s)", held.name, held.digest[:12])
            await asyncio.to_thread(self._tidy, {held.digest, current.digest if current else ""})
        self._ask_back(ask_back)
        self._tag = response.headers.get("etag")

    async def _get(self, path: str, *, params: dict[str, str], tag: str | None) -> httpx.Response:
        try:
            response = await self._client.get(
                path, params=params, headers={"If-None-Match": tag} if tag else {}
            )
        except httpx.HTTPError as error:
            raise Unanswered(f"Caliper can't be reached ({type(error).__name__})") from None
        if response.status_code not in (200, 304):
            raise Unanswered(refusal(response))
        return response

    # --- Files ---

    async def _held(self, version: dict[str, Any], folder: str, files: list[dict[str, Any]]) -> Held:
        """The version, loaded and tried beside the one that serves."""
        path = await asyncio.to_thread(self._shared, folder, version["digest"])
        if path is None:
            path = await self._downloaded(version, files)
        try:
            held = await asyncio.to_thread(Held.load, path, version["name"])
            if held.digest != version["digest"]:
                raise Unfollowable(
                    f"the files of {version['name']} are another version's; they are left alone"
                )
        except (ArtifactError, Unfollowable):
            if path.is_relative_to(self._fetched):  # so that the next try fetches it anew
                await asyncio.to_thread(shutil.rmtree, path.parent, True)
            raise
        return held

    def _shared(self, folder: str, digest: str) -> Path | None:
        """The folder below the data folder that we share with Caliper, if this version is there.

        Loading compares every file with the config.
        """
        if self._data is None or not folder:
            return None
        path = (self._data / folder).resolve()
        if not path.is_relative_to(self._data.resolve()):
            return None
        try:
            return path if read_config(path)["digest"] == digest else None
        except (ArtifactError, KeyError):
            return None

    async def _downloaded(self, version: dict[str, Any], files: list[dict[str, Any]]) -> Path:
        """The files, fetched; what has come whole before isn't fetched again."""
        place = self._fetched / version["digest"] / "model"
        if place.is_dir():
            return place
        beside = self._fetched / f".{version['digest']}"
        beside.mkdir(parents=True, exist_ok=True)
        missing = sum(file["size"] for file in files)
        if missing > shutil.disk_usage(beside).free:
            raise Unfollowable(f"{version['name']} has {missing / 2**20:,.0f} MB, and {beside} has less room")
        for file in files:
            path = beside / file["name"]
            if not path.is_file() or await asyncio.to_thread(sha256_of, path) != file["sha256"]:
                await self._fetch(f"/versions/{version['id']}/files/{file['name']}", path, file)
        place.parent.mkdir(parents=True, exist_ok=True)
        beside.rename(place)
        return place

    async def _fetch(self, address: str, path: Path, file: dict[str, Any]) -> None:
        digest, size = hashlib.sha256(), 0
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f".{path.name}")
        try:
            async with self._client.stream("GET", address) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise Unfollowable(refusal(response))
                with part.open("wb") as out:
                    async for chunk in response.aiter_bytes(2**20):
                        size += len(chunk)
                        if size > file["size"]:
                            break
                        digest.update(chunk)
                        await asyncio.to_thread(out.write, chunk)
        except httpx.HTTPError as error:
            raise Unfollowable(f"{path.name} broke off ({type(error).__name__})") from None
        except OSError as error:
            raise Unfollowable(f"{path} can't be written ({error.strerror})") from None
        if size != file["size"] or digest.hexdigest() != file["sha256"]:
            part.unlink()
            raise Unfollowable(f"{path.name} came damaged (another size or sha256); it is fetched again")
        fsync(part)
        part.replace(path)

    def _tidy(self, kept: set[str]) -> None:
        """Remove downloads but those of these digests."""
        for path in self._fetched.glob("*"):
            if DIGEST.fullmatch(path.name.removeprefix(".")) and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)


def _read(
    response: httpx.Response,
) -> tuple[dict[str, Any], str, list[dict[str, Any]], dict[str, Any] | None]:
    """Version, folder, files and ask_back of an answer, checked. Raises Unfollowable."""
    try:
        answer = response.json()
        version, files = answer["version"], answer["files"]
        if not DIGEST.fullmatch(version["digest"]) or not isinstance(version["id"], int):
            raise ValueError("version")
        for file in files:
            if not NAME.fullmatch(file["name"]) or not DIGEST.fullmatch(file["sha256"]):
                raise ValueError("files")
            file["size"] = int(file["size"])
        version["name"] = str(version["name"])[:200]
        ask_back = answer.get("ask_back")
        if ask_back is not None and not (int(ask_back["sample"]) >= 0 < float(ask_back["window_seconds"])):
            raise ValueError("ask_back")
        return version, str(answer.get("folder") or ""), files, ask_back
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unfollowable(f"Caliper's answer can't be read ({error}); update the older of the two") from None


def refusal(response: httpx.Response) -> str:
    """What Caliper said, in a line."""
    try:
        said = str(response.json()["detail"])
    except (ValueError, TypeError, KeyError):
        said = response.reason_phrase
    hints = {
        401: "; set CALIPER_TOKEN to a token with the scope score",
        403: "; the token needs the scope score",
    }
    return f"Caliper said {response.status_code}: {said[:300]}{hints.get(response.status_code, '')}"
