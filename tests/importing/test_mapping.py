"""Columns named by hand: guesses, reading by a mapping, the page, the command."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus.models import Import, Pair, Project, Prompt, Response
from webapp.importing.fields import RowError
from webapp.importing.mapping import Mapping, Reader
from webapp.importing.reading import Source
from webapp.importing.services import import_run
from webapp.importing.survey import guess, survey
from webapp.jobs import State
from webapp.labels.models import Judgement, QualityLabel

ROWS = [
    {"question": "Why?", "answer_1": " One.", "answer_2": "Two.", "better": "answer_1", "note": "x"},
    {"question": "Why?", "answer_1": "Three.", "answer_2": "Four.", "better": "answer_2", "note": ""},
    {"question": "How?", "answer_1": "=Five", "answer_2": "Six.", "better": "both bad", "note": "y"},
    {"question": "Who?", "answer_1": "Seven.", "answer_2": "Eight.", "better": "", "note": ""},
]


def table(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def guessed(path: Path) -> Mapping:
    return guess(survey([Source(path, path.name)]))


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: Any) -> None:
    monkeypatch.setattr("webapp.jobs.enqueue", lambda task, pk, queue: None)


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        (["question", "answer_1", "answer_2", "better"], ["prompt", "a", "b", "winner"]),
        (["Instruction", "Output A", "Output B", "Preference"], ["prompt", "a", "b", "winner"]),
        (["query", "response_a", "response_b", "label"], ["prompt", "a", "b", "winner"]),
        (["prompt", "answer1", "answer2", "winner"], ["prompt", "a", "b", "winner"]),
        (["prompt", "modelA", "responseA", "modelB", "responseB"], ["prompt", "author_a", "a", "author_b", "b"]),
        (["prompt", "chosen", "rejected", "score_chosen", "score_rejected"],
         ["prompt", "chosen", "rejected", "rating_a", "rating_b"]),
        (["prompt", "response", "rating", "rater"], ["prompt", "response", "rating", "annotator"]),
        (["prompt", "answer_1", "answer_2", "answer_3"], ["prompt", "response", "response", "response"]),
        (["system", "history", "input", "output"], ["system", "history", "prompt", "response"]),
    ],
)  # fmt: skip
def test_names_are_guessed(tmp_path: Path, columns: list[str], roles: list[str]) -> None:
    mapping = guessed(table(tmp_path / "a.csv", [dict.fromkeys(columns, "4")]))
    assert [mapping.roles[column] for column in columns] == roles


@pytest.mark.parametrize(
    ("values", "meanings"),
    [
        (["answer_1", "answer_2"], ["a", "b"]),
        (["A", "B", "tie", "both bad"], ["a", "b", "tie", "both_bad"]),
        (["left", "right", "skip"], ["a", "b", "skip"]),
        (["0", "1", "2"], ["tie", "a", "b"]),
        (["1", "2", "3"], ["a", "b", "tie"]),
        (["-2", "0", "3"], ["a2", "tie", "b3"]),
        (["true", "false"], ["a", "b"]),
        (["model_a", "model_b", "tie (bothbad)"], ["a", "b", "both_bad"]),
    ],
)
def test_values_are_guessed(tmp_path: Path, values: list[str], meanings: list[str]) -> None:
    rows = [{"question": "q", "answer_1": "x", "answer_2": "y", "better": value} for value in values]
    mapping = guessed(table(tmp_path / "a.csv", rows))
    assert [mapping.winner.get(value.lower()) for value in values] == meanings


def votes(records: list[Any]) -> list[tuple[str, int | None]]:
    return [(record.verdict, record.strength) for record in records if hasattr(record, "verdict")]


def test_the_winner_may_be_named_by_author_or_text() -> None:
    mapping = Mapping(
        roles={"q": "prompt", "x": "a", "y": "b", "mx": "author_a", "my": "author_b", "w": "winner"}
    )
    row = {"q": "Q", "x": "one", "y": "two", "mx": "gpt", "my": "llama"}
    read = Reader(mapping)
    assert votes(read(row | {"w": "llama"})) == [("b", None)]
    assert votes(read(row | {"w": "one"})) == [("a", None)]
    assert votes(read(row | {"w": None})) == []
    with pytest.raises(RowError, match="the mapping does not say what that means"):
        read(row | {"w": "claude"})


def test_ratings_become_levels_or_pairs() -> None:
    roles = {"q": "prompt", "x": "a", "y": "b", "sx": "rating_a", "sy": "rating_b"}
    row = {"q": "Q", "x": "one", "y": "two", "sx": "5", "sy": 2}
    levels = Reader(Mapping(roles=roles, ratings="levels", bad_to=2, normal_to=3))(row)
    assert [record.level for record in levels if hasattr(record, "level")] == ["good", "bad"]
    by_difference = Reader(Mapping(roles=roles, ratings="pairs", difference=2))
    assert votes(by_difference(row)) == [("a", None)]
    assert votes(by_difference(row | {"sx": 2})) == [("tie", None)]
    assert votes(by_difference(row | {"sx": 3})) == []
    with pytest.raises(RowError, match="sx: is “high”"):
        by_difference(row | {"sx": "high"})


def test_a_list_of_responses_and_the_best_of_them() -> None:
    mapping = Mapping(
        roles={"q": "prompt", "r": "response", "best": "winner"}, winner={"0": "r1", "1": "r2", "2": "r3"}
    )
    records = Reader(mapping)({"q": "Q", "r": '["one", "two", "three"]', "best": 1})
    texts = {record.id: record.text for record in records if hasattr(record, "text")}
    said = [(texts[r.a], texts[r.b], r.verdict) for r in records if hasattr(r, "verdict")]
    assert said == [("two", "one", "a"), ("two", "three", "a")]


def test_turns_that_stand_in_both_columns_are_kept_once() -> None:
    mapping = Mapping(roles={"q": "prompt", "h": "history", "s": "system", "r": "response"})
    history = [
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Yes?"},
        {"from": "Human", "value": "Q"},
    ]
    prompt = Reader(mapping)({"q": "Q", "h": repr(history), "s": "Be kind.", "r": "A"})[0]
    assert [turn["content"] for turn in prompt.messages] == ["Be kind.", "Hi", "Yes?", "Q"]


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"a": "a", "b": "b"}, "which column is the prompt"),
        ({"q": "prompt"}, "which columns are the responses"),
        ({"q": "prompt", "a": "a"}, "response B as well"),
        ({"q": "prompt", "p": "prompt", "r": "response"}, "already"),
        ({"q": "prompt", "a": "a", "b": "b", "c": "chosen", "d": "rejected"}, "not two of these"),
    ],
)
def test_a_mapping_that_cannot_be(roles: dict[str, str], said: str) -> None:
    assert said in " ".join(Mapping(roles=roles).errors().values())


def uploaded(project: Project, admin: User, path: Path) -> Import:
    row = Import.objects.create(
        project=project, created_by=admin, file_name=path.name, folder=f"imports/{path.stem}", format="auto"
    )
    folder = row.error_file().parent
    folder.mkdir(parents=True)
    (folder / path.name).write_bytes(path.read_bytes())
    import_run(row)
    row.refresh_from_db()
    return row


def test_from_upload_to_import(
    client_of: Callable[[User], Client], admin: User, project: Project, tmp_path: Path
) -> None:
    row = uploaded(project, admin, table(tmp_path / "a.csv"))
    assert (row.state, row.dry_run) == (State.DONE, True)
    client = client_of(admin)
    address = f"/p/capitals/imports/{row.pk}/"
    assert "Name the columns" in client.get(address).content.decode()
    client.post(f"{address}confirm/")
    row.refresh_from_db()
    assert (row.state, row.dry_run) == (State.DONE, True), "what nobody has mapped cannot be imported"

    page = client.get(f"{address}mapping/")
    form = page.context["form"]
    assert "answer_1" in page.content.decode()
    answer = {f"role-{column['place']}": column["role"] for column in form.columns()}
    asked = {f"meaning-{value['place']}": value["meaning"] for value in form.winners()["values"]}
    assert sorted(asked.values()) == ["a", "b", "both_bad"]
    answer["role-4"] = ""
    fewer = answer | {"role-1": ""}
    refused = client.post(f"{address}mapping/", fewer | asked | {"asked": "3", "annotator": "kim"})
    assert refused.status_code == 400
    assert "response A as well" in refused.content.decode()
    done = client.post(f"{address}mapping/", answer | asked | {"asked": "3", "annotator": "kim"})
    assert done.status_code == 302
    row.refresh_from_db()
    assert row.state == State.QUEUED
    import_run(row)
    row.refresh_from_db()
    preview = client.get(address).content.decode()
    assert "=Five" in preview
    assert "<code>note</code> (2 rows)" in preview
    assert row.report["merged_prompts"] == 1
    assert row.report["says"]["votes"] == {"a": 1, "b": 1, "both_bad": 1}
    assert not Prompt.objects.exists()
    client.post(f"{address}confirm/")
    row.refresh_from_db()
    import_run(row)
    assert (Prompt.objects.count(), Pair.objects.count(), Judgement.objects.count()) == (3, 4, 3)
    assert set(Response.objects.values_list("text", flat=True)) >= {" One.", "=Five"}
    assert set(Judgement.objects.values_list("annotator__username", "origin")) == {
        ("kim@capitals", row.pk)
    } or (set(Judgement.objects.values_list("origin", flat=True)) == {row.pk})

    second = uploaded(project, admin, table(tmp_path / "b.csv"))
    again = client.get(f"/p/capitals/imports/{second.pk}/mapping/")
    assert again.context["earlier"] == row
    assert again.context["form"].mapping.annotator == "kim"


def test_another_winner_column_asks_for_its_values(
    client_of: Callable[[User], Client], admin: User, project: Project, tmp_path: Path
) -> None:
    rows = [
        {"q": "Why?", "x": "One", "y": "Two", "w": "ja"},
        {"q": "Why?", "x": "One", "y": "Two", "w": "nein"},
    ]
    row = uploaded(project, admin, table(tmp_path / "a.csv", rows))
    address = f"/p/capitals/imports/{row.pk}/mapping/"
    answer = {"role-0": "prompt", "role-1": "a", "role-2": "b", "role-3": "winner", "annotator": "kim"}
    page = client_of(admin).post(address, answer)
    assert "Check what the values of “w” mean." in page.content.decode()
    page = client_of(admin).post(address, answer | {"asked": "3", "meaning-0": "a"})
    assert "Say what “nein” means." in page.content.decode()
    assert (
        client_of(admin)
        .post(address, answer | {"asked": "3", "meaning-0": "a", "meaning-1": "b"})
        .status_code
        == 302
    )


def test_the_command_maps(project: Project, tmp_path: Path, capsys: Any) -> None:
    path = table(tmp_path / "a.csv")
    with pytest.raises(CommandError, match="--map prompt=question --map a=answer_1"):
        call_command("import_data", str(path), project="capitals")
    call_command(
        "import_data", str(path), project="capitals",
        map=["prompt=question", "a=answer_1", "b=answer_2", "winner=better", "winner.both bad=tie"],
    )  # fmt: skip
    assert "winner.answer_1=a (guessed" in capsys.readouterr().out
    assert sorted(Judgement.objects.values_list("verdict", flat=True)) == ["a", "b", "tie"]
    assert Import.objects.get().mapping["roles"]["question"] == "prompt"
    with pytest.raises(CommandError, match="there is no such column"):
        call_command("import_data", str(path), project="capitals", map=["prompt=ask"])


def test_levels_of_single_responses(project: Project, tmp_path: Path) -> None:
    rows = [{"prompt": "P", "response": f"R{n}", "rating": n, "rater": "kim"} for n in (1, 3, 5)]
    call_command(
        "import_data", str(lines(tmp_path / "a.jsonl", rows)), project="capitals",
        map=["prompt=prompt", "response=response", "rating=rating", "annotator=rater", "bad_to=2", "normal_to=4"],
    )  # fmt: skip
    levels = dict(QualityLabel.objects.values_list("response__text", "level"))
    assert levels == {"R1": "bad", "R3": "normal", "R5": "good"}
    assert Pair.objects.count() == 3, "responses alone make pairs"
