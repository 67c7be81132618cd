"""Sets and measurements as workers leave them, without a model: responses are scored by their length."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.files.uploadedfile import SimpleUploadedFile

from tests.training.conftest import judge, labelled, make_run, make_version, sent  # noqa: F401 - fixtures
from webapp.accounts.models import User
from webapp.benchmarks.models import EvaluationSet, Measurement
from webapp.benchmarks.services import measurement_start, set_add
from webapp.corpus.models import Project
from webapp.training.models import ModelVersion
from workers import measurements

PAIRS = b"""\
{"prompt": "What is the capital of France?", "chosen": "Paris, of course", "rejected": "Lyon", "subset": "easy"}
{"prompt": "And of Peru?", "chosen": "Lima", "rejected": "It may be Cusco", "subset": "hard"}
{"prompt": "And of Chad?", "chosen": "N'Djamena, I think", "rejected": "None", "subset": "easy"}
{"prompt": "Broken"}
"""
BEST = b"""\
{"prompt": "Why?", "responses": ["a", "bb", "ccc"], "scores": [0, 0, 1]}
{"prompt": "How?", "responses": ["a", "bb", "ccc"], "scores": [1, 0, 0]}
"""
# In place of workers.rewards.benchmark: its own reading and counting, and the longer response has the higher score.
LONGER = """
import json, pathlib, sys
from workers.rewards.data.benchmarks import read_benchmarks
from workers.rewards.evaluation.benchmarks import measure
model, *rest = sys.argv[1:]
files = rest[:rest.index("--json")]
out = rest[rest.index("--json") + 1]
(found,) = read_benchmarks([pathlib.Path(name) for name in files])
scores = [[len(text) for text in item.responses] for item in found.items]
reading = {"responses": 6, "truncated": 1, "cut": 1, "unknown": 0.5, "compared": 3, "alike": 1}
near = {"n": 1, "without": measure(found, scores)["lines"][0]} if "--trained-on" in rest else None
result = {"format": found.format, "items": len(found.items), "reading": reading, "near_duplicates": near,
          "refusals": ["x"], "subsets": {}, **measure(found, scores)}
pathlib.Path(out).write_text(json.dumps({"model_digest": "d", "benchmarks": [result]}))
pathlib.Path(rest[rest.index("--progress") + 1]).write_text('{"phase": "scoring", "step": 6, "total": 6}\\n')
sys.exit(1)
"""


@pytest.fixture
def child(settings: LazySettings) -> Callable[[str], None]:
    """child(CODE) is the program that measures."""

    def choose(code: str) -> None:
        settings.BENCHMARK_COMMAND = [sys.executable, "-c", code]

    choose(LONGER)
    return choose


@pytest.fixture
def add(project: Project, researcher: User, sent: Any) -> Callable[..., EvaluationSet]:  # noqa: F811
    """add("Capitals", b"...", name="a.jsonl") uploads a set; read=False leaves it in the queue."""

    def make(
        title: str = "Capitals", content: bytes = PAIRS, *, name: str = "a.jsonl", read: bool = True
    ) -> EvaluationSet:
        row = set_add(
            project=project, name=title, files=[SimpleUploadedFile(name, content)], created_by=researcher
        )
        if read:
            measurements.read_set(row.pk)
            row.refresh_from_db()
        return row

    return make


@pytest.fixture
def measured(child: Any) -> Callable[[EvaluationSet, ModelVersion], Measurement]:
    """measured(set, version) carries a measurement to its end."""

    def make(row: EvaluationSet, version: ModelVersion) -> Measurement:
        one = measurement_start(evaluation_set=row, version=version)
        measurements.measure(one.pk)
        one.refresh_from_db()
        return one

    return make


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version's files are taken as they are: the tests' have none."""
    monkeypatch.setattr(measurements, "read_artifact", lambda *_, **__: {})
