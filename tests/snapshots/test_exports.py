"""Exports: columns, rows, what is left out, and that `datasets` loads what was written."""

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project
from webapp.jobs import State
from webapp.labels.models import Judgement
from webapp.snapshots.exporting import ExportRefused, export_retry, export_run, export_write
from webapp.snapshots.formats.base import majority_verdict
from webapp.snapshots.models import Export
from webapp.snapshots.services import snapshot_take
from webapp.snapshots.writing import safe_cell

Export_ = Callable[..., tuple[Path, dict[str, Any]]]

TEXT = "Value('string')"


@pytest.fixture
def export(labelled: Project, tmp_path: Path) -> Export_:
    """export("trl-explicit", "jsonl") writes into a new folder; gives the folder and the report."""

    def make(
        format: str, file_type: str = "jsonl", aggregation: str = "vote", **more: Any
    ) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path / f"{format}-{file_type}-{aggregation}"
        report = export_write(
            project=labelled,
            format=format,
            file_type=file_type,
            aggregation=aggregation,
            folder=folder,
            **more,
        )
        return folder, report

    return make


def lines(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.rglob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


CANONICAL = [
    "judgement_id", "pair_id", "prompt_id", "group", "messages", "tools",
    "response_a_id", "response_a", "messages_a", "author_a", "response_b_id", "response_b", "messages_b", "author_b",
    "verdict", "strength", "reasons", "contradiction_kept", "comment",
    "annotator", "annotator_kind", "left", "policy", "propensity",
    "source", "shown_at", "created_at", "level_a", "level_b", "superseded", "retraction",
]  # fmt: skip


def test_canonical_rows(export: Export_) -> None:
    folder, report = export("judgements")
    rows = lines(folder)
    assert report["rows"] == len(rows) == 8
    assert list(rows[0]) == CANONICAL
    first = rows[0]
    assert (first["prompt_id"], first["group"], first["pair_id"]) == ("p1", "debate", "p1-r1:p1-r2")
    assert first["messages"] == [{"role": "user", "content": "Question p1?"}]
    assert (first["response_a"], first["author_b"], first["verdict"]) == ("=Sum(1)", "model-2", "a")
    assert (first["level_a"], first["level_b"], first["reasons"]) == ("good", "bad", ["clear"])
    assert (first["annotator"], first["annotator_kind"], first["superseded"]) == ("kim", "person", False)
    assert first["created_at"] == "2026-01-02T03:04:05.678901+00:00"
    assert rows[1]["level_a"] is None
    assert {row["contradiction_kept"] for row in rows} == {False}
    assert {row["verdict"] for row in rows} == {"a", "b", "tie", "both_bad", "skip"}
    assert {row["annotator_kind"] for row in rows if row["annotator"] == "max"} == {"imported"}


def test_corrected_judgements_on_demand(export: Export_) -> None:
    rows = lines(export("judgements", superseded=True)[0])
    assert len(rows) == 9
    assert [row["verdict"] for row in rows if row["superseded"]] == ["b"]
    assert len({row["judgement_id"] for row in rows}) == 9


PREFERENCES = {
    "trl-explicit": {
        "prompt": "\n\nHuman: Question p1?\n\nAssistant:",
        "chosen": " =Sum(1)",
        "rejected": " Zwei ☃",
    },
    "trl-implicit": {
        "chosen": "\n\nHuman: Question p1?\n\nAssistant: =Sum(1)",
        "rejected": "\n\nHuman: Question p1?\n\nAssistant: Zwei ☃",
    },
    "trl-conversational": {
        "prompt": [{"role": "user", "content": "Question p1?"}],
        "chosen": [{"role": "assistant", "content": "=Sum(1)"}],
        "rejected": [{"role": "assistant", "content": "Zwei ☃"}],
    },
    "trl-conversational-implicit": {
        "chosen": [{"role": "user", "content": "Question p1?"}, {"role": "assistant", "content": "=Sum(1)"}],
        "rejected": [{"role": "user", "content": "Question p1?"}, {"role": "assistant", "content": "Zwei ☃"}],
    },
}


@pytest.mark.parametrize("format", PREFERENCES)
def test_trl_rows_and_what_has_no_place_among_them(export: Export_, format: str) -> None:
    folder, report = export(format, aggregation="vote")
    rows = lines(folder)
    assert rows[:2] == [PREFERENCES[format]] * 2
    assert len(rows) == 4
    assert report["left_out"] == {"tie": 2, "both_bad": 1, "skip": 1}
    folder, report = export(format, aggregation="majority")
    assert lines(folder) == [PREFERENCES[format]]
    assert report["left_out"] == {"tie": 1, "both_bad": 1, "no majority": 1}
    card = (folder / "README.md").read_text()
    assert "1 × ties" in card
    assert "1 × “both bad”" in card


def test_rejected_is_the_other_side_for_b(export: Export_) -> None:
    rows = lines(export("trl-explicit")[0])
    assert rows[2:] == [
        {"prompt": "\n\nHuman: Question p2?\n\nAssistant:", "chosen": " +1", "rejected": " Other"},
        {"prompt": "\n\nHuman: Question p2?\n\nAssistant:", "chosen": " Other", "rejected": " +1"},
    ]


def test_pairs_of_two_prompts_are_left_out(
    export: Export_, labelled: Project, judge: Callable[..., Judgement]
) -> None:
    a, b = (labelled.responses.get(external_id=name) for name in ("p1-r1", "p2-r1"))
    pair = Pair.objects.create(project=labelled, external_id="across", response_a=a, response_b=b)
    judge(pair, User.objects.get(username="kim"), "a")
    assert export("trl-explicit")[1]["left_out"]["different prompts"] == 1


def test_unpaired_rows(export: Export_) -> None:
    folder, report = export("trl-unpaired", aggregation="vote")
    rows = lines(folder)
    assert list(rows[0]) == ["prompt", "completion", "label"]
    words = sorted((row["completion"], row["label"]) for row in rows)
    # =Sum(1): preferred twice, level good. Zwei: lost twice, both bad, level bad. Three.: both bad.
    # +1: preferred, lost, level good. Other: lost, preferred.
    assert words == sorted(
        [(" =Sum(1)", True)] * 3 + [(" Zwei ☃", False)] * 4 + [(" Three.", False)]
        + [(" +1", True)] * 2 + [(" +1", False), (" Other", True), (" Other", False)]
    )  # fmt: skip
    assert report["left_out"] == {"tie": 2, "skip": 1, "level normal": 1}
    folder, report = export("trl-unpaired", aggregation="majority")
    assert {row["completion"]: row["label"] for row in lines(folder)} == {
        " =Sum(1)": True, " Zwei ☃": False, " Three.": False, " +1": True,
    }  # fmt: skip
    assert report["left_out"]["no majority"] == 1


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        ("aab", "a"),
        ("ab", "no majority"),
        ("att", "tie"),
        ("aabbt", "no majority"),
        ("sss", None),
        ("sb", "b"),
    ],
)
def test_majority(verdicts: str, outcome: str | None) -> None:
    names = {"a": "a", "b": "b", "t": "tie", "s": "skip"}
    assert majority_verdict(names[letter] for letter in verdicts) == outcome


# Files


def test_csv_cells_that_a_spreadsheet_would_run(export: Export_) -> None:
    folder, _ = export("judgements", "csv", safe_for_spreadsheets=True)
    with (folder / "data" / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == CANONICAL
    assert rows[0]["response_a"] == "'=Sum(1)"
    assert rows[0]["comment"] == "'@home"
    assert json.loads(rows[0]["messages"])[0]["content"] == "Question p1?"
    assert (rows[0]["propensity"], rows[0]["superseded"], rows[1]["strength"]) == ("0.25", "false", "")
    for value in ("=1", "+1", "-1", "@x", "\tx", "\rx", "\nx"):
        assert safe_cell(value) == "'" + value
    assert safe_cell(-1) == -1


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "＝", "＋", "－", "＠", "﹢", "\t", "\r", "\n"])
@pytest.mark.parametrize(
    "before", ["", " ", "\ufeff", "\u200b", "\u2060 \u00ad", "\u3000", "\x00", "'", "''"]
)
def test_csv_formulas_behind_what_nobody_sees(sign: str, before: str) -> None:
    text = f"{before}{sign}1+1"
    if before and sign.isspace():
        text += "="  # A blank behind a blank is none by itself.
        text = text.replace("1+1", "")
    assert safe_cell(text) == "'" + text


@given(st.text(alphabet=st.sampled_from("'=＝ \ufeff\t1a"), max_size=6))
def test_a_quote_of_a_csv_cell_can_be_taken_away_again(text: str) -> None:
    """The data card's rule: a quote before what a spreadsheet would run is not part of the text."""
    cell = safe_cell(text)
    behind = cell.removeprefix("'")
    quoted = cell.startswith("'") and safe_cell(behind) != behind
    assert (behind if quoted else cell) == text


def test_harmless_csv_cells_stay_as_they_are() -> None:
    for text in ("", "a=1", " a", "'quoted'", "\ufeffa", "1-2", "5", "’-", "(=1)"):
        assert safe_cell(text) == text


@pytest.mark.parametrize(
    ("format", "file_type", "message"),
    [
        ("trl-conversational", "csv", "no nested columns"),
        ("caliper", "parquet", "is JSONL"),
        ("arena", "csv", "no nested columns"),
        ("parrot", "jsonl", "no format"),
        ("judgements", "xlsx", "no file type"),
    ],
)
def test_refusals(export: Export_, format: str, file_type: str, message: str) -> None:
    with pytest.raises(ExportRefused, match=message):
        export(format, file_type)


def test_a_folder_with_something_in_it_is_not_touched(labelled: Project, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ExportRefused, match="not empty"):
        export_write(
            project=labelled, format="judgements", file_type="jsonl", aggregation="vote", folder=tmp_path
        )
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == ["mine.txt"]


# datasets

MESSAGES = "List({'role': Value('string'), 'content': Value('string')})"
COLUMNS = {
    "trl-explicit": dict.fromkeys(("prompt", "chosen", "rejected"), TEXT),
    "trl-implicit": dict.fromkeys(("chosen", "rejected"), TEXT),
    "trl-conversational": dict.fromkeys(("prompt", "chosen", "rejected"), MESSAGES),
    "trl-conversational-implicit": dict.fromkeys(("chosen", "rejected"), MESSAGES),
    "trl-unpaired": {"prompt": TEXT, "completion": TEXT, "label": "Value('bool')"},
}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: Any) -> Callable[[Path], Any]:
    """datasets.load_dataset, offline and with a cache of its own."""
    import datasets
    from datasets import config

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return lambda folder: datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), split="train")


@pytest.mark.parametrize("file_type", ["parquet", "jsonl"])
@pytest.mark.parametrize("format", COLUMNS)
def test_datasets_loads_trl_formats(export: Export_, load: Any, format: str, file_type: str) -> None:
    folder, report = export(format, file_type)
    data = load(folder)
    assert {name: str(feature) for name, feature in data.features.items()} == COLUMNS[format]
    assert data.num_rows == report["rows"]
    if format in PREFERENCES:
        assert data[0] == PREFERENCES[format]


@pytest.mark.parametrize("file_type", ["parquet", "jsonl", "csv"])
def test_datasets_loads_the_canonical_format(export: Export_, load: Any, file_type: str) -> None:
    data = load(export("judgements", file_type)[0])
    assert data.column_names == CANONICAL
    assert data.num_rows == 8
    if file_type != "csv":
        # Types are fixed: these columns are empty in most rows.
        assert str(data.features["propensity"]) == "Value('float64')"
        assert str(data.features["shown_at"]) == "Value('timestamp[us, tz=UTC]')"
        assert data[0]["messages"] == [{"role": "user", "content": "Question p1?"}]


@pytest.mark.parametrize("file_type", ["parquet", "jsonl", "csv"])
def test_an_export_without_rows(project: Project, tmp_path: Path, file_type: str) -> None:
    folder = tmp_path / "empty"
    report = export_write(
        project=project, format="trl-explicit", file_type=file_type, aggregation="vote", folder=folder
    )
    assert report["rows"] == 0
    assert "not defined" in (folder / "README.md").read_text()


# Round trip


def test_a_caliper_export_comes_back_as_the_same_snapshot(export: Export_, labelled: Project) -> None:
    before = snapshot_take(project=labelled)
    folder, report = export("caliper")
    assert report["snapshot"] == before.digest
    other = Project.objects.create(slug="other", name="Other")
    call_command("import_data", folder / "caliper.jsonl", project="other")
    after = snapshot_take(project=other)
    assert after.digest == before.digest
    assert after.path == before.path
    assert after.pk != before.pk
    skipped = Judgement.objects.get(pair__project=other, verdict="skip")
    assert skipped.annotator.username == "other:max"


def test_a_caliper_export_that_comes_back_home_changes_nothing(export: Export_, labelled: Project) -> None:
    folder, _ = export("caliper")
    before = list(Judgement.objects.values())
    call_command("import_data", folder / "caliper.jsonl", project="capitals")
    assert list(Judgement.objects.values()) == before
    assert set(User.objects.values_list("username", flat=True)) == {"kim", "lee", "capitals:max"}


# The row and the command


def row_of(project: Project, **fields: Any) -> Export:
    return Export.objects.create(project=project, **fields)


def test_export_run(labelled: Project) -> None:
    row = row_of(labelled, format="trl-explicit", aggregation="majority")
    export_run(row)
    row.refresh_from_db()
    assert (row.state, row.report["rows"], row.error) == (State.DONE, 1, "")
    assert row.report["left_out"] == {"tie": 1, "both_bad": 1, "no majority": 1}
    assert row.report["snapshot"] == snapshot_take(project=labelled).digest
    assert [file["name"] for file in row.report["files"]] == ["data/train.parquet", "README.md"]
    with zipfile.ZipFile(row.archive) as archive:
        assert sorted(name.partition("/")[2] for name in archive.namelist()) == [
            "README.md",
            "data/train.parquet",
        ]
    assert not row.progress_path.exists()


def test_a_refused_export_fails_readably_and_can_be_tried_again(labelled: Project) -> None:
    row = row_of(labelled, format="trl-conversational", file_type="csv")
    export_run(row)
    row.refresh_from_db()
    assert row.state == State.FAILED
    assert "no nested columns" in row.error
    assert export_retry(export_row=row)
    assert not export_retry(export_row=row)


def test_a_claimed_export_is_left_alone(labelled: Project) -> None:
    row = row_of(labelled)
    assert Export.objects.get(pk=row.pk).claim()
    export_run(row)
    assert not row.folder.exists()


def test_the_command(labelled: Project, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    call_command("export_data", project="capitals", format="trl-explicit", out=out, file_type="jsonl")
    assert "left out: 1 × “both bad”" in capsys.readouterr().out
    assert len(lines(out)) == 1
    with pytest.raises(CommandError, match="not empty"):
        call_command("export_data", project="capitals", format="trl-explicit", out=out)
    with pytest.raises(CommandError, match="no project"):
        call_command("export_data", project="other", format="trl-explicit", out=tmp_path / "x")
    call_command("export_data", project="capitals", format="caliper", out=tmp_path / "caliper")
    assert (tmp_path / "caliper" / "caliper.jsonl").is_file()
