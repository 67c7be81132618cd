"""Tool calls, tools and answers of several turns go through a snapshot as they are."""

from typing import Any

import pyarrow.parquet as pq

from webapp.corpus.conversations import answer_text
from webapp.corpus.models import Project, Prompt, Response, messages_digest, text_digest
from webapp.snapshots.services import snapshot_take
from workers.rewards.data.snapshot import read_snapshot

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather in Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": "7 C\n"},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
ANSWER = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "7 C"},
    {"role": "assistant", "content": "7 degrees. "},
]


def ask(project: Project, name: str, tools: list[Any], answer: list[Any] | None) -> Response:
    digest = messages_digest(MESSAGES, tools)
    prompt = Prompt.objects.create(
        project=project, external_id=name, messages=MESSAGES, tools=tools, digest=digest
    )
    text = answer_text(answer) if answer else " 7 degrees."
    return Response.objects.create(
        project=project,
        prompt=prompt,
        external_id=f"{name}-r",
        text=text,
        messages=answer,
        digest=text_digest(text),
    )


def test_what_a_snapshot_holds_is_what_training_reads(project: Project) -> None:
    ask(project, "p1", TOOLS, None)
    ask(project, "p2", [], ANSWER)
    one, two = read_snapshot(snapshot_take(project=project).path).responses
    assert (one["messages"], one["tools"], one["answer"], one["text"]) == (
        MESSAGES,
        TOOLS,
        None,
        " 7 degrees.",
    )
    assert (two["messages"], two["tools"], two["answer"]) == (MESSAGES, [], ANSWER)
    assert two["text"] == '[call] weather {"city":"Oslo"}\n\nTool: 7 C\n\nAssistant: 7 degrees. '


def test_a_project_without_them_keeps_the_tables_it_had(labelled: Project) -> None:
    """And so the digest: test_the_digest_is_known holds it."""
    before = snapshot_take(project=labelled)
    names = pq.read_schema(before.path / "responses.parquet").names
    assert names == ["response_id", "prompt_id", "group", "messages", "text", "author"]
    ask(labelled, "p3", TOOLS, None)
    after = snapshot_take(project=labelled)
    assert pq.read_schema(after.path / "responses.parquet").names == [*names, "tools", "answer"]
    assert after.digest != before.digest


def test_tools_and_answers_count_for_the_digest(project: Project) -> None:
    response = ask(project, "p1", TOOLS, ANSWER)
    digests = {snapshot_take(project=project).digest}
    Prompt.objects.filter(pk=response.prompt_id).update(tools=[{"name": "other"}])
    digests.add(snapshot_take(project=project).digest)
    Response.objects.filter(pk=response.pk).update(messages=ANSWER[:1])
    digests.add(snapshot_take(project=project).digest)
    assert len(digests) == 3
