"""How much memory a job may take: one that goes over fails by itself, and the machine's other work goes on."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

OUT_OF_MEMORY = "It needed more memory than a job may take (CALIPER_JOB_MEMORY_MB)."


@contextlib.contextmanager
def memory_limited() -> Iterator[None]:
    """Inside, this process may take settings.JOB_MEMORY_BYTES more than it has; then a MemoryError is raised.

    0 is no limit, and nothing is limited where the system doesn't say what a process has (other than Linux). Child
    processes inherit the limit, so trainings are not started in here.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    has = _data_bytes()
    if has is None or not settings.JOB_MEMORY_BYTES:
        yield
        return
    wanted = has + settings.JOB_MEMORY_BYTES
    soft = wanted if before[0] == resource.RLIM_INFINITY else min(before[0], wanted)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int | None:
    """The private memory of this process, as RLIMIT_DATA counts it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    except (OSError, StopIteration, ValueError):
        return None
