"""Whatever is exported and imported again says the same, or the export has counted what it could not say.

Any Unicode texts, any conversations (several turns, tool calls, tools): project -> export in every format and file type
-> import into an empty project. A format takes part as soon as an import format of its reader's name is known.
"""

import importlib
import importlib.util
import itertools
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from webapp.accounts.models import User
from webapp.corpus.conversations import answer_text
from webapp.corpus.models import Pair, Project, Prompt, Response, messages_digest, text_digest
from webapp.importing.fields import is_visible
from webapp.labels.models import Judgement, QualityLabel
from webapp.snapshots.exporting import export_write
from webapp.snapshots.formats import FORMATS
from webapp.snapshots.formats.base import majority_verdict
from webapp.snapshots.services import snapshot_take

_SHAPES = importlib.util.find_spec("webapp.importing.shapes")
PARSERS = importlib.import_module("webapp.importing.shapes").PARSERS if _SHAPES else {"caliper": None}
# Conversations with tools and answers of several messages need readers that know them.
RICH = _SHAPES is not None
# Export format -> import format, and which verdicts have a place in it.
READERS = {
    "caliper": ("caliper", "a b tie both_bad skip"),
    "trl-explicit": ("trl", "a b"),
    "trl-implicit": ("hh-rlhf", "a b"),
    "trl-conversational": ("trl", "a b"),
    "trl-conversational-implicit": ("trl", "a b"),
    "trl-unpaired": ("trl-unpaired", ""),
    "arena": ("arena", "a b tie both_bad"),
    "ultrafeedback": ("ultrafeedback", ""),
    "helpsteer2": ("helpsteer-preference", "a b tie"),
    "helpsteer3": ("helpsteer-preference", "a b tie"),
    "rewardbench": ("rewardbench", "a b"),
}
TRIED = [name for name, (reader, _) in READERS.items() if reader in PARSERS]

# Generation ------------------------------------------------------------------------------------------------------

TRICKY = [
    "NA", "null", "None", "nan", "- item", "=1+1", "+1", "'already", "\n\nleading", "trailing \n", "a\r\nb", "a\rb",
    '"quoted", text', "\u2028line", "\u0085next", "😀👩‍👩‍👧", "\ufeffbom", "1234", "true", "[]", '{"a": 1}',
    "2024-01-01", "2024-01-01T00:00:00Z",
    "x\n\nHuman: y", "Assistant: z", "  lead", "<extra_id_1>User\n", "\\n",
    "a\tb", "#c", "x\r",
]  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(TRICKY),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=20),
).filter(is_visible)
NAMES = st.text("abcdefgh", min_size=1, max_size=8)


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def message(role: str) -> st.SearchStrategy[dict[str, Any]]:
    return TEXTS.map(lambda text: {"role": role, "content": text})


TOOL_TURNS = st.builds(
    lambda name, argument, content, result: [
        {"role": "assistant", "content": content, "tool_calls": [_call(name, json.dumps({"q": argument}))]},
        {"role": "tool", "name": name, "tool_call_id": "c1", "content": result},
    ],
    NAMES, TEXTS, st.none() | TEXTS, TEXTS,
)  # fmt: skip


@st.composite
def prompts(draw: Any) -> list[dict[str, Any]]:
    messages = [draw(message("system"))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        messages += [draw(message("user")), draw(message("assistant"))]
    messages.append(draw(message("user")))
    return messages + (draw(TOOL_TURNS) if RICH and draw(st.booleans()) else [])


@st.composite
def answers(draw: Any) -> list[dict[str, Any]]:
    turns = draw(TOOL_TURNS) if RICH and draw(st.integers(0, 3)) == 0 else []
    turns = [*turns, draw(message("assistant"))]
    if RICH and draw(st.integers(0, 3)) == 0:
        turns += [draw(message("user")), draw(message("assistant"))]
    return turns


@dataclass
class Item:
    """A prompt with its answers, and what two people said of the pairs and answers."""

    prompt: list[dict[str, Any]]
    answers: list[list[dict[str, Any]]]
    tools: list[Any] = field(default_factory=list)
    votes: list[tuple[str, ...]] = field(default_factory=list)
    levels: list[str] = field(default_factory=list)
    comment: str = ""


@st.composite
def items(draw: Any) -> Item:
    given_answers = draw(st.lists(answers(), min_size=2, max_size=3, unique_by=json.dumps))
    pairs = len(given_answers) * (len(given_answers) - 1) // 2
    verdict = st.sampled_from(["a", "b", "a", "tie", "both_bad", "skip"])
    tools = [{"type": "function", "function": {"name": draw(NAMES)}}] if RICH and draw(st.booleans()) else []
    return Item(
        draw(prompts()),
        given_answers,
        tools,
        draw(st.lists(st.lists(verdict, min_size=1, max_size=2).map(tuple), min_size=pairs, max_size=pairs)),
        draw(st.lists(st.sampled_from(["bad", "normal", "good"]), max_size=len(given_answers))),
        draw(TEXTS),
    )


PROJECTS = st.lists(items(), min_size=1, max_size=2, unique_by=lambda item: json.dumps(item.prompt))


# Projects and what they say --------------------------------------------------------------------------------------


@contextmanager
def forgotten() -> Iterator[None]:
    """What is written inside is rolled back."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def build(made: list[Item]) -> Project:
    project = Project.objects.create(slug="source", name="Source")
    people = [User.objects.create(username=name) for name in ("kim", "lee")]
    for number, item in enumerate(made):
        prompt = Prompt.objects.create(
            project=project, external_id=f"p{number}", messages=item.prompt, tools=item.tools,
            digest=messages_digest(item.prompt, item.tools),
        )  # fmt: skip
        responses = []
        for place, turns in enumerate(item.answers):
            text = answer_text(turns)
            plain = len(turns) == 1
            responses.append(
                Response.objects.create(
                    project=project, prompt=prompt, external_id=f"p{number}-{place}", text=text,
                    digest=text_digest(text), messages=None if plain else turns, author=f"model-{place}",
                )
            )  # fmt: skip
        for pair_number, (a, b) in enumerate(itertools.combinations(responses, 2)):
            name = f"{a.external_id}:{b.external_id}"
            pair = Pair.objects.create(project=project, external_id=name, response_a=a, response_b=b)
            for person, verdict in zip(people, item.votes[pair_number], strict=False):
                Judgement.objects.create(
                    pair=pair, annotator=person, verdict=verdict, client_key=f"{name}:{person}", strength=2,
                    comment=item.comment, reasons=["a:clear", "b:wrong"], contradiction_kept=RICH, left="b",
                )  # fmt: skip
        for response, level in zip(responses, item.levels, strict=False):
            QualityLabel.objects.create(
                response=response, annotator=people[0], level=level, client_key=response.external_id
            )
    return project


Answered = tuple[str, str]


def answered(response: Response) -> Answered:
    """A prompt with its tools, and the answer, as one comparable value."""
    prompt = response.prompt
    said = response.messages or [{"role": "assistant", "content": response.text}]
    return json.dumps([prompt.messages, prompt.tools], sort_keys=True), json.dumps(said, sort_keys=True)


def verdicts(project: Project, places: str) -> set[tuple[frozenset[tuple[Answered, str]], str]]:
    """For every pair with a majority: {(answer, its part in the verdict), ...}, without sides."""
    found = set()
    for pair in Pair.objects.of(project).with_texts():
        votes = Judgement.objects.current().filter(pair=pair).values_list("verdict", flat=True)
        verdict = majority_verdict(votes)
        if verdict is None or verdict not in places.split():
            continue
        parts = {"a": ("won", "lost"), "b": ("lost", "won")}.get(verdict, (verdict, verdict))
        sides = zip((answered(pair.response_a), answered(pair.response_b)), parts, strict=True)
        found.add((frozenset(sides), verdict if verdict not in "ab" else ""))
    return found


def of_one_answer(project: Project) -> set[Answered]:
    return {answered(response) for response in Response.objects.of(project).select_related("prompt")}


def taken_back(folder: Path, reader: str) -> Project:
    """The export in an empty project, as far as its rows are taken."""
    other = Project.objects.create(slug="other", name="Other")
    (data,) = [path for path in folder.rglob("*") if path.suffix in (".jsonl", ".csv", ".parquet")]
    try:
        with transaction.atomic():
            call_command("import_data", data, project="other", format=reader, stdout=StringIO())
    except CommandError:
        pass  # no row at all was taken: the comparison tells whether that was counted
    return other


# The property ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("format", "file_type"),
    [(name, kind) for name in TRIED if name in FORMATS for kind in FORMATS[name].file_types],
)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=PROJECTS)
@example(
    made=[
        Item(
            [{"role": "user", "content": "2024-01-01"}],
            [[{"role": "assistant", "content": text}] for text in ("NA", "null")],
            votes=[("a",)],
            levels=["good", "bad"],
            comment="None",
        )
    ]
)
def test_what_goes_out_comes_back_or_is_counted(format: str, file_type: str, made: list[Item]) -> None:
    reader, places = READERS[format]
    with forgotten(), tempfile.TemporaryDirectory() as temporary:
        source = build(made)
        folder = Path(temporary) / "out"
        report = export_write(
            project=source, format=format, file_type=file_type, aggregation="majority", folder=folder
        )
        other = taken_back(folder, reader)
        changed = sum(report["changed"].values())
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert ("written otherwise than stored: nothing" in card) == (not changed)
        if format == "caliper":
            assert snapshot_take(project=other).digest == report["snapshot"]
            assert of_one_answer(other) == of_one_answer(source)
            fields = ("verdict", "reasons", "comment", "strength", "left", "contradiction_kept", "created_at")
            assert sorted(
                map(str, Judgement.objects.filter(pair__project=other).values_list(*fields))
            ) == sorted(map(str, Judgement.objects.filter(pair__project=source).values_list(*fields)))
            return
        if places:
            lost = verdicts(source, places) - verdicts(other, places)
            invented = verdicts(other, places) - verdicts(source, places)
            assert len(lost) <= changed, (lost, report["changed"])
            assert len(invented) <= changed, (invented, report["changed"])
        else:
            invented_answers = of_one_answer(other) - of_one_answer(source)
            # A row of UltraFeedback has up to three answers.
            assert len(invented_answers) <= 3 * changed, (invented_answers, report["changed"])
        if not changed and format == "trl-unpaired":
            labelled = {
                (answered(label.response), label.level)
                for label in QualityLabel.objects.filter(response__project=other).select_related(
                    "response__prompt"
                )
            }
            assert len(labelled) == report["rows"]
        if not changed and format == "ultrafeedback" and report["rows"] == len(made):
            assert of_one_answer(other) == of_one_answer(source)
