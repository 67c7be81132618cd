"""Nothing that stands in a file makes an import fail: what is odd costs its row, or the file, with a message."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from tests.importing.fuzz.mutants import Fuzz
from tests.importing.fuzz.samples import SAMPLES
from webapp.corpus.models import Project
from webapp.importing.reading import ImportRefused, Source
from webapp.importing.services import import_files
from webapp.importing.shapes import PARSERS

SHARED = Path(os.environ.get("CALIPER_TEST_SHARED", REPOSITORY.parent / "shared"))
MUTANTS = 10_000
PARTS = 4


@pytest.mark.parametrize("seed", range(PARTS))
def test_mutants_cost_their_row_or_their_file(project: Project, tmp_path: Path, seed: int) -> None:
    found = Fuzz(project, tmp_path, SHARED, seed).run(MUTANTS // PARTS)
    assert not found.failures, f"{len(found.failures)} failures, the first:\n{found.failures[0]}"
    assert found.rows > found.left_out > 0, "good rows are taken, odd ones left out"
    assert 0 < found.refused < found.imports


def test_what_no_check_thought_of_is_a_failure(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fuzz hears of what records() catches for want of a better message, and of what nobody catches."""
    monkeypatch.setitem(PARSERS, "trl", lambda row: [int("x")])  # type: ignore[list-item]
    found = Fuzz(project, tmp_path, None, 0).run(3000, files=0)
    assert any("cannot be taken" in failure for failure in found.failures)
    monkeypatch.setitem(PARSERS, "trl", lambda row: [1 / 0])  # type: ignore[list-item]
    found = Fuzz(project, tmp_path, None, 0).run(3000, files=0)
    assert any("ZeroDivisionError" in failure for failure in found.failures)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_are_good(project: Project, tmp_path: Path, name: str) -> None:
    path = tmp_path / "good.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SAMPLES[name]))
    report = import_files(
        project=project,
        sources=[Source(path, path.name)],
        format_name=name,
        dry_run=True,
        folder=tmp_path / "work",
    )
    assert report.left_out == 0, report.errors
    assert report.found


TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
KEYS = st.sampled_from(["role", "content", "value", "from", "a"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_values_in_the_columns_of_a_format(
    project: Project, tmp_path: Path, caplog: Any, name: str, data: st.DataObject
) -> None:
    caplog.clear()
    path = tmp_path / "any.jsonl"
    rows = []
    for sample in SAMPLES[name]:
        changed = data.draw(st.dictionaries(st.sampled_from(sorted(sample)), VALUES, max_size=3))
        rows.append(sample | changed)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with contextlib.suppress(ImportRefused):
        report = import_files(
            project=project, sources=[Source(path, path.name)], format_name=name, dry_run=True,
            folder=tmp_path / "work",
        )  # fmt: skip
        assert report.rows == len(rows)
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text
