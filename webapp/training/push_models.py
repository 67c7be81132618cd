"""ModelPush: a packed version that is carried to a hub or a store."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.db import models

from webapp.corpus.models import Project
from webapp.jobs import JobFailed
from webapp.snapshots.pushes import Part, Push


class ModelPush(Push):
    """A packed version carried to a hub id or a store's address by a worker: the files of its archive."""

    task = "workers.tasks.push_model"
    kind = "model"

    export = models.ForeignKey("ModelExport", on_delete=models.CASCADE, related_name="pushes")

    @property
    def project(self) -> Project:
        return self.export.version.project

    @property
    def title(self) -> str:
        version = self.export.version
        format = self.export.get_format_display()
        return f"{version.get_method_display()} v{version.number} of {self.project.name}, {format}"

    @property
    def facts(self) -> dict[str, Any]:
        version = self.export.version
        return {"version": version.address, "digest": version.digest, "format": self.export.format}

    @contextmanager
    def parts(self) -> Iterator[list[Part]]:
        if not self.export.is_there:
            raise JobFailed("The packed model is gone from the disk. Pack it again, and push that.")
        with zipfile.ZipFile(self.export.archive) as archive:
            top = f"{self.export.name}/"
            yield [
                Part(info.filename.removeprefix(top), info.file_size, partial(archive.open, info))
                for info in archive.infolist()
                if info.filename.startswith(top) and not info.is_dir()
            ]
