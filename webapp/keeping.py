"""The lock between a backup and what takes files out of the data folder (retention, sweeping).

Jobs only add files, so a backup may run beside them. A file that goes while the backup looks would be missing in it.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

LOCK = ".keeping.lock"


@contextmanager
def files_held(*, shared: bool) -> Iterator[bool]:
    """Hold the data folder's files: shared by backups (waits), alone by those who remove (False: not now)."""
    settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
    with (settings.DATA_DIR / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
