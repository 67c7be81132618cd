"""gunicorn's settings: `gunicorn -c python:webapp.gunicorn_settings webapp.wsgi:application`.

What each web process counts for /metrics lies in a folder of this start's own, so that they add up; and gunicorn's own
lines are written like all others where a collector reads them.
"""

import os
import shutil
import tempfile
from typing import Any

import environ

from webapp.logs import logging_settings

_env = environ.FileAwareEnv()
_folder = ""

if _env.str("CALIPER_METRICS_TOKEN", default=""):
    # Many small writes: in memory where there is such a folder, whatever TMPDIR says.
    _memory = "/dev/shm"  # noqa: S108 - mkdtemp makes a folder that is ours alone
    _folder = tempfile.mkdtemp(prefix="caliper-metrics-", dir=_memory if os.path.isdir(_memory) else None)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _folder

if _env.bool("CALIPER_LOG_JSON", default=False):
    logconfig_dict = logging_settings(level=_env.str("CALIPER_LOG_LEVEL", default="INFO"), as_json=True)
    logconfig_dict["loggers"]["gunicorn.error"] = {"level": "INFO", "propagate": True}


def child_exit(server: Any, worker: Any) -> None:
    """A web process that ended: what it counted stays, what it measured at the moment goes."""
    if _folder:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    if _folder:
        shutil.rmtree(_folder, ignore_errors=True)
