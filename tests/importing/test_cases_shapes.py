"""The small inputs of the shared cases that are about where the prompt is, and other members of each kind."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import shared_case
from webapp.corpus.models import Project, Prompt, Response
from webapp.importing.fields import RowError
from webapp.importing.reading import Problem, Source
from webapp.importing.services import import_files
from webapp.importing.shapes import PARSERS, Tally, recognise, records
from webapp.importing.shapes.tracking import ReadRow

Q = "Name a prime above 10."
USER = {"role": "user", "content": Q}
ONE, TWO = ({"role": "assistant", "content": text} for text in ("11 is one.", "12 is one."))
SYSTEM = {"role": "system", "content": "Be brief."}


def case(name: str) -> tuple[list[Any], Tally]:
    source = Source(shared_case(name), name)
    tally = Tally()
    return [found for _, found in records(source, recognise([source]), lambda at: None, tally)], tally


def pair(found: Any) -> tuple[list[Any], str, str]:
    assert isinstance(found, list), found
    return found[0].messages, found[1].text, found[2].text


def parse(row: dict[str, Any], name: str = "trl") -> list[Any]:
    return PARSERS[name](row)


def refused(row: dict[str, Any], name: str = "trl") -> RowError:
    with pytest.raises(RowError) as caught:
        parse(row, name)
    assert caught.value.remedy
    return caught.value


def turns(*texts: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]


# 01: the prompt stands in two places


def test_01_the_turns_stand_in_both_columns_and_are_stored_once() -> None:
    (found,), _ = case("01-prompt-list-and-full.jsonl")
    assert pair(found) == ([USER], "11 is one.", "12 is one.")


def test_01d_a_prompt_that_contradicts_the_conversations_costs_the_row() -> None:
    (found,), _ = case("01d-prompt-str-differs.jsonl")
    assert isinstance(found, Problem)
    assert (found.row, found.field) == (1, "prompt")
    assert found.remedy


def test_01e_answers_lose_the_prompt_they_begin_with_and_it_is_counted() -> None:
    (found,), tally = case("01e-text-prompt-and-full-text.jsonl")
    assert pair(found) == ([USER], "11 is one.", "12 is one.")
    assert list(tally.notes.values()) == [1]


def test_01f_a_prompt_that_is_a_transcript_has_turns() -> None:
    (found,), tally = case("01f-hh-prompt-transcript.jsonl")
    assert pair(found) == (turns("Hi there", "Hello!", Q), "11 is one.", "12 is one.")
    assert not tally.notes


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": [SYSTEM, USER], "chosen": [SYSTEM, USER, ONE], "rejected": [SYSTEM, USER, TWO]}, [SYSTEM, USER]),
        ({"prompt": [USER], "chosen": [SYSTEM, USER, ONE], "rejected": [SYSTEM, USER, TWO]}, [SYSTEM, USER]),
        ({"prompt": [SYSTEM, USER], "chosen": [USER, ONE], "rejected": [USER, TWO]}, [SYSTEM, USER]),
        ({"system": "Be brief.", "chosen": [USER, ONE], "rejected": [USER, TWO]}, [SYSTEM, USER]),
        ({"system": "Be brief.", "prompt": Q, "chosen": [USER, ONE], "rejected": [USER, TWO]}, [SYSTEM, USER]),
        ({"prompt": Q, "chosen": [USER, ONE], "rejected": [USER, TWO]}, [USER]),
        ({"prompt": Q, "chosen": [ONE], "rejected": [TWO]}, [USER]),
        ({"prompt": Q, "chosen": ONE, "rejected": TWO}, [USER]),
        ({"prompt": [USER], "chosen": "11 is one.", "rejected": "12 is one."}, [USER]),
        ({"prompt": Q, "messages": [USER, ONE], "chosen": [USER, ONE], "rejected": [USER, TWO]}, [USER]),
        ({"messages": [USER, ONE], "chosen": "11 is one.", "rejected": "12 is one."}, [USER]),
        (
            {
                "prompt": Q, "chosen": [*turns("Hi", "Hello"), USER, ONE],
                "rejected": [*turns("Hi", "Hello"), USER, TWO],
            },
            [*turns("Hi", "Hello"), USER],
        ),
        (
            {"prompt": f"\n\nHuman: {Q}\n\nAssistant:", "chosen": [USER, ONE], "rejected": [USER, TWO]},
            [USER],
        ),
        (
            {
                "prompt": Q, "chosen": f"Human: {Q}\n\nAssistant: 11 is one.",
                "rejected": f"Human: {Q}\n\nAssistant: 12 is one.",
            },
            [USER],
        ),
        (
            {
                "prompt": f"\n\nHuman: {Q}\n\nAssistant:", "chosen": f"\n\nHuman: {Q}\n\nAssistant: 11 is one.",
                "rejected": f"\n\nHuman: {Q}\n\nAssistant: 12 is one.",
            },
            [USER],
        ),
        ({"prompt": f"\n\nHuman: {Q}", "chosen": "\n\nAssistant: 11 is one.", "rejected": "\n\nAssistant: 12 is one."},
         [USER]),
    ],
)  # fmt: skip
def test_the_prompt_is_stored_once_wherever_it_stands(row: dict[str, Any], prompt: list[Any]) -> None:
    assert pair(parse(row)) == (prompt, "11 is one.", "12 is one.")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": [turns("Other?")[0]], "chosen": [USER, ONE], "rejected": [USER, TWO]}, "prompt"),
        ({"prompt": "Other?", "messages": [USER], "chosen": "x", "rejected": "y"}, "prompt"),
        ({"prompt": "One?", "question": "Two?", "chosen": "x", "rejected": "y"}, "question"),
        (
            {"system": "A", "system_prompt": "B", "prompt": "q", "chosen": "x", "rejected": "y"},
            "system_prompt",
        ),
        ({"system": "A", "chosen": [SYSTEM, USER, ONE], "rejected": [SYSTEM, USER, TWO]}, "system"),
        ({"system": "A", "chosen": "x", "rejected": "y"}, "prompt"),
        ({"chosen": [USER, ONE], "rejected": [turns("Other?")[0], TWO]}, "prompt"),
        ({"chosen": [ONE], "rejected": [TWO]}, "prompt"),
        (
            {
                "prompt": Q,
                "chosen": "Human: Other?\n\nAssistant: x",
                "rejected": "Human: Other?\n\nAssistant: y",
            },
            "prompt",
        ),
        ({"prompt": [USER], "chosen": [USER, ONE, USER], "rejected": [USER, TWO]}, "chosen"),
        # Too short to tell an echo from an answer.
        ({"prompt": "Hi", "chosen": "Hi there!", "rejected": "Hi you!"}, "prompt"),
        ({"prompt": "2+2?", "chosen": "2+2? 4", "rejected": "2+2? 5"}, "prompt"),
    ],
)
def test_contradictions_cost_the_row(row: dict[str, Any], field: str) -> None:
    assert refused(row).field == field


def test_answers_that_only_begin_like_the_prompt_are_left_alone() -> None:
    row = {"prompt": "High", "chosen": "Highest of all", "rejected": "Highly odd"}
    assert pair(parse(row))[1:] == ("Highest of all", "Highly odd")
    row = {"prompt": "Name a prime above 10.", "chosen": "Name a prime above 10. 11", "rejected": "No."}
    assert pair(parse(row))[1:] == ("Name a prime above 10. 11", "No.")


def test_a_code_answer_that_repeats_its_prompt_keeps_its_indentation() -> None:
    row = {"prompt": "Continue this def f(x):", "chosen": "Continue this def f(x):\n    return 1\n",
           "rejected": "Continue this def f(x):\n    return 2\n"}  # fmt: skip
    assert pair(parse(row))[1:] == ("\n    return 1\n", "\n    return 2\n")


# 02: columns that ask


def test_02a_system_and_question_are_the_prompt() -> None:
    (found,), _ = case("02a-orca-system-question.jsonl")
    assert pair(found) == (
        [
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": "How many legs has a spider?"},
        ],
        "The spider has eight legs.",
        "The spider has six legs.",
    )


@pytest.mark.parametrize("name", ["02b-instruction-input.jsonl", "02d-alpaca-prompt-input.jsonl"])
def test_02bd_instruction_and_input_make_two_prompts(name: str) -> None:
    found, tally = case(name)
    assert [pair(one)[0][0]["content"] for one in found] == [
        "Translate to French.\n\nGood day",
        "Translate to French.\n\nGood night",
    ]
    assert found[0][0].id != found[1][0].id
    assert not tally.unused


@pytest.mark.parametrize(
    "name", ["02e-messages-chosen-rejected-sharegpt.jsonl", "02f-roles-Human-Assistant.jsonl"]
)
def test_02ef_other_names_of_roles_and_keys(name: str) -> None:
    (found,), _ = case(name)
    assert pair(found) == ([{"role": "user", "content": "2+2?"}], "4", "5")


def test_02h_messages_are_the_prompt_of_plain_answers() -> None:
    (found,), _ = case("02h-messages-prompt-and-text.jsonl")
    assert pair(found) == ([{"role": "user", "content": "2+2?"}], "It is 4.", "It is 5.")


@pytest.mark.parametrize(
    ("columns", "prompt"),
    [
        ({"query": "q"}, turns("q")),
        ({"input": "q"}, turns("q")),
        ({"input": [{"role": "USER", "content": "q"}]}, turns("q")),
        ({"question": "q", "context": "A passage."}, turns("A passage.\n\nq")),
        ({"context": [{"role": "user", "content": "q"}]}, turns("q")),
        (
            {"instruction": "now", "input": "", "system": "S", "history": [["a", "b"], ["c", "d"]]},
            [{"role": "system", "content": "S"}, *turns("a", "b", "c", "d", "now")],
        ),
        ({"history": turns("a", "b"), "prompt": "c"}, turns("a", "b", "c")),
        ({"history": None, "system": None, "prompt": "c"}, turns("c")),
        (
            {"conversations": [{"from": "System", "value": "S"}, {"from": "human", "value": "q"}]},
            [{"role": "system", "content": "S"}, *turns("q")],
        ),
        ({"messages": [{"role": "developer", "content": "S"}, {"role": "Human", "content": "q"}]},
         [{"role": "system", "content": "S"}, *turns("q")]),
        ({"prompt": "q", "question": "q"}, turns("q")),
    ],
)  # fmt: skip
def test_columns_that_ask(columns: dict[str, Any], prompt: list[Any]) -> None:
    assert pair(parse(columns | {"chosen": "x", "rejected": "y"})) == (prompt, "x", "y")


@pytest.mark.parametrize("column", ["system", "question", "input", "context", "history", "tools"])
def test_rows_that_differ_in_a_column_that_asks_are_two_prompts(column: str) -> None:
    base: dict[str, Any] = {"instruction": "Do.", "chosen": "x", "rejected": "y"}
    if column == "question":
        del base["instruction"]
    values: list[Any] = ["one", "two"]
    if column == "history":
        values = [[["one", "a"]], [["two", "a"]]]
    if column == "tools":
        values = [[{"name": "one"}], [{"name": "two"}]]
    assert len({parse(base | {column: value})[0].id for value in values}) == 2


@pytest.mark.parametrize(
    ("role", "stored"),
    [
        ("gpt", "assistant"), ("ChatGPT", "assistant"), ("bard", "assistant"), ("ASSISTANT", "assistant"),
        ("function", "tool"), ("observation", "tool"), ("tool", "tool"), ("human", "user"), ("USER", "user"),
    ],
)  # fmt: skip
def test_roles_in_any_case(role: str, stored: str) -> None:
    row = {"prompt": [*turns("q"), {"from": role, "value": "said"}], "chosen": "x", "rejected": "y"}
    assert parse(row)[0].messages[-1] == {"role": stored, "content": "said"}


def test_an_unknown_role_is_named() -> None:
    error = refused({"prompt": [{"role": "narrator", "content": "q"}], "chosen": "x", "rejected": "y"})
    assert error.field == "prompt[1].role"
    assert "narrator" in error.message


def test_other_columns_are_counted_as_unused() -> None:
    row = ReadRow({"prompt": "q", "chosen": "x", "rejected": "y", "source": "web", "score": 1, "empty": None})
    parse(row)
    assert row.unused() == {"source", "score"}


# 06: transcripts, tools, parts


def test_06a_chinese_texts_without_a_prompt_are_refused() -> None:
    (found,), _ = case("06a-zh-implicit.jsonl")
    assert isinstance(found, Problem)
    assert found.field == "prompt"
    assert "by hand" in found.remedy


@pytest.mark.parametrize("name", ["06f-hh-crlf.jsonl", "06g-hh-single-newline.jsonl"])
def test_06fg_transcripts_with_other_line_ends(name: str) -> None:
    (found,), tally = case(name)
    assert pair(found) == ([{"role": "user", "content": "2+2?"}], "4", "5")
    assert list(tally.notes.values()) == [1]


def test_06n_a_code_answer_keeps_its_indentation_and_line_ends() -> None:
    (found,), tally = case("06n-hh-code-answer.jsonl")
    assert pair(found) == (turns("Continue:\ndef f(x):"), "    return x + 1\n", "    return x - 1\n")
    assert not tally.notes


def test_06o_whole_dialogues_that_differ_early() -> None:
    (found,), _ = case("06o-conv-multi-turn-diff.jsonl")
    assert pair(found) == (turns("a"), "x\n\nHuman: b\n\nAssistant: good", "y\n\nHuman: b\n\nAssistant: bad")
    assert found[1].messages == turns("a", "x", "b", "good")[1:]


def test_06t_tool_calls_make_two_prompts() -> None:
    found, _ = case("06t-toolcalls.jsonl")
    assert [one[0].messages[1]["tool_calls"][0]["function"]["arguments"] for one in found] == [
        '{"city":"Oslo"}',
        '{"city":"Rome"}',
    ]
    assert found[0][0].messages[2] == {"role": "tool", "content": "7 C", "name": "weather"}
    assert found[0][0].id != found[1][0].id


def test_06u_null_content_beside_tool_calls_is_kept() -> None:
    (found,), _ = case("06u-toolcall-null-content.jsonl")
    call = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert found[1].messages == [{"role": "assistant", "content": None, "tool_calls": [call]}]
    assert found[1].text == "[call] weather {}"
    assert (found[2].text, found[2].messages) == ("No idea.", None)


def test_06v_parts_that_are_no_text_are_named() -> None:
    (found,), _ = case("06v-content-parts.jsonl")
    assert isinstance(found, Problem)
    assert found.field == "prompt[1].content"
    assert "“image”" in found.message


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "De"}, {"type": "text", "text": "scribe"}]
    row = {"prompt": [{"role": "user", "content": parts}], "chosen": "x", "rejected": "y"}
    assert parse(row)[0].messages == turns("Describe")


def test_arguments_stay_as_they_are_and_tools_are_kept() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": None}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    answer = {"role": "assistant", "content": "Wait.", "tool_calls": [call], "weight": 1, "name": None}
    row = ReadRow(
        {"prompt": "q", "chosen": [answer], "rejected": [turns("", "No.")[1]], "tools": json.dumps([tool])}
    )
    prompt, chosen, *_ = parse(row)
    assert prompt.tools == (tool,)
    assert chosen.messages == [{"role": "assistant", "content": "Wait.", "tool_calls": [call]}]
    assert row.unused() == {"chosen[].weight"}


def test_sharegpt_function_calls_become_tool_calls() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "7"},
        ],
        "chosen": {"from": "gpt", "value": "x"},
        "rejected": {"from": "gpt", "value": "y"},
    }
    messages = parse(row, "sharegpt")[0].messages
    function = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert messages[1] == {"role": "assistant", "content": None, "tool_calls": [function]}
    assert messages[2]["role"] == "tool"


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "refusal", "audio"])
def test_what_a_message_says_elsewhere_is_refused_by_name(key: str) -> None:
    answer = {"role": "assistant", "content": "x", key: "Let me think."}
    error = refused({"prompt": "q", "chosen": [answer], "rejected": [{"role": "assistant", "content": "y"}]})
    assert error.field == f"chosen[1].{key}"


# 05 and 12


def test_05n_message_lists_in_cells() -> None:
    (found,), _ = case("05n-list-repr.csv")
    assert pair(found) == (turns("q1"), "x", "y")


@pytest.mark.parametrize("write", [json.dumps, repr, lambda turns: repr(turns).replace("}, {", "}\n {")])
def test_message_lists_in_cells_as_json_python_and_numpy_write_them(tmp_path: Path, write: Any) -> None:
    import csv

    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["chosen", "rejected"], [write(turns("q", "it's")), write(turns("q", 'a "b"\n'))]]
        )
    source = Source(path, "a.csv")
    ((_, found),) = records(source, recognise([source]))
    assert pair(found) == (turns("q"), "it's", 'a "b"\n')


def test_a_text_in_json_that_looks_like_messages_stays_a_text() -> None:
    text = json.dumps(turns("q", "a"))
    assert pair(parse({"prompt": "Give me a chat.", "chosen": text, "rejected": "No."}))[1] == text


def test_05u_numbers_in_csv_are_numbers() -> None:
    (found,), _ = case("05u-pandalm.csv")
    assert [(vote.annotator, vote.verdict) for vote in found[4:]] == [
        ("annotator1", "a"),
        ("annotator2", "b"),
    ]


def test_12a_equal_scores_are_a_tie() -> None:
    (found,), _ = case("12a-equal-scores.jsonl")
    assert (found[-1].verdict, found[-1].comment) == ("tie", "scores 4 and 4")


def test_12b_lmarena() -> None:
    (found,), tally = case("12b-arena.jsonl")
    assert pair(found) == (turns("q"), "x", "y")
    assert (found[1].author, found[2].author, found[-1].verdict) == ("m1", "m2", "both_bad")
    assert found[-1].created_at.startswith("2023-07-22T04:26:40.1")
    assert tally.unused == Counter(question_id=1, turn=1)


def test_12c_helpsteer() -> None:
    (found,), _ = case("12c-helpsteer.jsonl")
    assert pair(found) == (turns("q"), "x", "y")
    assert (found[-1].verdict, found[-1].strength) == ("a", 2)


# In the database


@pytest.mark.django_db
def test_messages_and_tools_reach_the_database(project: Project, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    asks = [*turns("Weather?"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    base = {"prompt": asks, "chosen": [{"role": "assistant", "content": "7"}], "stray": 1}
    second = {"role": "assistant", "content": "", "tool_calls": [call]}
    rows = [base | {"rejected": [second], "tools": tools}, base | {"rejected": [second]}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(path, "a.jsonl")
    for dry_run in (True, False):
        report = import_files(
            project=project, sources=[source], format_name="auto", dry_run=dry_run, folder=tmp_path / "work"
        )
        assert report.counts["prompts"]["new"] == 2
        assert report.as_json()["unused"] == {"stray": 2}
    assert sorted(len(tools) for tools in Prompt.objects.values_list("tools", flat=True)) == [0, 1]
    assert [prompt.messages for prompt in Prompt.objects.all()] == [asks, asks]
    kept = Response.objects.exclude(messages=None)
    assert [response.messages for response in kept] == [[second], [second]]
    again = import_files(
        project=project, sources=[source], format_name="auto", dry_run=False, folder=tmp_path / "work"
    )
    assert again.new == 0
