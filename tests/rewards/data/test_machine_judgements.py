"""What machine annotators said may be learnt from, where a project says so, and nothing is ever measured on it."""

from pathlib import Path
from typing import Any

from workers.rewards.config import RunConfig
from workers.rewards.data.judgements import training_data
from workers.rewards.data.snapshot import Snapshot, read_snapshot, write_snapshot
from workers.rewards.data.split import NOTHING, Split, held_out_rows
from workers.rewards.generative.items import scoring_items, training_items

RESPONSES = [
    {"response_id": f"p{number}", "prompt_id": "p", "group": "g", "messages": [], "text": f"answer {number}"}
    for number in range(2)
]


def snapshot(tmp_path: Path) -> Snapshot:
    """A person prefers p0, a machine p1."""
    pair: dict[str, Any] = {"response_a": "p0", "response_b": "p1", "strength": None}
    said = [
        {**pair, "verdict": "a", "annotator": "anna", "machine": False},
        {**pair, "verdict": "b", "annotator": "local: judge-1 (machine)", "machine": True},
    ]
    write_snapshot(tmp_path, RESPONSES, said)
    return read_snapshot(tmp_path)


def test_a_training_learns_from_both_and_weighs_each_annotator(tmp_path: Path) -> None:
    data = training_data(snapshot(tmp_path), NOTHING, RunConfig(method="bt"))
    assert data.annotators == ["anna", "local: judge-1 (machine)"]
    assert data.first.tolist() == [0, 1]


def test_held_out_judgements_are_peoples_alone(tmp_path: Path) -> None:
    measured = held_out_rows(snapshot(tmp_path), Split(frozenset({"g"}), "group"))
    assert [row["annotator"] for row in measured.judgements] == ["anna"]


def test_a_generative_model_learns_from_both_and_is_right_by_people(tmp_path: Path) -> None:
    found = snapshot(tmp_path)
    config = RunConfig(method="grm", samples=1)
    assert [item.target.shares for item in training_items(found, NOTHING, config)[0]] == []  # evenly divided
    [[item]] = scoring_items(found, NOTHING, config)
    assert dict(zip(item.ids, item.target.shares[:2], strict=True)) == {"p0": 1.0, "p1": 0.0}
