"""A run's numbers in a tracker that a team has anyway, by accelerate's trackers: off unless report_to names one.

What is sent: the configuration, the loss, learning rates, speed, early stopping's looks, and at the end the held-out
metrics. No text, no name of a person, no path. A tracker that fails costs a message, never the run.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..config import TRACKERS, Refused, RunConfig
from ..models.base_models import public_name

PROJECT = "caliper"
FOLDER = "tracking"  # RUN_DIR/tracking holds tensorboard's files
SECONDS = 1.0  # between two records: a tracker across a network answers each of them
KEPT_BACK = ("held_out_groups", "split_salt", "report_to")


def refuse_tracker(name: str) -> None:
    """Raise Refused if the tracker's package, or accelerate's, is missing."""
    for package in () if name == "none" else (name, "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise Refused(
                f"config.json: report_to is {name!r}, which needs {package}: `pip install {package}` where runs are "
                f"trained, or set it to one of {', '.join(TRACKERS)}"
            )


class Tracking:
    """One run's tracker. `url` is where a browser sees it, empty where there is no such page."""

    def __init__(self, run_dir: Path, config: RunConfig, tell: Callable[[str], None]) -> None:
        self.name, self.url, self._tell = config.report_to, "", tell
        self._tracker: Any = None
        self._logged = -SECONDS
        if self.name != "none":
            self._guarded(lambda: self._start(run_dir, config))

    def log(self, step: int, values: Mapping[str, float | None], *, always: bool = False) -> None:
        """Record values at a step, unless the last record is too fresh."""
        now = time.monotonic()
        if self._tracker is None or not (always or now - self._logged >= SECONDS):
            return
        self._logged = now
        known = {name: float(value) for name, value in values.items() if value is not None}
        self._guarded(lambda: self._tracker.log(known, step=step))

    def close(self) -> None:
        """Send what is waiting; a second call does nothing."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            self._guarded(tracker.finish)

    def _start(self, run_dir: Path, config: RunConfig) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's trackers log by it
        name = run_dir.resolve().name
        given = config.to_json() | {"base_model": public_name(config.base_model)}
        # a resumed run goes on in its own record
        identity = hashlib.sha256(f"{run_dir.resolve()}{config.snapshot_digest}".encode()).hexdigest()[:16]
        arguments: dict[str, dict[str, Any]] = {
            "tensorboard": {"run_name": FOLDER, "logging_dir": str(run_dir)},
            "trackio": {"run_name": PROJECT, "name": f"{name}-{identity[:4]}", "resume": "allow"},
            "wandb": {"run_name": PROJECT, "name": name, "id": identity, "resume": "allow"},
            "mlflow": {"experiment_name": PROJECT, "run_name": name},
        }
        tracker = LOGGER_TYPE_TO_CLASS[self.name](**arguments[self.name])
        tracker.main_process_only = False  # only the first process comes here
        tracker.start()
        self._tracker = tracker
        self.url = _public(_address(self.name, tracker.tracker))
        tracker.store_init_configuration(
            {
                key: value if isinstance(value, (bool, int, float, str)) else str(value)
                for key, value in given.items()
                if key not in KEPT_BACK
            }
        )

    def _guarded(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            self._tracker = None
            words = f"no more tracking by {self.name}: {' '.join(str(error).split())[:200] or type(error).__name__}"
            print(words, file=sys.stderr, flush=True)
            with suppress(ValueError):  # the run has ended, and with it its progress
                self._tell(words)


def flattened(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of nested objects by path: {"held_out/pairs/nll": .6}; lists are left out."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        path = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            found |= flattened(value, path)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[path] = float(value)
    return found


def _address(name: str, run: Any) -> str:
    """Where a browser sees the tracker's own run object."""
    if name == "mlflow":
        mlflow, info = importlib.import_module("mlflow"), run.info
        return (
            f"{mlflow.get_tracking_uri().rstrip('/')}/#/experiments/{info.experiment_id}/runs/{info.run_id}"
        )
    address = str(getattr(run, "url", None) or "")
    if name == "trackio" and address and "://" not in address:
        return f"https://huggingface.co/spaces/{address}"
    return address


def _public(address: str) -> str:
    """A link without user and password; empty if it is none for a browser."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
