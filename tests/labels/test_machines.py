"""Machine annotators: enrolled by admins, stored as machines, and counted nowhere as people."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.test import Client
from django.urls import reverse

from webapp.accounts.models import User
from webapp.corpus.access import ProjectArchived
from webapp.corpus.models import AuditEntry, Import, Pair, Project, Prompt
from webapp.corpus.services import project_archive
from webapp.importing.services import import_files
from webapp.importing.sources import Source
from webapp.importing.undoing import UndoRefused, import_undo
from webapp.jobs import State
from webapp.labels.checking import counters_check
from webapp.labels.counters import standing
from webapp.labels.machine_models import MachineAnnotator, MachineAnswer, MachineJob
from webapp.labels.machine_reports import machine_report
from webapp.labels.machines import (
    MachineRefused,
    Said,
    answer_store,
    machine_ask,
    machine_enrol,
    machine_resume,
    machine_withdraw,
    open_pairs,
    pairs_choose,
)
from webapp.labels.models import Judgement
from webapp.labels.names import annotator_names
from webapp.labels.queue import assignments_for
from webapp.labels.services import judgement_submit
from webapp.labels.summaries import coverage, label_totals, labels_per_day, queue_state, vote_counts
from webapp.ratings.leaderboard import board_of
from webapp.ratings.summaries import agreement_of
from webapp.ratings.tallies import catch_up
from webapp.snapshots.exporting import export_write
from webapp.snapshots.services import snapshot_take
from webapp.training.services import label_counts

pytestmark = pytest.mark.django_db

ENROLL = {"endpoint": "endpoint:local"}


@pytest.fixture(autouse=True)
def offered(settings: Any, tmp_path: Path) -> Callable[[str], None]:
    """offered("model") puts another model behind the endpoint “local”."""

    def offer(model: str) -> None:
        settings.ENDPOINTS_FILE = tmp_path / "endpoints.toml"
        settings.ENDPOINTS_FILE.write_text(f'[local]\nurl = "http://127.0.0.1:9/v1"\nmodel = "{model}"\n')

    offer("judge-1")
    return offer


@pytest.fixture
def machine(project: Project, admin: User) -> MachineAnnotator:
    return machine_enrol(project=project, endpoint="endpoint:local", actor=admin)


@pytest.fixture
def job(machine: MachineAnnotator) -> MachineJob:
    return MachineJob.objects.create(project=machine.project, machine=machine, which="any")


@pytest.fixture
def pair(project: Project, make_prompt: Callable[..., Prompt]) -> Pair:
    project.asks = Project.Asks.PAIRS
    project.save()
    make_prompt(project, "p", ["one", "two"])
    return Pair.objects.get()


def says(job: MachineJob, pair: Pair, ab: Any, ba: Any) -> MachineAnswer | None:
    both = [Said(f"\\boxed{{{scores}}}", scores, "" if scores else "no box") for scores in (ab, ba)]
    return answer_store(
        job=job, pair_id=pair.pk, ab=both[0], ba=both[1], policy="machine-any", propensity=0.5
    )


class TestEnrolment:
    def test_an_account_that_cannot_sign_in_and_is_named_as_a_machine(
        self, project: Project, machine: MachineAnnotator
    ) -> None:
        user = machine.user
        assert (user.kind, user.is_active, user.has_usable_password()) == ("machine", False, False)
        assert user.display_name == str(machine) == "local: judge-1 (machine)"
        assert user.username == "~capitals:local: judge-1 (machine)"
        assert not User.objects.people().filter(pk=user.pk).exists()
        assert not project.members().filter(pk=user.pk).exists()
        entry = AuditEntry.objects.get(action="machine-enrolled")
        assert entry.detail == {"endpoint": "endpoint:local", "model": "judge-1"}

    def test_refusals_say_why(
        self, project: Project, admin: User, machine: MachineAnnotator, offered: Callable[[str], None]
    ) -> None:
        with pytest.raises(MachineRefused, match="enrolled already"):
            machine_enrol(project=project, endpoint="endpoint:local", actor=admin)
        with pytest.raises(MachineRefused, match="no endpoint:other here"):
            machine_enrol(project=project, endpoint="endpoint:other", actor=admin)
        offered("judge-2")
        with pytest.raises(MachineRefused, match="now serves judge-2, and judge-1 was enrolled"):
            machine_ask(job=MachineJob(machine=machine), actor=admin)
        assert machine_enrol(project=project, endpoint="endpoint:local", actor=admin).user != machine.user
        project_archive(project=project)
        with pytest.raises(ProjectArchived):
            machine_enrol(project=project, endpoint="endpoint:local", actor=admin)

    def test_withdrawn_it_is_asked_no_more_and_keeps_its_name(
        self, project: Project, admin: User, machine: MachineAnnotator, job: MachineJob, pair: Pair
    ) -> None:
        says(job, pair, (7, 3), (7, 3))
        assert machine_withdraw(machine=machine, actor=admin)
        assert not machine_withdraw(machine=machine, actor=admin)
        job.refresh_from_db()
        assert job.state == State.CANCELLED
        machine.refresh_from_db()
        with pytest.raises(MachineRefused, match="withdrawn"):
            machine_resume(job=job, actor=admin, cost_limit=None, token_limit=None)
        again = machine_enrol(project=project, endpoint="endpoint:local", actor=admin)
        assert (again.pk, again.answers.count()) == (machine.pk, 1)

    def test_no_import_speaks_in_its_name(
        self, project: Project, machine: MachineAnnotator, pair: Pair, tmp_path: Path
    ) -> None:
        file = tmp_path / "votes.jsonl"
        names = (machine.user.username, "local: judge-1 (machine)")
        votes = [
            {"type": "vote", "pair": pair.external_id, "annotator": name, "verdict": "a"} for name in names
        ]
        file.write_text("".join(json.dumps(vote) + "\n" for vote in votes))
        source = Source(file, file.name)
        import_files(
            project=project, sources=[source], format_name="caliper", dry_run=False, folder=tmp_path / "work"
        )
        assert Judgement.objects.count() == 2
        assert set(Judgement.objects.values_list("annotator__kind", flat=True)) == {"imported"}


class TestAnswers:
    @pytest.mark.parametrize(
        ("ab", "ba", "outcome", "verdict"),
        [
            ((8, 4), (7, 5), "agreed", "a"),
            ((4, 8), (5, 6), "agreed", "b"),
            ((6, 6), (7, 7), "agreed", "tie"),
            ((2, 2), (3, 3), "agreed", "both_bad"),
            ((8, 4), (4, 8), "order", None),
            ((8, 4), (6, 6), "order", None),
            ((2, 2), (6, 6), "order", None),
            ((8, 4), None, "unread", None),
            (None, None, "unread", None),
        ],
    )
    def test_only_what_both_orders_say_is_a_verdict(
        self, job: MachineJob, pair: Pair, ab: Any, ba: Any, outcome: str, verdict: str | None
    ) -> None:
        answer = says(job, pair, ab, ba)
        assert answer is not None
        assert answer.outcome == outcome
        stored = list(Judgement.objects.values_list("verdict", "source", "policy", "propensity"))
        assert stored == ([(verdict, "machine", "machine-any", 0.5)] if verdict else [])
        assert says(job, pair, ab, ba) is None  # once a pair

    @pytest.mark.parametrize(
        ("ba", "why"),
        [((8, 2), r"1 judgement .* judge-1 \(machine\)"), ((2, 8), "1 answer of machine annotators")],
    )
    def test_what_it_judged_is_not_undone_with_an_import(
        self, project: Project, job: MachineJob, pair: Pair, ba: Any, why: str
    ) -> None:
        came = Import.objects.create(
            project=project, file_name="a.jsonl", folder="imports/x", state=State.DONE, dry_run=False
        )
        Pair.objects.update(origin=came)
        says(job, pair, (8, 2), ba)
        with pytest.raises(UndoRefused, match=why):
            import_undo(import_row=came)

    def test_pairs_are_drawn_with_a_known_chance_and_not_twice(
        self, project: Project, job: MachineJob, annotator: User, make_prompt: Callable[..., Prompt]
    ) -> None:
        make_prompt(project, "q", ["1", "2", "3", "4"])
        job.pairs = 3
        chosen = pairs_choose(job)
        assert (len(set(chosen.pairs)), chosen.propensity, chosen.policy) == (3, 0.5, "machine-any")
        assert pairs_choose(job) == chosen
        says(job, Pair.objects.get(pk=chosen.pairs[0]), (7, 3), (7, 3))
        assert open_pairs(job.machine, "any").count() == 5
        assert open_pairs(job.machine, "judged").count() == 0


def judged(project: Project, who: User, verdict: str) -> None:
    [card] = assignments_for(project=project, annotator=who, count=1)
    judgement_submit(key=card.key, annotator=who, verdict=verdict)


class TestNeverAsPeople:
    @pytest.fixture
    def said(
        self, project: Project, pair: Pair, job: MachineJob, annotator: User, make_user: Callable[..., User]
    ) -> Callable[[], dict[str, Any]]:
        """Two people disagree; said() is everything that is counted from labels."""
        judged(project, annotator, "a")
        judged(project, make_user("bob", project, "annotator"), "b")
        third = make_user("cora", project, "annotator")

        def counted() -> dict[str, Any]:
            catch_up(project)
            pair.refresh_from_db()
            return {
                "votes": vote_counts([pair.pk]),
                "agreement": agreement_of(project),
                "totals": label_totals(project),
                "days": labels_per_day(project),
                "coverage": coverage(project),
                "queue": queue_state(project),
                "places": (pair.judged, pair.reserved),
                "open": standing(project=project, annotator=third),
                "tally": list(
                    pair.tally.__class__.objects.values("total", "share", "disagreement", "weaker")
                ),
                "board": board_of(project, None),
                "training": label_counts(project),
                "snapshot": snapshot_take(project=project).digest,
                "counters": counters_check(project),
            }

        return counted

    def test_nothing_that_is_counted_moves(
        self, said: Callable[[], dict[str, Any]], job: MachineJob, pair: Pair
    ) -> None:
        before = said()
        says(job, pair, (8, 2), (8, 2))
        assert Judgement.objects.filter(source="machine").count() == 1
        assert said() == before

    def test_exports_tell_what_it_is_and_majorities_are_peoples(
        self, project: Project, said: Any, job: MachineJob, pair: Pair, tmp_path: Path
    ) -> None:
        says(job, pair, (8, 2), (8, 2))

        def rows(format: str, **choice: Any) -> list[dict[str, Any]]:
            folder = tmp_path / f"{format}-{len(choice)}"
            export_write(
                project=project,
                format=format,
                file_type="parquet",
                aggregation="majority",
                folder=folder,
                **choice,
            )
            return pq.read_table(folder / "data/train.parquet").to_pylist()

        for choice in ({}, {"superseded": True}):
            kinds = sorted((row["annotator_kind"], row["annotator"]) for row in rows("judgements", **choice))
            assert kinds == [("machine", "local: judge-1 (machine)"), ("person", "anna"), ("person", "bob")]
        assert (
            rows("trl-explicit") == []
        )  # one to one among people: no majority, though the machine made it two to one

    def test_a_training_learns_from_it_where_the_project_says_so(
        self, project: Project, said: Any, job: MachineJob, pair: Pair
    ) -> None:
        without = said()
        says(job, pair, (8, 2), (8, 2))
        project.machine_labels = True
        project.save()
        snapshot = snapshot_take(project=project)
        rows = pq.read_table(snapshot.path / "judgements.parquet").to_pylist()
        assert sorted((row["annotator"], row["verdict"], row["machine"]) for row in rows) == [
            ("anna", "a", False), ("bob", "b", False), ("local: judge-1 (machine)", "a", True),
        ]  # fmt: skip
        assert snapshot.counts["annotators"] == 2
        assert said() == {**without, "snapshot": snapshot.digest}

    def test_nor_is_it_handed_cards_or_counted_among_names(
        self, project: Project, said: Any, job: MachineJob, pair: Pair, admin: User, client_of: Any
    ) -> None:
        says(job, pair, (8, 2), (8, 2))
        assert annotator_names(project)[job.machine.user_id] == ("local: judge-1 (machine)", "machine")
        page = client_of(admin).get(reverse("corpus:people", args=[project.slug])).content.decode()
        assert "Machine annotators" in page
        assert "judge-1" not in page
        text = client_of(admin).get(reverse("ratings:pair", args=[project.slug, pair.pk])).content.decode()
        assert "local: judge-1 (machine)" in text
        assert "2 judgements" in text
        assert "3 judgements" not in text
        listed = client_of(admin).get(
            reverse("labels:annotator", args=[project.slug, job.machine.user_id]), follow=True
        )
        assert listed.redirect_chain[-1][0] == reverse("labels:machine", args=[project.slug, job.machine.pk])


def test_the_report(
    project: Project, job: MachineJob, make_user: Callable[..., User], make_prompt: Callable[..., Prompt]
) -> None:
    make_prompt(project, "q", ["1", "2", "3", "4"])
    people = [make_user(name, project, "annotator") for name in ("x", "y", "z")]
    pairs = list(Pair.objects.order_by("pk"))
    for number, pair in enumerate(pairs[:4]):
        for who, verdict in zip(people, "aab", strict=True):
            Judgement.objects.create(
                pair=pair, annotator=who, verdict=verdict, client_key=f"{number}{who.username}"
            )
    says(job, pairs[0], (8, 2), (8, 2))  # with most people
    says(job, pairs[1], (2, 8), (2, 8))  # against them
    says(job, pairs[2], (8, 2), (2, 8))  # the first shown, twice
    says(job, pairs[3], None, (8, 2))
    says(job, pairs[4], (5, 5), (5, 5))  # nobody else's
    report = machine_report(job.machine)
    assert (report.asked, report.unread, report.together) == (5, 1, 2)
    assert dict(report.verdicts) == {"A is better": 1, "B is better": 1, "tie": 1, "both bad": 0}
    assert (report.order_decided.count, report.order_decided.n) == (1, 4)
    # Of the readable pairs' six orders with a winner: one of two, one of two, two of two.
    assert (report.first.count, report.first.n) == (4, 6)
    assert (report.agreement.count, report.agreement.n) == (1, 2)
    assert "there are 0 so far" in report.tests[0].reason
    assert report.error is not None
    assert 0.1 < report.error < 0.3


class TestPages:
    def test_by_role(
        self, project: Project, machine: MachineAnnotator, job: MachineJob, pair: Pair, client_of: Any,
        admin: User, researcher: User, annotator: User, stranger: User,
    ) -> None:  # fmt: skip
        says(job, pair, (8, 2), (2, 8))
        pages = [
            reverse("labels:machines", args=[project.slug]),
            reverse("labels:machine", args=[project.slug, machine.pk]),
        ]
        posts = [
            (pages[0], ENROLL),
            (reverse("labels:machine-ask", args=[project.slug, machine.pk]), {"which": "any", "pairs": 1}),
            (reverse("labels:machine-cancel", args=[project.slug, machine.pk, job.pk]), {}),
            (reverse("labels:machine-resume", args=[project.slug, machine.pk, job.pk]), {}),
            (reverse("labels:machine-withdraw", args=[project.slug, machine.pk]), {}),
        ]
        for user, status in ((admin, 200), (researcher, 200), (annotator, 403), (stranger, 404)):
            assert [client_of(user).get(page).status_code for page in pages] == [status] * 2
        for user, status in ((researcher, 403), (annotator, 403), (stranger, 404)):
            assert [client_of(user).post(url, data).status_code for url, data in posts] == [status] * 5
        for url in pages + [url for url, _ in posts[1:]]:
            assert Client().get(url).status_code == 302

    def test_an_admin_enrols_asks_cancels_resumes_and_withdraws(
        self, project: Project, pair: Pair, admin: User, client_of: Any
    ) -> None:
        client = client_of(admin)
        listed = reverse("labels:machines", args=[project.slug])
        shown = client.post(listed, ENROLL, follow=True)
        machine = MachineAnnotator.objects.get()
        url = reverse("labels:machine", args=[project.slug, machine.pk])
        assert shown.redirect_chain[-1][0] == url
        assert "It has answered nothing yet" in shown.content.decode()
        assert "A pair takes about 1,300 tokens." in shown.content.decode()
        assert client.post(listed, ENROLL).status_code == 422
        assert client.post(listed, {"endpoint": "http://169.254.169.254/"}).status_code == 422

        ask = reverse("labels:machine-ask", args=[project.slug, machine.pk])
        refused = client.post(ask, {"which": "judged", "pairs": 5})
        assert "every pair that people have judged" in refused.content.decode()
        priced = client.post(ask, {"which": "any", "pairs": 5, "cost_limit": "1"})
        assert "gave no prices of this endpoint" in priced.content.decode()
        assert client.post(ask, {"which": "any", "pairs": 5, "token_limit": "5000"}).status_code == 302
        job = MachineJob.objects.get()
        assert (job.state, job.pairs, job.token_limit, job.project) == (State.QUEUED, 5, 5000, project)
        assert client.post(ask, {"which": "any", "pairs": 5}).status_code == 422  # one round at a time
        shown = client.get(url, HTTP_HX_REQUEST="true")
        assert "Cancel" in shown.content.decode()
        [token] = re.findall(r"token=(\w+)", shown.content.decode())
        assert client.get(url, {"token": token}, HTTP_HX_REQUEST="true").status_code == 204
        assert (
            client.post(reverse("labels:machine-cancel", args=[project.slug, machine.pk, job.pk])).status_code
            == 302
        )
        limits = {f"job-{job.pk}-token_limit": "9000"}
        client.post(reverse("labels:machine-resume", args=[project.slug, machine.pk, job.pk]), limits)
        job.refresh_from_db()
        assert (job.state, job.token_limit) == (State.QUEUED, 9000)
        client.post(reverse("labels:machine-withdraw", args=[project.slug, machine.pk]))
        machine.refresh_from_db()
        job.refresh_from_db()
        assert machine.withdrawn_at is not None
        assert job.state == State.CANCELLED
        acts = AuditEntry.objects.order_by("pk").values_list("action", flat=True)
        assert list(acts) == ["machine-enrolled", "machine-asked", "machine-asked", "machine-withdrawn"]
        assert json.dumps(list(AuditEntry.objects.values_list("detail", flat=True))).count("judge-1") == 4

    def test_its_words_are_shown_as_any_response(
        self,
        project: Project,
        machine: MachineAnnotator,
        job: MachineJob,
        pair: Pair,
        admin: User,
        client_of: Any,
    ) -> None:
        hostile = Said('<script>alert(1)</script> <img src=x onerror="x">', (8, 2))
        answer_store(job=job, pair_id=pair.pk, ab=hostile, ba=hostile, policy="machine-any", propensity=1.0)
        for url in (
            reverse("labels:machine", args=[project.slug, machine.pk]),
            reverse("ratings:pair", args=[project.slug, pair.pk]),
        ):
            text = client_of(admin).get(url).content.decode()
            assert "alert(1)" in text
            assert "<script>alert" not in text
            assert "<img src=x" not in text
