"""Reports of reward servers: what is taken and what is refused, the hour's cap, duplicates, who is asked first."""

import copy
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from tests.rollouts.story import pair, report, rollout
from webapp.accounts.models import User
from webapp.corpus.access import ProjectArchived
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.labels.counters import drift
from webapp.labels.queue import assignments_for
from webapp.labels.services import judgement_submit
from webapp.rollouts.models import Rollout, RolloutPair, RolloutSettings, RolloutWindow
from webapp.rollouts.reading import MOST_PAIRS, ReportRefused
from webapp.rollouts.reports import overview
from webapp.rollouts.services import RolloutsOff, rollouts_take, settings_for, settings_save
from webapp.snapshots.data_card import rollout_lines
from webapp.training.models import ModelVersion

HOSTILE = "  <script>alert(1)</script>\r\n\t“naïve”\u200b👩‍👩‍👧 \n\n"


def take(version: ModelVersion, pairs: list[Any], **fields: Any) -> dict[str, Any]:
    return rollouts_take(project=version.project, report=report(version, pairs, **fields), reporter=None)


def test_a_report_is_stored_as_it_was_sent(asking: Project, version: ModelVersion, researcher: User) -> None:
    sent = pair(
        "x", why="uncertain", preferred=0.55, a=rollout(HOSTILE, 7.25, p=None, expected=None, spread=None)
    )
    answer = rollouts_take(project=asking, report=report(version, [sent]), reporter=researcher)
    assert answer == {"taken": 1, "duplicates": 0, "over_cap": 0, "left_out": []}
    row = RolloutPair.objects.of(asking).with_names().get()
    assert (row.why, row.propensity, row.preferred) == ("uncertain", 1.0, 0.55)
    assert row.pair.response_a.text == HOSTILE
    assert row.pair.response_b.text == "Second answer to x!"
    assert row.pair.response_a.prompt.messages == sent["messages"]
    assert (row.pair.response_a.author, row.pair.wanted, row.pair.priority) == ("rollout", asking.overlap, 1)
    assert row.pair.response_a.metadata == {"version": version.address, "score": 7.25}
    assert (row.a.response, row.a.score, row.a.p) == (row.pair.response_a, 7.25, None)
    assert row.b.p == sent["b"]["p"]
    window = row.window
    assert (window.seen, window.prompts, window.candidates) == (512, 64, 1792)
    assert (window.reward_mean, window.reward_sd, window.length_mean) == (5.0, 1.2, 420.0)
    assert (window.server, window.version, window.reported_by) == ("gpu-1", version, researcher)


def test_duplicates_are_dropped_in_either_order(
    asking: Project, version: ModelVersion, make_prompt: Callable[..., Prompt]
) -> None:
    # Somebody imported the same prompt with the same two texts.
    make_prompt(asking, "x", texts=["First answer to x.", "Second answer to x!"])
    swapped = pair("y")
    swapped["a"], swapped["b"] = swapped["b"], swapped["a"]
    assert take(version, [pair("x"), pair("y"), swapped]) == {
        "taken": 1,
        "duplicates": 2,
        "over_cap": 0,
        "left_out": [],
    }
    # The next window has it again, with a third text of the same prompt: that pair is new, its text is stored once.
    other = pair("y", b=rollout("A third answer."))
    assert take(version, [pair("y"), other], place=1)["taken"] == 1
    assert Response.objects.filter(text="First answer to y.").count() == 1
    assert Rollout.objects.filter(response__text="First answer to y.").count() == 2
    # A window that comes a second time, as after a lost answer, is not counted again.
    assert take(version, [other], place=1) == {"taken": 0, "duplicates": 1, "over_cap": 0, "left_out": []}
    assert RolloutWindow.objects.count() == 2
    assert Pair.objects.count() == 3


def test_the_cap_of_an_hour(asking: Project, version: ModelVersion) -> None:
    RolloutSettings.objects.update(per_hour=5)
    assert take(version, [pair(n) for n in range(3)]) | {"left_out": None} == {
        "taken": 3,
        "duplicates": 0,
        "over_cap": 0,
        "left_out": None,
    }
    counts = take(version, [pair(0), *(pair(f"n{n}") for n in range(4))], place=1)
    assert (counts["taken"], counts["duplicates"], counts["over_cap"]) == (2, 1, 2)
    # Of four new ones the first two were let in: each had half the chance.
    chances = RolloutPair.objects.order_by("pk").values_list("propensity", flat=True)
    assert list(chances) == [0.1, 0.1, 0.1, 0.05, 0.05]
    RolloutPair.objects.update(created_at=timezone.now() - timedelta(minutes=61))
    assert take(version, [pair("later")], place=2)["taken"] == 1


@pytest.mark.django_db(transaction=True)
def test_the_cap_holds_while_servers_report_at_once(asking: Project, version: ModelVersion) -> None:
    RolloutSettings.objects.update(per_hour=7)
    together, counts = threading.Barrier(4), []

    def work(server: int) -> None:
        try:
            together.wait(timeout=20)
            sent = report(version, [pair(f"{server}-{n % 3}") for n in range(3)], server=f"gpu-{server}")
            counts.append(rollouts_take(project=asking, report=sent, reporter=None))
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(server,)) for server in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sum(each["taken"] for each in counts) == 7 == RolloutPair.objects.count()
    assert sum(each["over_cap"] for each in counts) == 5
    assert RolloutWindow.objects.count() == 4


BROKEN: list[tuple[tuple[str, ...], Any, str]] = [
    ((), [], "report"),
    ((), None, "report"),
    (("server",), "a\x00b", "server"),
    (("server",), "x" * 201, "server"),
    (("version",), "another", "version"),
    (("version",), {}, "version"),
    (("window",), "now", "window"),
    (("window", "from"), "yesterday", "window.from"),
    (("window", "to"), "2020-01-01T00:00:00Z", "window.to"),
    (("window", "to"), 10**5000, "window.to"),
    (("seen",), 0, "seen"),
    (("seen",), True, "seen"),
    (("seen",), 1.5, "seen"),
    (("seen",), 10**400, "seen"),
    (("prompts",), 513, "prompts"),
    (("candidates",), -1, "candidates"),
    (("rewards",), None, "rewards"),
    (("rewards", "mean"), float("nan"), "rewards.mean"),
    (("rewards", "sd"), float("inf"), "rewards.sd"),
    (("rewards", "sd"), -1, "rewards.sd"),
    (("length", "mean"), "4", "length.mean"),
    (("pairs",), {}, "pairs"),
    (("pairs",), [pair(n) for n in range(MOST_PAIRS + 1)], "pairs"),
    (("pairs", "1"), "pair", "pairs[1]"),
    (("pairs", "1", "why"), "because", "pairs[1].why"),
    (("pairs", "1", "why"), ["random"], "pairs[1].why"),
    (("pairs", "1", "propensity"), 0, "pairs[1].propensity"),
    (("pairs", "1", "propensity"), 1.01, "pairs[1].propensity"),
    (("pairs", "1", "preferred"), float("nan"), "pairs[1].preferred"),
    (("pairs", "1", "a"), None, "pairs[1].a"),
    (("pairs", "1", "a", "text"), 4, "pairs[1].a.text"),
    (("pairs", "1", "a", "score"), 1e300, "pairs[1].a.score"),
    (("pairs", "1", "b", "expected"), 0, "pairs[1].b.expected"),
    (("pairs", "1", "b", "p"), [0.5] * 8, "pairs[1].b.p"),
    (("pairs", "1", "b", "p"), [0.5] * 9, "pairs[1].b.p"),
    (("pairs", "1", "b", "text"), "First answer to 1.", "pairs[1].b.text"),
]


def test_a_broken_report_is_refused_by_field_and_nothing_is_stored(version: ModelVersion) -> None:
    whole = report(version, [pair(n) for n in range(3)])
    for path, value, field in BROKEN:
        sent: Any = copy.deepcopy(whole) if path else value
        place = sent
        for name in path[:-1]:
            place = place[int(name)] if name.isdecimal() else place[name]
        if path:
            place[int(path[-1]) if path[-1].isdecimal() else path[-1]] = value
        with pytest.raises(ReportRefused) as refused:
            rollouts_take(project=version.project, report=sent, reporter=None)
        [error] = refused.value.errors
        assert error["field"] == field, (path, error)
        assert all(error.values())
    with pytest.raises(ReportRefused) as refused:
        take(version, [pair(n, why="?") for n in range(MOST_PAIRS)])
    assert len(refused.value.errors) == 20
    assert not RolloutWindow.objects.exists()
    assert not Prompt.objects.exists()


def test_texts_that_nobody_can_judge_are_left_out_by_name(version: ModelVersion, settings: Any) -> None:
    settings.MAX_TEXT_BYTES = 1000
    deep: Any = "x"
    for _ in range(60):
        deep = [deep]
    calls = [{"type": "function", "function": {"name": "f", "arguments": deep}}]
    wrong = {
        "a.text": pair(1, a=rollout("")),
        "b.text": pair(2, b=rollout("\u200b ")),
        "a.text ": pair(3, a=rollout("a\x00b")),
        "b.text ": pair(4, b=rollout("\ud83d")),
        "a.text  ": pair(5, a=rollout("x" * 1001)),
        "messages": pair(6, messages=[]),
        "messages[1].role": pair(7, messages=[{"role": "root", "content": "x"}]),
        "messages[1].tool_calls[1]": pair(
            8, messages=[{"role": "assistant", "content": "x", "tool_calls": calls}]
        ),
        "messages ": pair(9, messages="x" * 2000),
    }
    answer = take(version, [*wrong.values(), pair("whole")])
    assert answer["taken"] == 1
    names = [f"pairs[{place}].{name.strip()}" for place, name in enumerate(wrong)]
    assert [each["field"] for each in answer["left_out"]] == names
    assert RolloutWindow.objects.get().left_out == len(wrong)


def test_a_later_rollout_is_held_against_an_earlier_one(
    asking: Project,
    version: ModelVersion,
    make_version: Callable[..., ModelVersion],
    judge: Callable[..., None],
) -> None:
    def at(place: int, name: str, better: int, of: ModelVersion = version, **fields: Any) -> dict[str, Any]:
        """A window whose first rollout of a prompt is sure of one rating."""
        p = [float(rating == better) for rating in range(1, 10)]
        sent = pair(name, a=rollout(f"At {place}.", better, p=p), b=rollout(f"Or {place}."), **fields)
        return take(of, [sent], place=place)

    at(0, "x", 3)
    assert at(0, "x", 5, server="gpu-2")["duplicates"] == 1
    # Another prompt, another version, a chosen pair: none is held against what was there.
    at(1, "y", 5)
    at(2, "x", 9, of=make_version(asking))
    at(3, "x", 9, why="uncertain")
    assert not RolloutPair.objects.later().exists()
    counts = at(4, "x", 7)
    assert counts["taken"] == 1
    row = RolloutPair.objects.later().with_names().get()
    assert (row.pair.response_a.text, row.pair.response_b.text) == ("At 0.", "At 4.")
    assert (row.a.window.until < row.b.window.until, row.preferred, row.propensity) == (True, 0.0, 1.0)
    assert (row.pair.wanted, row.pair.priority) == (asking.overlap, 1)
    # The next one meets the next earliest; each rollout stands in one such pair.
    at(5, "x", 7)
    at(6, "x", 7)
    at(7, "x", 7)
    befores = RolloutPair.objects.later().order_by("pk").values_list("a__response__text", flat=True)
    assert list(befores) == ["At 0.", "Or 0.", "Or 4.", "Or 5."]
    # They fill what the cap leaves, and no more.
    RolloutSettings.objects.update(per_hour=RolloutPair.objects.count() + 1)
    at(8, "x", 7)
    assert RolloutPair.objects.later().count() == 4
    # The model was sure of the later ones, and people liked the earlier ones: they part.
    for each in RolloutPair.objects.later().select_related("pair"):
        judge(each.pair, ["a", "a"])
    [told] = [each for each in overview(asking).versions if each.version == version]
    assert told.later is not None
    assert told.comparison is None
    assert told.later.people.value == 0
    assert (told.later.people.n, told.later.finished) == (4, 4)
    assert told.later.expected > 0.5


def test_who_is_off_or_archived_takes_nothing(
    project: Project, admin: User, make_version: Callable[..., ModelVersion]
) -> None:
    version = make_version(project)
    with pytest.raises(RolloutsOff, match="does not ask people back"):
        take(version, [pair("x")])
    assert settings_for(project) is None
    settings_save(settings=RolloutSettings(project=project, on=True, sample=9), actor=admin)
    settings_save(settings=RolloutSettings(project=project, on=True, sample=8), actor=admin)
    assert RolloutSettings.objects.get().sample == 8
    assert project.audit_entries.latest("pk").detail == {"sample": {"from": 9, "to": 8}}
    assert take(version, [pair("x")])["taken"] == 1
    Project.objects.update(asks="levels")
    with pytest.raises(RolloutsOff, match="levels"):
        take(version, [pair("y")])
    Project.objects.update(asks="both", archived_at=timezone.now())
    with pytest.raises(ProjectArchived):
        take(version, [pair("y")])
    with pytest.raises(ProjectArchived):
        settings_save(settings=RolloutSettings(project=project, on=False), actor=admin)
    project.refresh_from_db()
    assert settings_for(project) is None
    other = Project.objects.create(slug="other", name="Other")
    RolloutSettings.objects.create(project=other, on=True)
    with pytest.raises(ReportRefused, match="no version of this project"):
        rollouts_take(project=other, report=report(version, []), reporter=None)
    assert RolloutPair.objects.count() == 1


def test_rollouts_are_asked_first_and_say_so(
    asking: Project, version: ModelVersion, annotator: User, make_prompt: Callable[..., Prompt]
) -> None:
    make_prompt(asking, "old", texts=["one", "two", "three"])
    [before] = assignments_for(project=asking, annotator=annotator, count=1)
    assert before.policy == "finish-started"
    take(version, [pair("x"), pair("y")])
    cards = assignments_for(project=asking, annotator=annotator, count=4)
    assert [card.policy for card in cards] == [
        "finish-started",
        "rollouts-first",
        "rollouts-first",
        "finish-started",
    ]
    assert [card.propensity for card in cards[1:]] == [0.5, 1.0, 0.5]
    receipt = judgement_submit(key=cards[1].key, annotator=annotator, verdict="tie", levels={
        cards[1].pair.response_a_id: "good", cards[1].pair.response_b_id: "good",
    })  # fmt: skip
    assert receipt.judgement is not None
    assert (receipt.judgement.policy, receipt.judgement.propensity) == ("rollouts-first", 0.5)
    assert drift(asking) == []
    assert rollout_lines(asking)[0].startswith(
        "- 1 of the project's judgements are of pairs that a reward server"
    )
