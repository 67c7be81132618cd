"""The formats of public data sets: several rows, odd rows, ties, and values that are named when they are wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import shared_data
from webapp.importing.fields import RowError
from webapp.importing.reading import ImportRefused, Problem, Source
from webapp.importing.shapes import (
    PARSERS,
    LevelRecord,
    NotRecognised,
    PairRecord,
    ResponseRecord,
    Tally,
    VoteRecord,
    format_of,
    recognise,
    records,
)
from webapp.importing.shapes.tracking import ReadRow


def parse(name: str, row: dict[str, Any]) -> list[Any]:
    assert format_of(row) == name
    return PARSERS[name](row)


def refused(name: str, row: dict[str, Any]) -> RowError:
    with pytest.raises(RowError) as caught:
        PARSERS[name](row)
    assert caught.value.remedy
    return caught.value


def votes(found: list[Any]) -> list[VoteRecord]:
    return [record for record in found if isinstance(record, VoteRecord)]


def texts(found: list[Any]) -> list[str]:
    return [record.text for record in found if isinstance(record, ResponseRecord)]


def talk(*turns: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


# TRL


def test_trl_unpaired() -> None:
    row: dict[str, Any] = {"prompt": "q", "completion": "x", "label": True}
    prompt, response, level = parse("trl-unpaired", row)
    assert (prompt.messages, response.text) == (talk("q"), "x")
    assert level == LevelRecord(response.id, "trl", "good")
    labels: list[Any] = [False, 0, "False", "0"]
    for label in labels:
        assert PARSERS["trl-unpaired"](row | {"label": label})[-1].level == "bad"
    assert PARSERS["trl-unpaired"](row | {"completion": [talk("", "x")[1]]})[1].text == "x"
    assert PARSERS["trl-unpaired"]({"completion": talk("q", "x"), "label": True})[0].messages == talk("q")
    for label in ["yes", None, 2, [True]]:
        assert refused("trl-unpaired", row | {"label": label}).field == "label"
    assert refused("trl-unpaired", {"completion": "x", "label": True}).field == "prompt"


def test_binarized_ultrafeedback() -> None:
    row = {
        "prompt": "q", "prompt_id": "7", "chosen": talk("q", "x"), "rejected": talk("q", "y"),
        "messages": talk("q", "x"), "score_chosen": 8.5, "score_rejected": 8.0,
    }  # fmt: skip
    read = ReadRow(row)
    found = parse("trl", read)
    assert (found[0].messages, texts(found)) == (talk("q"), ["x", "y"])
    assert (found[-1].verdict, found[-1].comment) == ("a", "scores 8.5 and 8")
    assert read.unused() == {"prompt_id"}
    assert parse("trl", row | {"score_rejected": 8.5})[-1].verdict == "tie"
    assert refused("trl", row | {"score_rejected": 9}).field == "score_chosen"
    assert refused("trl", row | {"score_chosen": "high"}).field == "score_chosen"
    assert parse("trl", row | {"score_chosen": float("nan")})[-1].verdict == "a"
    assert parse("trl", row | {"margin": 0.1234567890123})[-1].comment.startswith("margin 0.1234567890123")


# LMArena

BATTLE = {
    "question_id": "1", "model_a": "m1", "model_b": "m2", "winner": "model_a", "judge": "arena_user_9",
    "conversation_a": talk("q", "x", "more", "z"), "conversation_b": talk("q", "y", "more", "w"), "turn": 2,
}  # fmt: skip


def test_arena_battles() -> None:
    found = parse("arena", BATTLE)
    assert found[0].messages == talk("q")
    assert found[1].messages == talk("q", "x", "more", "z")[1:]
    assert (found[1].author, found[2].author) == ("m1", "m2")
    assert (votes(found)[0].annotator, votes(found)[0].verdict) == ("arena_user_9", "a")
    for winner, verdict in (
        ("model_b", "b"),
        ("tie", "tie"),
        ("tie (bothbad)", "both_bad"),
        ("both_bad", "both_bad"),
    ):
        assert votes(parse("arena", BATTLE | {"winner": winner}))[0].verdict == verdict
    same = BATTLE | {"conversation_b": BATTLE["conversation_a"]}
    assert len(set(texts(parse("arena", same)))) == 1
    assert refused("arena", BATTLE | {"winner": "model_c"}).field == "winner"
    assert refused("arena", BATTLE | {"conversation_b": talk("other", "y")}).field == "conversation_b"
    assert refused("arena", BATTLE | {"conversation_b": talk("q")}).field == "conversation_b"
    assert refused("arena", BATTLE | {"tstamp": "soon"}).field == "tstamp"


def test_arena_with_parts_of_text() -> None:
    parts = [{"type": "text", "text": "x", "image": None, "mimeType": None}]
    row = BATTLE | {
        "conversation_a": [talk("q")[0], {"role": "assistant", "content": parts, "num_tokens": 3}],
        "conversation_b": talk("q", "y"),
    }
    assert texts(parse("arena", row)) == ["x", "y"]
    parts[0]["type"] = "image"
    assert "“image”" in refused("arena", row).message


def test_kaggle_table(tmp_path: Path) -> None:
    row = {
        "id": "1", "model_a": "m1", "model_b": "m2", "prompt": '["q", "more"]', "response_a": '["x", "z"]',
        "response_b": '["y", ""]', "winner_model_a": "0", "winner_model_b": "1", "winner_tie": "0",
    }  # fmt: skip
    found = parse("arena-kaggle", row)
    assert found[0].messages == talk("q")
    assert found[2].messages[-1]["content"] == ""
    assert votes(found)[0].verdict == "b"
    assert votes(PARSERS["arena-kaggle"](row | {"winner_model_b": 0, "winner_tie": 1}))[0].verdict == "tie"
    assert refused("arena-kaggle", row | {"winner_tie": 1}).field == "winner_model_a"
    assert refused("arena-kaggle", row | {"response_a": '["x"]'}).field == "response_a"
    assert refused("arena-kaggle", row | {"response_a": '["x", null]'}).field == "response_a[2]"
    assert refused("arena-kaggle", row | {"prompt": "q"}).field == "prompt"


# UltraFeedback


def test_ultrafeedback() -> None:
    def completion(model: str, score: Any, text: str = "") -> dict[str, Any]:
        ratings = {
            "helpfulness": {"Rating": "4", "Rationale": "r"},
            "honesty": {"Rating": "3", "Rationale": "s"},
        }
        return {
            "model": model,
            "response": text or model,
            "overall_score": score,
            "annotations": ratings,
            "critique": "c",
        }

    row = ReadRow(
        {
            "source": "evol", "instruction": "q", "models": ["a", "b", "c", "d"],
            "completions": [completion("a", 8), completion("b", "8"), completion("c", 6.5), completion("d", None)],
        }
    )  # fmt: skip
    found = parse("ultrafeedback", row)
    assert [record.author for record in found if isinstance(record, ResponseRecord)] == ["a", "b", "c", "d"]
    assert [vote.verdict for vote in votes(found)] == ["tie", "a", "a", "a", "a", "a"]
    assert found[1].metadata["annotations"]["honesty"]["Rationale"] == "s"
    assert found[1].metadata["source"] == "evol"
    assert row.unused() == {"completions[].critique"}
    assert len(row.all_notes()) == 1
    bad = {"instruction": "q", "completions": [completion("a", "high")]}
    assert refused("ultrafeedback", bad).field == "completions[1].overall_score"
    assert refused("ultrafeedback", {"instruction": "q", "completions": []}).field == "completions"
    assert refused("ultrafeedback", {"instruction": "q", "completions": ["x"]}).field == "completions[1]"
    alone = PARSERS["ultrafeedback"]({"instruction": "q", "completions": [{"model": "a", "response": "x"}]})
    assert (len(alone), votes(alone)) == (2, [])


# HelpSteer


def test_helpsteer_ratings_become_levels_by_stated_cut_points() -> None:
    row = {
        "prompt": "q",
        "response": "x",
        "helpfulness": 4,
        "correctness": 3,
        "coherence": 4,
        "complexity": 1,
        "verbosity": 2,
    }
    found = parse("helpsteer", row)
    assert found[-1] == LevelRecord(found[1].id, "helpsteer2", "good")
    assert found[1].metadata["complexity"] == 1
    levels = [PARSERS["helpsteer"](row | {"helpfulness": rating})[-1].level for rating in range(5)]
    assert levels == ["bad", "bad", "normal", "good", "good"]
    assert PARSERS["helpsteer"](row | {"response": "y"})[0].id == found[0].id
    assert refused("helpsteer", row | {"helpfulness": 5}).field == "helpfulness"
    assert refused("helpsteer", row | {"helpfulness": None}).field == "helpfulness"
    many = row | {"prompt": "One?\n<extra_id_1>Assistant\nTwo.\n<extra_id_1>User\nThree?"}
    assert PARSERS["helpsteer"](many)[0].messages == talk("One?", "Two.", "Three?")


def test_helpsteer2_preference() -> None:
    row = {
        "prompt": "q",
        "response_1": "x",
        "response_2": "y",
        "preference_strength": -3,
        "preference_statement": "S.",
    }
    vote = parse("helpsteer-preference", row)[-1]
    assert (vote.annotator, vote.verdict, vote.strength, vote.comment) == ("helpsteer2", "a", 3, "S.")
    vote = PARSERS["helpsteer-preference"](row | {"preference_strength": "1"})[-1]
    assert (vote.verdict, vote.strength) == ("b", 1)
    vote = PARSERS["helpsteer-preference"](row | {"preference_strength": 0})[-1]
    assert (vote.verdict, vote.strength) == ("tie", None)
    for wrong in (4, 1.5, "much", None):
        assert (
            refused("helpsteer-preference", row | {"preference_strength": wrong}).field
            == "preference_strength"
        )


def test_helpsteer3_preference_with_several_annotators() -> None:
    row = {
        "domain": "code", "language": "en", "context": talk("q", "a", "more"), "response1": "x", "response2": "y",
        "overall_preference": -2,
        "individual_preference": [
            {"score": -2, "reasoning": "R.", "feedback1": "F1", "feedback2": "F2"}, {"score": 0, "reasoning": ""},
            {"score": 1, "reasoning": "T.", "feedback1": None, "feedback2": None},
        ],
    }  # fmt: skip
    found = parse("helpsteer-preference", row)
    assert found[0].messages == talk("q", "a", "more")
    assert [(v.annotator, v.verdict, v.strength) for v in votes(found)] == [
        ("helpsteer3-1", "a", 2),
        ("helpsteer3-2", "tie", None),
        ("helpsteer3-3", "b", 1),
    ]
    assert votes(found)[0].comment == "R.\n\nA: F1\n\nB: F2"
    assert found[1].metadata == {"overall_preference": -2}
    row["individual_preference"] = [{"score": 7}]
    assert refused("helpsteer-preference", row).field == "individual_preference[1].score"


# RewardBench


def test_rewardbench() -> None:
    row = {
        "prompt": "q",
        "chosen": "x",
        "chosen_model": "m1",
        "rejected": "y",
        "rejected_model": "m2",
        "subset": "s",
        "id": 3,
    }
    found = parse("rewardbench", row)
    assert (found[1].author, found[2].author, found[1].metadata) == ("m1", "m2", {"subset": "s"})
    assert (votes(found)[0].annotator, votes(found)[0].verdict) == ("rewardbench", "a")


def test_rewardbench_2_judges_all_right_answers_against_all_wrong_ones() -> None:
    row = {
        "id": "1",
        "prompt": "q",
        "chosen": ["x", "z"],
        "rejected": ["y", "w", "v"],
        "num_correct": 2,
        "subset": "Ties",
    }
    found = parse("rewardbench", row)
    assert texts(found) == ["x", "z", "y", "w", "v"]
    assert len(votes(found)) == len([r for r in found if isinstance(r, PairRecord)]) == 6
    assert refused("rewardbench", row | {"rejected": ["x"]}).field == "rejected"
    assert refused("rewardbench", row | {"rejected": []}).field == "rejected"
    assert refused("rewardbench", row | {"chosen": ["x", 3]}).field == "chosen[2]"


# PandaLM, Auto-J, QA-Feedback


def test_pandalm_as_texts_and_auto_j() -> None:
    row = {
        "instruction": "i",
        "input": "",
        "response1": "x",
        "response2": "y",
        "annotator1": "0",
        "annotator2": "",
        "annotator3": "2.0",
    }
    assert [vote.verdict for vote in votes(parse("pandalm", row))] == ["tie", "b"]
    assert refused("pandalm", row | {"annotator1": "3"}).field == "annotator1"
    row = {"scenario": "s", "label": "0", "prompt": "q", "response 1": "x", "response 2": "y"}
    assert [parse("auto-j", row | {"label": label})[-1].verdict for label in (0, 1, "2")] == ["a", "b", "tie"]
    assert parse("auto-j", row)[1].metadata == {"scenario": "s"}
    for wrong in (3, None, "x", True):
        assert refused("auto-j", row | {"label": wrong}).field == "label"


def test_qa_feedback() -> None:
    row = {
        "question": "When?", "passages": [["T", "One.", "Two."], ["U", "Three."]], "preference": [0, 1, 2],
        "prediction 1": "x", "prediction 2": "x", "prediction 3": "z",
    }  # fmt: skip
    found = parse("qa-feedback", row)
    assert found[0].messages == talk("T\nOne.\nTwo.\n\nU\nThree.\n\nWhen?")
    assert texts(found) == ["x", "x", "z"]
    assert [vote.verdict for vote in votes(found)] == ["tie", "a", "b"]
    assert refused("qa-feedback", row | {"preference": [0, 1]}).field == "preference"
    assert refused("qa-feedback", row | {"preference": [0, 1, 3]}).field == "preference"


@pytest.mark.parametrize(
    ("parts", "name", "good", "bad"),
    [
        (("autoj", "autoj_pairwise.json"), "auto-j", 1381, 11),
        (("qa_feedback", "dev_feedback.json"), "qa-feedback", 500, 0),
        (("pandalm", "testset-v1.json"), "pandalm", 939, 60),
        (("hh_rlhf", "harmless_test.jsonl.gz"), "hh-rlhf", 2308, 4),
    ],
)
def test_real_files(parts: tuple[str, str], name: str, good: int, bad: int) -> None:
    source = Source(shared_data(*parts), parts[1])
    assert recognise([source]) == name
    tally = Tally()
    found = [value for _, value in records(source, name, lambda at: None, tally)]
    assert sum(isinstance(value, list) for value in found) == good
    reasons = {value.message for value in found if isinstance(value, Problem)}
    assert len(found) == good + bad
    assert reasons <= {
        "is empty.", "has only invisible characters.", "is true instead of text.", "is the same text as response 1.",
    }  # fmt: skip
    assert not tally.notes


# Recognising


def test_what_is_not_recognised_carries_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"frage": f"q{i}", "antwort": "x", "leer": None} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(NotRecognised) as caught:
        recognise([Source(path, "a.jsonl")])
    assert isinstance(caught.value, ImportRefused)
    assert caught.value.columns == {"frage": ["q0", "q1", "q2"], "antwort": ["x"], "leer": []}
    assert caught.value.source.name == "a.jsonl"


def test_every_name_of_a_format_has_a_reader() -> None:
    from webapp.corpus.models import Import

    assert set(PARSERS) == set(Import.Format.values) - {"auto", "mapped"}


ODD = [None, "", 7, 1e999, True, [], {}, [[]], [{}], ["x"], {"a": None}, "\x00", "\ud800", b"x", 10**400]


@pytest.mark.parametrize("name", sorted(PARSERS))
@pytest.mark.parametrize("place", range(len(ODD)))
def test_no_value_is_too_odd_for_a_reader(name: str, place: int) -> None:
    """Each field of a good row replaced in turn: the row is taken or refused by name, nothing else happens."""
    for row in GOOD[name]:
        assert PARSERS[name](row)
        for field in row:
            try:
                found: Any = PARSERS[name](row | {field: ODD[place]})
            except RowError as error:
                found = error.field
            assert found


GOOD: dict[str, list[dict[str, Any]]] = {
    "caliper": [
        {"type": "prompt", "id": "p", "messages": talk("q"), "tools": [{"name": "f"}], "group": "g"},
        {"type": "response", "id": "r", "prompt": "p", "messages": talk("", "x", "more", "z")[1:]},
        {"type": "vote", "a": "x", "b": "y", "annotator": "k", "verdict": "a"},
    ],
    "trl": [
        {"system": "s", "prompt": "q", "history": [["a", "b"]], "chosen": "x", "rejected": "y", "margin": 1},
        {
            "prompt": talk("q"),
            "chosen": talk("q", "x"),
            "rejected": talk("q", "y"),
            "tools": [],
            "score_chosen": 2,
        },
    ],
    "trl-unpaired": [{"prompt": "q", "completion": "x", "label": True}],
    "hh-rlhf": [{"chosen": "Human: q\n\nAssistant: x", "rejected": "Human: q\n\nAssistant: y"}],
    "arena": [BATTLE | {"tstamp": 1690000000.1}],
    "arena-kaggle": [
        {
            "prompt": '["q"]',
            "response_a": '["x"]',
            "response_b": '["y"]',
            "model_a": "m",
            "model_b": "n",
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
        }
    ],
    "ultrafeedback": [
        {
            "source": "s",
            "instruction": "q",
            "models": ["m"],
            "completions": [{"model": "m", "response": "x", "overall_score": 1}],
        }
    ],
    "helpsteer": [{"prompt": "q", "response": "x", "helpfulness": 2, "verbosity": 1}],
    "helpsteer-preference": [
        {"prompt": "q", "response_1": "x", "response_2": "y", "preference_strength": 1},
        {
            "context": talk("q"),
            "response1": "x",
            "response2": "y",
            "overall_preference": 1,
            "individual_preference": [{"score": 1, "reasoning": "r"}],
        },
    ],
    "rewardbench": [
        {"prompt": "q", "chosen": "x", "rejected": "y", "subset": "s", "chosen_model": "m"},
        {"prompt": "q", "chosen": ["x"], "rejected": ["y"]},
    ],
    "pandalm": [
        {
            "instruction": "i",
            "input": "j",
            "response1": "x",
            "response2": "y",
            "annotator1": 1,
            "cmp_key": "a_b",
        }
    ],
    "auto-j": [{"scenario": "s", "label": 1, "prompt": "q", "response 1": "x", "response 2": "y"}],
    "qa-feedback": [
        {"question": "q", "passages": [["p"]], "preference": [1], "prediction 1": "x", "prediction 2": "y"}
    ],
    "sharegpt": [
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "x"},
            "rejected": {"from": "gpt", "value": "y"},
        }
    ],
    "argilla": [
        {
            "fields": {"prompt": "q", "response_1": "x", "response_2": "y"},
            "suggestions": {},
            "responses": {"better": [{"value": "response_1", "user_id": "u"}]},
        }
    ],
    "label-studio": [
        {
            "data": {"prompt": "q", "answer1": "x", "answer2": "y"},
            "annotations": [
                {"completed_by": 1, "result": [{"type": "pairwise", "value": {"selected": "left"}}]}
            ],
        }
    ],
    "potato": [
        {
            "id": "1",
            "user_id": "u",
            "prompt": "q",
            "responses": ["x", "y"],
            "label_annotations": {"better": {"selection": "A"}},
        }
    ],
    "ukp-convarg1": [
        {
            "pair_id": "p",
            "topic": "t",
            "prompt": "q",
            "response_a_id": "a",
            "response_b_id": "b",
            "votes": [{"annotator": "k", "choice": "a"}],
        }
    ],
}
