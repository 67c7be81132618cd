"""The cases of what is given back: transcripts put together, texts that load as they were, tools that are kept."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from tests.conftest import shared_case
from tests.snapshots.test_round_trip import RICH, TRICKY, Item, build
from webapp.corpus.models import Project, Prompt, Response
from webapp.snapshots.exporting import export_write
from webapp.snapshots.formats import FORMATS
from webapp.snapshots.formats.transcripts import ANSWER

CALLS = [{"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"city": {"type": "string"}}}}]
ASKED = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "name": "weather", "tool_call_id": "c", "content": "7 C"},
]
FIRST = [
    {"role": "assistant", "content": "7 degrees."},
    {"role": "user", "content": "And tomorrow?"},
    {"role": "assistant", "content": "8."},
]
SECOND = [{"role": "assistant", "content": "70 degrees."}]


def says(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def asks(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def export(
    project: Project, folder: Path, format: str, file_type: str = "jsonl", **more: Any
) -> dict[str, Any]:
    given = {"aggregation": "vote", **more}
    return export_write(project=project, format=format, file_type=file_type, folder=folder, **given)


def rows(project: Project, folder: Path, format: str, **more: Any) -> list[dict[str, Any]]:
    export(project, folder, format, **more)
    (path,) = folder.rglob("*.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def from_card(tmp_path: Path, monkeypatch: Any) -> Callable[[Path], Any]:
    """Runs the code of a data card, with the folder put in, offline; gives its `data`."""
    import datasets
    from datasets import config

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()

    def run(folder: Path) -> Any:
        card = (folder / "README.md").read_text(encoding="utf-8")
        (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        scope: dict[str, Any] = {}
        exec(code.replace("path/of/this/folder", str(folder)), scope)
        return scope["data"]

    return run


def test_case_07_prompt_and_answer_are_the_transcript(project: Project, tmp_path: Path) -> None:
    call_command("import_data", shared_case("07-export-multi-turn.jsonl"), project="capitals")
    (explicit,) = rows(project, tmp_path / "explicit", "trl-explicit")
    (implicit,) = rows(project, tmp_path / "implicit", "trl-implicit")
    for side in ("chosen", "rejected"):
        assert explicit["prompt"] + explicit[side] == implicit[side]
    assert explicit["prompt"] == "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How are you?\n\nAssistant:"
    assert (explicit["chosen"], explicit["rejected"]) == (" fine thanks", " - bad\n- day")


@pytest.mark.django_db
@pytest.mark.parametrize("text", TRICKY)
def test_of_any_text_and_any_conversation(text: str, tmp_path: Path) -> None:
    project = build([Item(asks(text), [says(text), says(text + "!")], votes=[("b",)]),
                     Item([*asks(text), *says(text), *asks(text)], [FIRST, says(text)], votes=[("a",)])])  # fmt: skip
    explicit = rows(project, tmp_path / "explicit", "trl-explicit")
    implicit = rows(project, tmp_path / "implicit", "trl-implicit")
    assert len(explicit) == len(implicit) == 2
    for one, other in zip(explicit, implicit, strict=True):
        assert one["prompt"].endswith(ANSWER)
        assert [one["prompt"] + one[side] for side in ("chosen", "rejected")] == [
            other["chosen"], other["rejected"],
        ]  # fmt: skip


SINGLE = [name for name in FORMATS if name not in ("caliper", "predictions")]


def texts_in(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return set().union(*map(texts_in, value.values()))
    return set().union(*map(texts_in, value)) if isinstance(value, list) else set()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("format", "file_type"), [(name, kind) for name in SINGLE for kind in FORMATS[name].file_types]
)
def test_case_13_texts_load_as_the_data_card_says(
    format: str, file_type: str, tmp_path: Path, from_card: Callable[[Path], Any]
) -> None:
    texts = [text for text in TRICKY if "\x00" not in text]
    project = build([
        Item(asks(text), [says(text), says(f"{text}{number}")], votes=[("a", "b")], levels=["good"], comment=text)
        for number, text in enumerate(texts)
    ])  # fmt: skip
    report = export(project, tmp_path / "out", format, file_type)
    data = from_card(tmp_path / "out")
    assert data.num_rows == report["rows"] > 0
    expected = rows(project, tmp_path / "as-jsonl", format)
    flat = {name for name, value in expected[0].items() if isinstance(value, str) and name not in TIMES}
    for name in flat:
        assert data[name][:] == [row[name] for row in expected], name
    if file_type != "csv":
        found = texts_in(data.select_columns(sorted(set(data.column_names) - set(TIMES)))[:])
        assert set(texts) <= found | {text.removeprefix(" ") for text in found} | set().union(
            *(
                {*text.split(": ", 1), *text.split("\n\nAssistant: ", 1)[1:]}
                for text in found
                if "Human: " in text
            )
        )


TIMES = ("created_at", "shown_at")


@pytest.mark.parametrize("file_type", ["parquet", "jsonl", "csv"])
def test_case_13_itself(
    project: Project, tmp_path: Path, from_card: Callable[[Path], Any], file_type: str
) -> None:
    call_command("import_data", shared_case("13-export-load.jsonl"), project="capitals")
    export(project, tmp_path / "out", "judgements", file_type)
    data = from_card(tmp_path / "out")
    stored = dict(Response.objects.of(project).values_list("external_id", "text"))
    assert len(data) == 8
    for row in data:
        assert row["response_a"] == stored[row["response_a_id"]]
        assert row["response_b"] == stored[row["response_b_id"]]
        assert row["comment"] in ("", "NA")
        assert row["policy"] is None
        assert row["strength"] is None


@pytest.mark.django_db
def test_columns_of_nothing_but_dates_stay_texts(tmp_path: Path, from_card: Callable[[Path], Any]) -> None:
    """`datasets` would read them as times: the card declares such columns so that it leaves them alone."""
    project = build(
        [Item(asks("2024-01-01"), [says("2024-02-01"), says("2024-02-02T03:04:05Z")], votes=[("a",)])]
    )
    export(project, tmp_path / "out", "helpsteer2")
    (row,) = from_card(tmp_path / "out")
    assert (row["prompt"], row["response_1"], row["response_2"]) == (
        "2024-01-01", "2024-02-01", "2024-02-02T03:04:05Z",
    )  # fmt: skip
    export(project, tmp_path / "messages", "trl-conversational")
    (row,) = from_card(tmp_path / "messages")
    assert row["chosen"] == says("2024-02-01")


@pytest.mark.django_db
def test_csv_made_safe_for_spreadsheets_says_so_and_comes_back(
    tmp_path: Path, from_card: Callable[[Path], Any]
) -> None:
    project = build([
        Item(asks(f"q{n}"), [says(text), says(text + " ")], votes=[("a",)]) for n, text in enumerate(TRICKY)
    ])  # fmt: skip
    export(project, tmp_path / "plain", "helpsteer2", "csv")
    export(project, tmp_path / "safe", "helpsteer2", "csv", safe_for_spreadsheets=True)
    plain, safe = ((tmp_path / name / "data" / "train.csv").read_text() for name in ("plain", "safe"))
    assert ",=1+1," in plain
    assert ",'=1+1," in safe
    assert "made safe for spreadsheets" in (tmp_path / "safe" / "README.md").read_text()
    assert "made safe" not in (tmp_path / "plain" / "README.md").read_text()
    assert sorted(from_card(tmp_path / "safe")["response_1"][:]) == sorted(TRICKY)


# Tools and answers of several messages ---------------------------------------------------------------------------


@pytest.fixture
def with_tools(db: None) -> Project:
    return build(
        [
            Item(ASKED, [FIRST, SECOND], tools=TOOLS, votes=[("a",)]),
            Item(asks("q"), [says("x"), says("y")], votes=[()]),
        ]
    )


def test_conversational_exports_keep_tools(
    with_tools: Project, tmp_path: Path, from_card: Callable[[Path], Any]
) -> None:
    for file_type in ("jsonl", "parquet"):
        folder = tmp_path / file_type
        report = export(with_tools, folder, "trl-conversational", file_type)
        assert report["changed"] == {}
        (row,) = from_card(folder)
        assert row == {"prompt": ASKED, "chosen": FIRST, "rejected": SECOND, "tools": TOOLS}
    (row,) = rows(with_tools, tmp_path / "implicit", "trl-conversational-implicit")
    assert row == {"chosen": ASKED + FIRST, "rejected": ASKED + SECOND, "tools": TOOLS}


def test_text_formats_write_the_transcript_and_count_it(with_tools: Project, tmp_path: Path) -> None:
    report = export(with_tools, tmp_path / "out", "trl-implicit")
    assert report["changed"] == {"tools as text": 1, "answer as text": 1}
    (row,) = rows(with_tools, tmp_path / "again", "trl-implicit")
    assert row["chosen"] == (
        '\n\nHuman: Weather?\n\nAssistant: [call] weather {"city":"Oslo"}\n\nTool: 7 C'
        "\n\nAssistant: 7 degrees.\n\nHuman: And tomorrow?\n\nAssistant: 8."
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "1 × rows with tools, tool calls or names, written as text" in card


def test_caliper_jsonl_holds_messages_tools_and_what_was_kept(with_tools: Project, tmp_path: Path) -> None:
    written = rows(with_tools, tmp_path / "out", "caliper")
    prompt = next(row for row in written if row["type"] == "prompt")
    first, second = (row for row in written if row.get("prompt") == "p0")
    vote = next(row for row in written if row["type"] == "vote")
    assert (prompt["messages"], prompt["tools"]) == (ASKED, TOOLS)
    assert (first["messages"], first.get("text")) == (FIRST, None)
    assert (second["text"], second.get("messages")) == ("70 degrees.", None)
    assert vote["reasons"] == ["a:clear", "b:wrong"]
    assert vote.get("contradiction_kept", False) is RICH


def test_the_canonical_format_has_reasons_contradictions_messages_and_tools(
    with_tools: Project, tmp_path: Path, from_card: Callable[[Path], Any]
) -> None:
    export(with_tools, tmp_path / "out", "judgements", "parquet")
    (row,) = from_card(tmp_path / "out")
    assert (row["messages"], row["tools"], row["messages_a"], row["messages_b"]) == (
        ASKED,
        TOOLS,
        FIRST,
        None,
    )
    assert (row["reasons"], row["contradiction_kept"]) == (["a:clear", "b:wrong"], RICH)
    assert Prompt.objects.count() == 2


# The formats of others -------------------------------------------------------------------------------------------


@pytest.fixture
def judged(db: None) -> Project:
    """a, tie, both bad; strength 2 each. One prompt of three turns."""
    talk = [*asks("Hi"), *says("Hello"), *asks("A prime?")]
    return build([
        Item(talk, [says("11"), says("12"), says("13")], votes=[("a",), ("tie",), ("both_bad",)],
             levels=["good", "bad"], comment="clear"),
    ])  # fmt: skip


def test_arena(judged: Project, tmp_path: Path) -> None:
    found = rows(judged, tmp_path / "out", "arena")
    assert list(found[0]) == [
        "question_id", "model_a", "model_b", "winner", "conversation_a", "conversation_b", "turn", "language", "tstamp",
    ]  # fmt: skip
    assert [row["winner"] for row in found] == ["model_a", "tie", "tie (bothbad)"]
    assert (found[0]["model_a"], found[0]["turn"]) == ("model-0", 2)
    assert found[0]["conversation_b"][-1] == {"role": "assistant", "content": "12"}


def test_helpsteer(judged: Project, tmp_path: Path) -> None:
    two = rows(judged, tmp_path / "two", "helpsteer2")
    assert two[0] == {
        "prompt": "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nA prime?",
        "response_1": "11", "response_2": "12", "preference_strength": -2,
    }  # fmt: skip
    assert [row["preference_strength"] for row in two] == [-2, 0]
    three = rows(judged, tmp_path / "three", "helpsteer3", aggregation="majority")
    assert list(three[0]) == [
        "domain", "language", "context", "response1", "response2", "overall_preference", "individual_preference",
    ]  # fmt: skip
    assert three[0]["individual_preference"] == [
        {"score": -2, "reasoning": "clear", "feedback1": None, "feedback2": None}
    ]
    assert export(judged, tmp_path / "again", "helpsteer2")["left_out"] == {"both_bad": 1}


def test_rewardbench(judged: Project, tmp_path: Path) -> None:
    (row,) = rows(judged, tmp_path / "out", "rewardbench", aggregation="majority")
    assert row == {
        "prompt": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: A prime?", "chosen": "11", "chosen_model": "model-0",
        "rejected": "12", "rejected_model": "model-1", "subset": "source", "id": "p0-0:p0-1",
    }  # fmt: skip
    report = export(judged, tmp_path / "again", "rewardbench")
    assert report["left_out"] == {"tie": 1, "both_bad": 1}
    assert report["changed"] == {"turns as text": 1}


def test_ultrafeedback(judged: Project, tmp_path: Path) -> None:
    (row,) = rows(judged, tmp_path / "out", "ultrafeedback")
    assert list(row) == ["source", "instruction", "models", "completions"]
    assert row["models"] == ["model-0", "model-1", "model-2"]
    assert [one["overall_score"] for one in row["completions"]] == [8.0, 2.0, None]
    assert row["completions"][0]["annotations"] == {"quality": {"Rating": "8", "Rationale": ""}}
    report = export(judged, tmp_path / "again", "ultrafeedback")
    assert report["left_out"] == {"comparison": 3}
    assert report["changed"] == {"turns as text": 1, "response without level": 1}


def test_every_card_names_columns_losses_and_what_an_import_brings_back(
    judged: Project, tmp_path: Path
) -> None:
    for name in SINGLE:
        export(judged, tmp_path / name, name)
        card = (tmp_path / name / "README.md").read_text()
        assert f"- Imported again: {FORMATS[name].again}" in card
        first = rows(judged, tmp_path / f"{name}-rows", name)[0]
        assert set(first) <= set(FORMATS[name].columns), name
        assert all(f"- `{column}`: " in card for column in first), name
