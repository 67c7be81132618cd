"""The base model below a version's adapters, found again for each job that loads the version.

RUN_DIR/base leads to it: a link, or of a starter a folder with its files, since a starter may be made anew and has few
megabytes. No page and no file tells where the link leads.
"""

import os
import shutil
from pathlib import Path

from webapp.corpus.base_models import STARTER
from webapp.jobs import JobFailed
from webapp.training.models import ModelVersion
from webapp.training.services import VersionRefused, version_base

LINK = "base"


def base_linked(version: ModelVersion) -> list[Path]:
    """Set RUN_DIR/base right; the folders that a child which loads the version may load from. Raises JobFailed."""
    try:
        found = version_base(version)
    except VersionRefused as refusal:
        raise JobFailed(str(refusal)) from None
    link = version.run.folder / LINK
    if found is None:
        if link.is_symlink():
            link.unlink(missing_ok=True)
        return []
    if found != link:
        link_set(link, found)
    return [found]


def link_set(link: Path, folder: Path) -> None:
    """Let the link lead to the folder, whatever it was; another process sees the old link or the new one."""
    if link.is_symlink() and link.resolve() == folder.resolve():
        return
    beside = link.with_name(f".{LINK}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(folder.resolve(), target_is_directory=True)
    beside.replace(link)


def starter_kept(run_folder: Path, starter: Path) -> Path:
    """RUN_DIR/base as a folder with the starter's files: one file under two names where the disk can."""
    target = run_folder / LINK
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in starter.iterdir():
        link_or_copy(path, target / path.name)
    return target


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name, or where the disk has no such links a copy. rewards/files.py has the like, but
    brings torch along."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def is_starter(version: ModelVersion) -> bool:
    """Whether the version is adapters over a project's starter."""
    record = version.artifact.get("base")
    return isinstance(record, dict) and record.get("name") == STARTER
