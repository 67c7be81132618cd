"""The shared cases about files and values: what each kind of file says is what an import finds, or it says why not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import shared_case
from webapp.corpus.models import Import, Project, Prompt, Response
from webapp.importing.reading import ImportRefused, Source
from webapp.importing.report import Report
from webapp.importing.services import import_files
from webapp.labels.models import Judgement

pytestmark = pytest.mark.django_db

Importer = Callable[..., Report]


@pytest.fixture
def importer(project: Project, tmp_path: Path) -> Importer:
    """Imports files (paths) into the project."""

    def run(*paths: Path, dry_run: bool = False, format_name: str = "auto") -> Report:
        return import_files(
            project=project, sources=[Source(path, path.name) for path in paths], format_name=format_name,
            dry_run=dry_run, folder=tmp_path / "work",
        )  # fmt: skip

    return run


def texts(project: Project) -> set[str]:
    return set(Response.objects.filter(project=project).values_list("text", flat=True))


def comments(project: Project) -> dict[str, str]:
    found = Judgement.objects.filter(pair__project=project).select_related("pair__response_a__prompt")
    return {row.pair.response_a.prompt.last_text: row.comment for row in found}


def only_error(report: Report) -> dict[str, Any]:
    assert report.left_out == 1, report.errors
    return report.errors[0]


# Not given ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["03b-margin-blank.csv", "03e-margin-nan-arrow.parquet"])
def test_a_blank_and_a_nan_margin_are_not_given(project: Project, importer: Importer, name: str) -> None:
    report = importer(shared_case(name))
    assert report.left_out == 0
    assert comments(project) == {"q1": "margin 1.5", "q2": ""}


def test_a_nan_in_a_column_that_is_not_used_harms_nobody(project: Project, importer: Importer) -> None:
    assert importer(shared_case("03c-nan-json.jsonl")).left_out == 0
    assert texts(project) == {"good one", "bad one", "good two", "bad two"}


def test_a_margin_that_is_no_number_costs_its_row(
    project: Project, importer: Importer, tmp_path: Path
) -> None:
    huge = shared_case("12w-margin-huge.jsonl").read_text()
    path = tmp_path / "12w.jsonl"
    path.write_text(huge + '{"prompt": "q2", "chosen": "x2", "rejected": "y2", "margin": 2}\n')
    error = only_error(importer(path))
    assert (error["row"], error["field"]) == (1, "margin")
    assert "more than 36 digits" in error["message"]
    assert error["remedy"]
    assert texts(project) == {"x2", "y2"}


def test_a_huge_number_in_a_column_that_is_not_used_harms_nobody(
    project: Project, importer: Importer, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    row = '{"prompt": "q", "chosen": "x", "rejected": "y", "other": %s}\n'
    path.write_text(row % ("1" * 5000) + (row % "-Infinity").replace("q", "r"))
    assert importer(path).left_out == 0
    assert Prompt.objects.filter(project=project).count() == 2


# Parquet -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "metadata"),
    [
        ("04a-meta-time.parquet", {"made": "2026-01-01T00:00:00"}),
        ("04b-meta-decimal.parquet", {"cost": "0.10"}),
    ],
)
def test_parquet_metadata_becomes_json(
    project: Project, importer: Importer, tmp_path: Path, name: str, metadata: dict[str, Any]
) -> None:
    prompt = tmp_path / "prompt.jsonl"
    prompt.write_text('{"type": "prompt", "id": "p1", "text": "q"}\n')
    assert importer(prompt, shared_case(name)).left_out == 0
    assert Response.objects.get(project=project).metadata == metadata


def test_parquet_metadata_of_bytes_costs_its_row(importer: Importer, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.jsonl"
    prompt.write_text('{"type": "prompt", "id": "p1", "text": "q"}\n')
    error = only_error(importer(prompt, shared_case("04c-meta-bytes.parquet")))
    assert (error["file"], error["row"], error["field"]) == ("04c-meta-bytes.parquet", 1, "metadata")
    assert "binary data" in error["message"]


def test_a_date_that_python_does_not_know_harms_nobody_where_it_is_not_used(
    project: Project, importer: Importer
) -> None:
    assert importer(shared_case("04i-trl-ignored-far-date.parquet")).left_out == 0
    assert Response.objects.filter(project=project).count() == 2


@pytest.mark.parametrize("name", ["04n-dup-cols.parquet", "05y-dup-header.csv"])
def test_two_columns_of_one_name_are_refused_by_name(importer: Importer, name: str) -> None:
    with pytest.raises(ImportRefused, match=rf"{name}: two columns are named “rejected” \(columns 3 and 4\)"):
        importer(shared_case(name))


def test_a_caliper_file_after_a_round_through_datasets(project: Project, importer: Importer) -> None:
    report = importer(shared_case("04o-caliper-union.parquet"))
    assert (report.format, report.left_out) == (Import.Format.CALIPER, 0)
    assert texts(project) == {"A", "B"}
    assert Judgement.objects.get(pair__project=project).verdict == "a"


# Tables ------------------------------------------------------------------------------------------------------


def test_a_semicolon_between_cells(project: Project, importer: Importer) -> None:
    report = importer(shared_case("05a-semicolon.csv"))
    assert texts(project) == {"3,50 €", "5 €"}
    assert report.files[0]["read_as"] == "CSV, “;” between cells, UTF-8"


def test_rows_are_numbered_as_the_spreadsheet_does(project: Project, importer: Importer) -> None:
    error = only_error(importer(shared_case("05j-blank-lines-rownum.csv")))
    assert (error["row"], error["field"]) == (5, "rejected")
    assert texts(project) == {"x", "y"}


def test_message_lists_in_cells(project: Project, importer: Importer) -> None:
    assert importer(shared_case("05n-list-repr.csv")).left_out == 0
    assert texts(project) == {"x", "y"}
    assert Prompt.objects.get(project=project).messages == [{"role": "user", "content": "q1"}]


def test_numbers_in_csv_are_numbers(project: Project, importer: Importer) -> None:
    assert importer(shared_case("05u-pandalm.csv")).left_out == 0
    found = Judgement.objects.filter(pair__project=project).values_list("annotator__username", "verdict")
    assert {name.rpartition(":")[2]: verdict for name, verdict in found} == {
        "annotator1": "a",
        "annotator2": "b",
    }


# Names and halves --------------------------------------------------------------------------------------------


def test_a_name_with_a_zero_width_non_joiner(project: Project, importer: Importer) -> None:
    path = shared_case("12f-name0.jsonl")
    assert importer(path).left_out == 0
    name = json.loads(path.read_text().splitlines()[-1])["annotator"]
    assert "\u200c" in name
    assert Judgement.objects.get(pair__project=project).annotator.username == f"capitals:{name}"


def test_half_a_surrogate_pair_is_named(project: Project, importer: Importer) -> None:
    error = only_error(importer(shared_case("12g-surrogate.jsonl")))
    assert (error["row"], error["field"]) == (1, "chosen")
    assert error["message"] == "holds half of a surrogate pair, \\ud83d, at character 7."
    assert error["remedy"]
    assert texts(project) == {"smile \U0001f600", "y"}
