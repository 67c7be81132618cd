"""Where the bytes are. A worker measures now and then and leaves the answer in a file; the page only reads that."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection
from django.utils import timezone

from webapp.corpus.models import Project
from webapp.operations.folder import is_base_link
from webapp.training.models import ModelVersion, TrainingRun
from webapp.training.retention import versions_packable

REPORT = ".disk.json"

PARTS = {
    "snapshots": "Snapshots: frozen labels",
    "runs": "Training runs: models, checkpoints, logs",
    "imports": "Uploaded files and their errors",
    "exports": "Exports of labels",
    "model-exports": "Models packed for download",
    "starter-lm": "Starter models",
    "evaluation-sets": "Evaluation sets: uploaded benchmarks",
}
OTHERS = "All else: logs, static files, the embedded database"
# How many versions to keep, as the page compares it.
CHOICES = (1, 3, 5, 10)


def disk_measure() -> dict[str, Any]:
    """Measure and keep the report. What is one file under two names is counted once, where it is met first."""
    counted: set[tuple[int, int]] = set()
    parts: dict[str, dict[str, int]] = {name: {"bytes": 0, "files": 0} for name in [*PARTS, "others"]}
    runs: dict[int, dict[str, int]] = {}
    entries = {entry.name: entry for entry in settings.DATA_DIR.iterdir()}
    # Snapshots before runs, which hold links to them.
    for name in sorted(entries, key=lambda name: (name != "snapshots", name)):
        part = parts[name if name in PARTS else "others"]
        for path, size in _files(entries[name], counted):
            part["bytes"] += size
            part["files"] += 1
            if name == "runs":
                _count_run(runs, path.relative_to(entries[name]).parts, size)
    usage = shutil.disk_usage(settings.DATA_DIR)
    report = {
        "measured_at": timezone.now().isoformat(),
        "free": usage.free,
        "total": usage.total,
        "database": _database_bytes(),
        "parts": parts,
        "projects": _by_project(runs),
        "retention": _retention(runs),
        "packed": ModelVersion.objects.filter(packed_at__isnull=False).count(),
    }
    beside = settings.DATA_DIR / f"{REPORT}.part"
    beside.write_text(json.dumps(report))
    beside.replace(settings.DATA_DIR / REPORT)
    return report


def disk_report() -> dict[str, Any] | None:
    """The last report; None if nothing was measured yet."""
    try:
        found = json.loads((settings.DATA_DIR / REPORT).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _files(path: Path, counted: set[tuple[int, int]]) -> Iterator[tuple[Path, int]]:
    """Files below with the space they take, those that were counted before left out."""
    if is_base_link(path):
        return
    if path.is_dir():
        try:
            entries = sorted(path.iterdir())
        except OSError:
            return
        for entry in entries:
            yield from _files(entry, counted)
        return
    try:
        status = os.stat(path)
    except OSError:  # it went away meanwhile
        return
    if (status.st_dev, status.st_ino) not in counted:
        counted.add((status.st_dev, status.st_ino))
        yield path, status.st_blocks * 512


def _count_run(runs: dict[int, dict[str, int]], parts: tuple[str, ...], size: int) -> None:
    if not parts[0].isdecimal():
        return
    use = parts[1] if len(parts) > 2 and parts[1] in ("model", "checkpoint") else "other"
    sizes = runs.setdefault(int(parts[0]), {"model": 0, "checkpoint": 0, "other": 0})
    sizes[use] += size


def _by_project(runs: dict[int, dict[str, int]]) -> list[dict[str, Any]]:
    """What each project's runs take, the largest first."""
    projects = dict(TrainingRun.objects.filter(pk__in=runs).values_list("pk", "project_id"))
    sums: dict[int, dict[str, int]] = {}
    for run, sizes in runs.items():
        if (project := projects.get(run)) is not None:
            total = sums.setdefault(project, {"runs": 0, "model": 0, "checkpoint": 0, "other": 0})
            total["runs"] += 1
            for use, size in sizes.items():
                total[use] += size
    names = {project.pk: project for project in Project.objects.filter(pk__in=sums)}
    rows = [
        {
            "pk": pk,
            "name": names[pk].name,
            "slug": names[pk].slug,
            "bytes": sizes["model"] + sizes["checkpoint"] + sizes["other"],
            **sizes,
        }
        for pk, sizes in sums.items()
    ]
    return sorted(rows, key=lambda row: -row["bytes"])


def _retention(runs: dict[int, dict[str, int]]) -> list[dict[str, int]]:
    """What packing away would free, for some numbers of versions to keep."""
    choices = sorted({*CHOICES, settings.KEEP_VERSIONS} - {0})
    rows = []
    for keep in choices:
        versions = versions_packable(keep=keep)
        freed = sum(runs[version.run_id]["model"] for version in versions if version.run_id in runs)
        rows.append({"keep": keep, "versions": len(versions), "bytes": freed})
    return rows


def _database_bytes() -> int:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_database_size(current_database())")
            return int(cursor.fetchone()[0])
    name = Path(connection.settings_dict["NAME"])
    files = [name.with_name(name.name + ending) for ending in ("", "-wal", "-shm")]
    return sum(path.stat().st_size for path in files if path.is_file())
