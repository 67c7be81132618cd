"""The client at the real API: lists, cards, exports, downloads; and what it does when an answer is none."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from caliper import CaliperError, Client
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt
from webapp.labels.models import Judgement, QualityLabel, Source

from .conftest import URL

ClientFor = Callable[..., Client]
Handler = Callable[[httpx.Request], httpx.Response]


def counting(app: httpx.BaseTransport, seen: list[httpx.Request]) -> httpx.MockTransport:
    """The application, and a list of the requests that reached it."""

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return app.handle_request(request)

    return httpx.MockTransport(handle)


def test_lists_are_read_page_by_page(
    project: Project, researcher: User, client_for: ClientFor, app: httpx.WSGITransport
) -> None:
    messages = [{"role": "user", "content": "Why?"}]
    Prompt.objects.bulk_create(
        Prompt(
            project=project,
            external_id=f"p{n}",
            messages=messages,
            digest=f"{n:064d}",
        )
        for n in range(60)
    )
    seen: list[httpx.Request] = []
    client = client_for(researcher, http=counting(app, seen))
    prompts = client.project(project.slug).prompts.list()
    assert not seen
    first = next(prompts)
    assert first["external_id"] == "p59"
    assert len(seen) == 1
    assert [prompt["external_id"] for prompt in prompts][-1] == "p0"
    assert len(seen) == 2
    assert client.project(project.slug).prompts.get(first["id"]) == first
    [found] = client.project(project.slug).prompts.list(external_id="p7")
    assert found["messages"] == messages
    assert [each["slug"] for each in client.projects.list()] == [project.slug]
    assert client.me()["projects"] == [{"slug": project.slug, "roles": ["researcher"]}]


def test_refusals_name_the_field_and_the_remedy(project: Project, admin: User, client_for: ClientFor) -> None:
    client = client_for(admin)
    with pytest.raises(CaliperError) as refused:
        client.projects.update(project.slug, overlap=-1, colour="red")
    assert refused.value.status == 422
    [error] = [error for error in refused.value.errors if error.field == "colour"]
    assert "no such field" in error.remedy
    assert "colour" in str(refused.value)
    with pytest.raises(CaliperError) as absent:
        client.projects.get("../me")
    assert absent.value.status == 404
    with pytest.raises(CaliperError) as scope:
        client_for(admin, "read").projects.archive(project.slug)
    assert scope.value.status == 403
    assert "write" in str(scope.value)
    with pytest.raises(CaliperError) as nobody:
        Client(URL, "cal_" + "x" * 43, http=client.transport._client._transport).me()
    assert nobody.value.status == 401


def test_a_judgement_from_card_to_row_and_back(
    project: Project, annotator: User, make_prompt: Callable[..., Prompt], client_for: ClientFor
) -> None:
    make_prompt(project, "p1", ["Paris.", "Lyon.", "Nice."])
    project.reason_tags = ["correct"]
    project.save()
    mine = client_for(annotator).project(project.slug)
    [card] = mine.cards.next()["cards"]
    assert card["left"] is not None
    levels = {"left": "good", "right": "bad"}
    with pytest.raises(CaliperError) as incomplete:
        mine.cards.answer(card, "left")
    assert {error.field for error in incomplete.value.errors} == {"levels.left", "levels.right"}
    with pytest.raises(CaliperError) as asked:
        mine.cards.answer(card, "right", levels=levels)
    assert (asked.value.status, asked.value.problem["asks"]) == (409, "contradiction")
    receipt = mine.cards.answer(
        card, "left", strength=2, levels=levels, reasons={"left": ["correct"]}, comment="Clear."
    )
    assert receipt["kept"]
    row = Judgement.objects.get()
    assert (row.annotator, row.source, row.strength, row.comment) == (annotator, Source.API, 2, "Clear.")
    assert (row.verdict, row.reasons) == (row.left, [f"{row.left}:correct"])
    assert row.shown_at is not None
    assert sorted(QualityLabel.objects.values_list("level", flat=True)) == ["bad", "good"]
    assert [judged["id"] for judged in mine.judgements.list()] == [row.pk]
    assert len(list(mine.levels.list())) == 2
    again = mine.cards.get(card["key"])
    assert again["said"] is not None
    assert again["said"]["levels"] == levels
    # Meant all the same: what the refusal said to send.
    with pytest.raises(CaliperError) as asked:
        mine.cards.answer(again, "right", levels=levels)
    mine.cards.answer(
        again,
        "right",
        levels=levels,
        keep=asked.value.problem["keep"],
        revision=asked.value.problem["revision"],
    )
    assert Judgement.objects.get(is_current=True).contradiction_kept
    undone = mine.cards.undo()
    assert undone["card"] is not None
    assert undone["card"]["key"] == card["key"]
    assert not list(mine.judgements.list())


def test_data_goes_in_and_out(
    project: Project,
    admin: User,
    make_prompt: Callable[..., Prompt],
    client_for: ClientFor,
    tmp_path: Path,
) -> None:
    """A pair by hand, an upload, an export; and an export that is cut leaves no file that looks whole."""
    prompt = make_prompt(project, "p1", ["Paris.", "Lyon."])
    there = client_for(admin).project(project.slug)
    pair = there.pairs.create(prompt=prompt.pk, text_a="Berlin.", text_b="Bonn.", author_a="x", author_b="y")
    assert there.pairs.get(pair["id"])["a"]["text"] == "Berlin."
    assert {row["external_id"] for row in there.pairs.list(judged=False)} == {
        pair.external_id for pair in Pair.objects.all()
    }
    file = tmp_path / "data.jsonl"
    file.write_text('{"prompt": "Why?", "chosen": "So.", "rejected": "No."}\n')
    row = there.imports.upload([file], "trl")
    assert (row["state"], row["format"], row["file_name"]) == ("queued", "trl", "data.jsonl")
    assert [each["id"] for each in there.imports.list()] == [row["id"]]
    there.imports.cancel(row["id"])
    there.imports.discard(row["id"])
    assert not list(there.imports.list())
    with pytest.raises(CaliperError, match="can't be read"):
        there.imports.upload([tmp_path / "absent"])
    assert "caliper" in {each["name"] for each in there.exports.formats()}
    labels = there.exports.write("caliper", tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    card = there.exports.card("caliper")
    assert (len(lines), labels) == (card["rows"], card["labels"])
    assert not list(tmp_path.glob("*.part"))

    def cut(request: httpx.Request) -> httpx.Response:
        def chunks() -> Iterator[bytes]:
            yield b"half a row"
            raise httpx.RemoteProtocolError("peer closed connection")

        return httpx.Response(200, content=chunks())

    broken = Client(URL, "t", http=httpx.MockTransport(cut)).project(project.slug)
    with pytest.raises(CaliperError, match="peer closed"):
        broken.exports.write("caliper", tmp_path / "cut.jsonl")
    assert not (tmp_path / "cut.jsonl").exists()


def test_a_download_goes_on_where_it_stopped(
    project: Project,
    researcher: User,
    make_version: Callable[..., Any],
    client_for: ClientFor,
    app: httpx.WSGITransport,
    tmp_path: Path,
) -> None:
    version = make_version(project, 1)
    weights = bytes(range(256)) * 20_000
    folder = version.run.folder / "model"
    (folder / "model.safetensors").write_bytes(weights)
    files = {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    (folder / "reward_config.json").write_text(json.dumps({"files": files}))
    seen: list[httpx.Request] = []
    there = client_for(researcher, http=counting(app, seen)).project(project.slug)
    target = tmp_path / "model"
    target.mkdir()
    (target / "model.safetensors.part").write_bytes(weights[:1_000_000])
    heard: list[tuple[str, int, int]] = []
    there.versions.download(version.pk, target, lambda *said: heard.append(said))
    assert (target / "model.safetensors").read_bytes() == weights
    assert "bytes=1000000-" in [request.headers.get("range") for request in seen]
    assert ("model.safetensors", len(weights), len(weights)) in heard
    asked = len(seen)
    there.versions.download(version.pk, target)
    assert len(seen) == asked + 1  # the list alone: all is there
    # Bytes of another file before the break: the whole is no such file.
    (target / "model.safetensors").unlink()
    (target / "model.safetensors.part").write_bytes(b"x" * 1_000_000)
    with pytest.raises(CaliperError, match="sha256"):
        there.versions.download(version.pk, target)
    assert not list(target.glob("model.safetensors*"))
    listed = [{"name": "../../.bashrc", "size": 1, "sha256": "0" * 64}]
    evil = Client(URL, "t", http=httpx.MockTransport(lambda request: httpx.Response(200, json=listed)))
    with pytest.raises(CaliperError, match="outside"):
        evil.project("p").versions.download(1, target)


class Answers:
    """A server that gives some answers in turn."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.requests = list(answers), list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited for, without waiting."""
    seconds: list[float] = []
    monkeypatch.setattr("caliper.transport.time.sleep", seconds.append)
    return seconds


def test_what_was_not_answered_is_sent_again_once_for_all(waits: list[float], tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n')
    server = Answers(
        httpx.Response(429, headers={"Retry-After": "7"}),
        httpx.ConnectError("refused"),
        httpx.Response(503),
        httpx.Response(200, json={"id": 1}),
    )
    client = Client(URL, "t", http=httpx.MockTransport(server))
    assert client.project("p").imports.upload([file])["id"] == 1
    assert waits[0] == 7
    assert 0.8 <= waits[1] <= 1.2
    assert 1.6 <= waits[2] <= 2.4
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1
    assert all(b'{"a": 1}' in request.content for request in server.requests)
    server.answers = [httpx.Response(200, json={"id": 2})]
    client.project("p").imports.upload([file])
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 2
    # No longer than a minute at a time, and not for ever.
    server.answers = [httpx.Response(429, headers={"Retry-After": "3600"}, json={"title": "Too often"})]
    with pytest.raises(CaliperError, match="Too often"):
        client.me()
    server.answers = [httpx.Response(502, text="<html>")] * 6
    with pytest.raises(CaliperError, match="502"):
        client.me()
    server.answers = [httpx.ReadTimeout("too slow") for _ in range(6)]
    with pytest.raises(CaliperError, match="did not answer") as unanswered:
        client.me()
    assert unanswered.value.status is None


def test_a_token_goes_to_no_other_place(waits: list[float]) -> None:
    server = Answers(httpx.Response(307, headers={"Location": "https://elsewhere.example/"}))
    client = Client(URL, "t", http=httpx.MockTransport(server))
    with pytest.raises(CaliperError, match="elsewhere"):
        client.me()
    assert len(server.requests) == 1
    with pytest.raises(CaliperError, match="not as Caliper does"):
        Client(URL, "t", http=httpx.MockTransport(lambda request: httpx.Response(200, text="<html>"))).me()
    secret = Client("http://any:s3cret@testserver", http=httpx.MockTransport(Answers(httpx.Response(418))))
    with pytest.raises(CaliperError, match="418") as teapot:
        secret.me()
    assert "s3cret" not in str(teapot.value)
    with pytest.raises(CaliperError, match="can't be sent"):
        client.project("p").runs.start("bt", epochs=float("nan"))
    for url, token in (
        ("ftp://x", "t"),
        ("http://", "t"),
        ("http://a:b", "t"),
        ("caliper", "t"),
        (URL, "a\nb"),
        (URL, "ü"),
    ):
        with pytest.raises(CaliperError):
            Client(url, token)
    assert not waits
