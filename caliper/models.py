"""Reward models: runs, versions, what serves, evaluation sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from caliper import types
from caliper.data import waited
from caliper.errors import CaliperError
from caliper.transport import Group, sha256_of


class Runs(Group):
    def list(self) -> Iterator[types.RunRow]:
        return self._pages("/projects/{slug}/runs")

    def get(self, id: int) -> types.RunWhole:
        return self._send("GET", "/projects/{slug}/runs/{id}", id=id)

    def start(self, method: str, **options: Any) -> types.RunWhole:
        """Train on the labels of now. `options` as on the run form: base_model, tuning, epochs, seed, ..."""
        body = {"method": method, "options": options}
        return self._send("POST", "/projects/{slug}/runs", json=body)

    def wait(self, id: int, told: Callable[[types.RunWhole], None] | None = None) -> types.RunWhole:
        """The run once it has ended, well or badly."""
        return waited(lambda: self.get(id), told)

    def progress(self, id: int, after: int | None = None) -> types.RunProgress:
        """Its newest rows of progress, after one step."""
        return self._send("GET", "/projects/{slug}/runs/{id}/progress", id=id, query={"after": after})

    def log(self, id: int) -> str:
        path = self._path("/projects/{slug}/runs/{id}/log", {"id": id})
        return self._transport.send("GET", path).text

    def cancel(self, id: int) -> types.RunWhole:
        return self._send("POST", "/projects/{slug}/runs/{id}/cancel", id=id)

    def resume(
        self, id: int, *, cost_limit: float | None = None, token_limit: int | None = None
    ) -> types.RunWhole:
        """Go on from the checkpoint of a run that failed, was lost or cancelled."""
        limits = {"cost_limit": cost_limit, "token_limit": token_limit}
        body = {name: limit for name, limit in limits.items() if limit is not None}
        return self._send("POST", "/projects/{slug}/runs/{id}/resume", id=id, json=body)


class Versions(Group):
    def list(self) -> Iterator[types.VersionRow]:
        return self._pages("/projects/{slug}/versions")

    def get(self, id: int) -> types.VersionWhole:
        return self._send("GET", "/projects/{slug}/versions/{id}", id=id)

    def promote(self, id: int) -> types.VersionWhole:
        """Let it serve. An older one: roll back to it."""
        return self._send("POST", "/projects/{slug}/versions/{id}/promote", id=id)

    def predictions(self, id: int, split: str | None = None) -> Iterator[types.RatedRow]:
        """Its rating of every response, beside people's levels. `split`: train, held_out, crossfit or unlabelled."""
        return self._pages("/projects/{slug}/versions/{id}/predictions", {"split": split}, id=id)

    def files(self, id: int) -> Sequence[types.FileShown]:
        """The files of the model, with size and sha256."""
        return self._send("GET", "/projects/{slug}/versions/{id}/files", id=id)

    def download(
        self,
        id: int,
        folder: Path | str,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Path:
        """Write a version's model into a folder. Called again after a break it goes on where it stopped.

        Every file must have the sha256 that the server names. `progress` hears a name, the bytes that are there, and
        the size.
        """
        root = Path(folder).resolve()
        for file in self.files(id):
            name, size = file["name"], file["size"]
            target = (root / name).resolve()
            if not target.is_relative_to(root):
                raise CaliperError("Unsafe name", detail=f"The server names a file outside {root}: {name!r}.")
            if not _same(target, file):
                route = self._path("/projects/{slug}/versions/{id}/files/{name}", {"id": id, "name": name})

                def told(done: int, name: str = name, size: int = size) -> None:
                    if progress is not None:
                        progress(name, done, size)

                self._transport.download(route, target, sha256=file["sha256"], size=size, progress=told)
        return root


def _same(path: Path, file: types.FileShown) -> bool:
    """Whether an earlier call has this file already."""
    return path.is_file() and path.stat().st_size == file["size"] and sha256_of(path) == file["sha256"]


class Serving(Group):
    def get(self, method: str | None = None) -> types.Serving:
        """The version that serves, its files, and what a reward server is to ask back."""
        return self._send("GET", "/projects/{slug}/serving", query={"method": method})


class EvaluationSets(Group):
    def list(self) -> Iterator[types.SetRow]:
        return self._pages("/projects/{slug}/evaluation-sets")

    def get(self, id: int) -> types.SetWhole:
        return self._send("GET", "/projects/{slug}/evaluation-sets/{id}", id=id)

    def add(self, name: str, paths: Sequence[Path | str]) -> types.SetWhole:
        """Upload a set of pairs on which versions are measured; nobody trains on it."""
        files = {Path(path).name: Path(path) for path in paths}
        return self._send("POST", "/projects/{slug}/evaluation-sets", form={"name": name}, files=files)

    def delete(self, id: int) -> None:
        self._send("DELETE", "/projects/{slug}/evaluation-sets/{id}", id=id)

    def retry(self, id: int) -> types.SetWhole:
        return self._send("POST", "/projects/{slug}/evaluation-sets/{id}/retry", id=id)

    def measurements(self, id: int) -> Iterator[types.MeasurementRow]:
        return self._pages("/projects/{slug}/evaluation-sets/{id}/measurements", id=id)

    def measure(self, id: int, version: int) -> types.MeasurementRow:
        """Measure one version on the set."""
        body = {"version": version}
        return self._send("POST", "/projects/{slug}/evaluation-sets/{id}/measurements", id=id, json=body)

    def cancel(self, id: int, measurement: int) -> types.MeasurementRow:
        route = "/projects/{slug}/evaluation-sets/{id}/measurements/{measurement}/cancel"
        return self._send("POST", route, id=id, measurement=measurement)
