"""Data in and out: imports, snapshots, exports."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from caliper import types
from caliper.transport import Group

ENDED = ("done", "failed", "cancelled", "lost")
POLL_SECONDS = 0.5


def waited(get: Callable[[], Any], told: Callable[[Any], None] | None = None) -> Any:
    """A job once it has ended. `told` hears of it whenever something of it is new."""
    before = None
    while True:
        job = get()
        if told is not None and job != before:
            told(job)
        if job["state"] in ENDED:
            return job
        before = job
        time.sleep(POLL_SECONDS)


class Imports(Group):
    def list(self) -> Iterator[types.ImportRow]:
        return self._pages("/projects/{slug}/imports")

    def get(self, id: int) -> types.ImportWhole:
        return self._send("GET", "/projects/{slug}/imports/{id}", id=id)

    def upload(self, paths: Sequence[Path | str], format: str = "auto") -> types.ImportWhole:
        """Upload files. They are read and previewed; `confirm` imports them."""
        files = {Path(path).name: Path(path) for path in paths}
        if len(files) < len(paths):
            raise ValueError("Two files have one name. Rename one of them.")
        return self._send("POST", "/projects/{slug}/imports", form={"format": format}, files=files)

    def from_address(
        self, address: str, *, config: str = "", split: str = "", revision: str = ""
    ) -> types.ImportWhole:
        """Import from a hub (`hf://datasets/ORG/NAME`) or store (`s3://...`) that the operator allows."""
        body = {"address": address, "config": config, "split": split, "revision": revision}
        return self._send("POST", "/projects/{slug}/imports/address", json=body)

    def wait(self, id: int, told: Callable[[types.ImportWhole], None] | None = None) -> types.ImportWhole:
        """The import once its job has ended, well or badly."""
        return waited(lambda: self.get(id), told)

    def mapping(self, id: int) -> types.MappingShown:
        """Which column is taken for what."""
        return self._send("GET", "/projects/{slug}/imports/{id}/mapping", id=id)

    def map(self, id: int, mapping: Mapping[str, Any]) -> types.ImportWhole:
        """Say which column is what, and read the files again."""
        return self._send("PUT", "/projects/{slug}/imports/{id}/mapping", id=id, json=dict(mapping))

    def errors(self, id: int, target: Path | str) -> Path:
        """Write the rows that were left out, with the reason of each, to a JSONL file."""
        path = Path(target)
        self._transport.download(self._path("/projects/{slug}/imports/{id}/errors", {"id": id}), path)
        return path

    def ask(self, id: int) -> types.ImportWhole:
        """Ask for the columns' meaning although the format was recognised."""
        return self._send("POST", "/projects/{slug}/imports/{id}/ask", id=id)

    def confirm(self, id: int) -> types.ImportWhole:
        """Import what the preview showed."""
        return self._send("POST", "/projects/{slug}/imports/{id}/confirm", id=id)

    def cancel(self, id: int) -> types.ImportWhole:
        return self._send("POST", "/projects/{slug}/imports/{id}/cancel", id=id)

    def retry(self, id: int) -> types.ImportWhole:
        return self._send("POST", "/projects/{slug}/imports/{id}/retry", id=id)

    def undo(self, id: int) -> types.ImportWhole:
        """Take back what it wrote, as far as nobody has judged it."""
        return self._send("POST", "/projects/{slug}/imports/{id}/undo", id=id)

    def discard(self, id: int) -> None:
        """Throw a preview away."""
        self._send("DELETE", "/projects/{slug}/imports/{id}", id=id)


class Snapshots(Group):
    def list(self) -> Iterator[types.SnapshotRow]:
        return self._pages("/projects/{slug}/snapshots")

    def take(self) -> types.ExportJob:
        """Freeze the labels of now: an export job, whose report names the snapshot."""
        return self._send("POST", "/projects/{slug}/snapshots")

    def get(self, id: int) -> types.SnapshotWhole:
        """One snapshot with its manifest."""
        return self._send("GET", "/projects/{slug}/snapshots/{id}", id=id)


class Exports(Group):
    def formats(self) -> Sequence[types.FormatShown]:
        return self._send("GET", "/projects/{slug}/exports")

    def write(self, format: str, target: Path | str, **query: Any) -> str:
        """Write the labels of now to a file, row by row: JSONL, or CSV with file_type="csv".

        `query`: file_type, aggregation, superseded, safe_for_spreadsheets, version. The file appears when it is whole.
        Returns what names the state of the labels: equal exports hold equal labels.
        """
        route = self._path("/projects/{slug}/exports/{format}", {"format": format})
        return self._transport.download(route, Path(target), query=query).get("caliper-labels", "")

    def card(self, format: str, **query: Any) -> types.Card:
        """How many rows `write` would write, and what it would leave out or change."""
        return self._send("GET", "/projects/{slug}/exports/{format}/card", format=format, query=query)

    def jobs(self) -> Iterator[types.ExportRow]:
        return self._pages("/projects/{slug}/exports/jobs")

    def start(self, format: str, **options: Any) -> types.ExportJob:
        """Write an export on the server: a zip with its data card, Parquet too."""
        return self._send("POST", "/projects/{slug}/exports/jobs", json={"format": format, **options})

    def job(self, id: int) -> types.ExportJob:
        return self._send("GET", "/projects/{slug}/exports/jobs/{id}", id=id)

    def wait(self, id: int, told: Callable[[types.ExportJob], None] | None = None) -> types.ExportJob:
        return waited(lambda: self.job(id), told)

    def download(self, id: int, name: str, target: Path | str) -> Path:
        """Write a file of a finished job to `target`."""
        path = Path(target)
        route = self._path("/projects/{slug}/exports/jobs/{id}/files/{name}", {"id": id, "name": name})
        self._transport.download(route, path)
        return path
