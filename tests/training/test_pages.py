"""The training pages, for everybody who may come by."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.training.conftest import metrics_of
from tests.workers import fake_train
from webapp import heartbeat
from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.jobs import State
from webapp.training.models import ModelVersion, TrainingRun

Make = Callable[..., Any]
ClientOf = Callable[[User], Client]
HTMX = {"HX-Request": "true"}


@pytest.fixture
def run(labelled: Project, make_run: Make) -> TrainingRun:
    return make_run(labelled)


@pytest.fixture
def admin_client(admin: User, client_of: ClientOf) -> Client:
    return client_of(admin)


def listening(monkeypatch: pytest.MonkeyPatch, workers: list[str]) -> None:
    monkeypatch.setattr(heartbeat, "readers", lambda client, queues: dict.fromkeys(queues, workers))


def url(name: str, *args: Any) -> str:
    return reverse(f"training:{name}", args=["capitals", *args])


# --- Who may do what ---


@pytest.mark.parametrize("name", ["runs", "run", "run-progress", "run-log"])
def test_researchers_and_admins_read(
    name: str,
    run: TrainingRun,
    annotator: User,
    admin: User,
    researcher: User,
    stranger: User,
    client_of: ClientOf,
) -> None:
    run.folder.mkdir(parents=True)
    (run.folder / "log.txt").write_text("loading\n")
    path = url(name) if name == "runs" else url(name, run.pk)
    assert client_of(admin).get(path, headers=HTMX).status_code == 200
    assert client_of(researcher).get(path, headers=HTMX).status_code == 200
    assert client_of(annotator).get(path, headers=HTMX).status_code == 403
    assert client_of(stranger).get(path, headers=HTMX).status_code == 404
    assert Client().get(path).status_code == 302
    assert client_of(admin).post(path).status_code == 405


@pytest.mark.parametrize("name", ["run-start", "run-cancel", "run-resume", "version-promote"])
@pytest.mark.usefixtures("sent")
def test_only_admins_act(
    name: str,
    labelled: Project,
    make_version: Make,
    annotator: User,
    admin: User,
    researcher: User,
    stranger: User,
    client_of: ClientOf,
) -> None:
    version = make_version(labelled, 1)
    pk = {"run-start": (), "version-promote": (version.pk,)}.get(name, (version.run.pk,))
    path = url(name, *pk)
    data = {"method": "bt"}
    for person, status in ((annotator, 403), (researcher, 403), (stranger, 404)):
        assert client_of(person).post(path, data).status_code == status
    assert Client().post(path, data).status_code == 302
    assert TrainingRun.objects.count() == 1
    assert not ModelVersion.objects.get().is_serving
    assert client_of(admin).get(path).status_code == 405
    assert client_of(admin).post(path, data).status_code == 302


def test_buttons_are_for_admins(run: TrainingRun, admin: User, researcher: User, client_of: ClientOf) -> None:
    for path in (url("runs"), url("run", run.pk)):
        assert b"<button" in client_of(admin).get(path).content.split(b"<main")[1]
        assert b"<button" not in client_of(researcher).get(path).content.split(b"<main")[1]


def test_runs_of_another_project_are_not_there(
    labelled: Project, make_run: Make, make_version: Make, admin_client: Client
) -> None:
    other = Project.objects.create(slug="other", name="Other")
    run = make_run(other)
    version = make_version(other, 1)
    for name, pk in (("run", run.pk), ("run-progress", run.pk), ("run-log", run.pk)):
        assert admin_client.get(url(name, pk), headers=HTMX).status_code == 404
    for name, pk in (("run-cancel", run.pk), ("run-resume", run.pk), ("version-promote", version.pk)):
        assert admin_client.post(url(name, pk)).status_code == 404


# --- The list ---


def test_an_empty_list_says_what_to_do(project: Project, admin_client: Client) -> None:
    page = admin_client.get(url("runs")).content.decode()
    assert "No model has been trained yet." in page
    assert "There are 0 judgements and levels, fewer than" in page


def test_the_list_shows_accuracy_beside_the_length_baseline(
    labelled: Project, make_version: Make, admin_client: Client
) -> None:
    make_version(labelled, 1, accuracy=0.8125, is_serving=True)
    page = admin_client.get(url("runs")).content.decode()
    assert "81.2 %" in page
    assert "76.2 % to 86.2 %" in page
    assert "serving" in page


@pytest.mark.parametrize("count", [2, 50])
def test_the_list_takes_the_same_queries_for_many_runs(
    count: int, labelled: Project, make_version: Make, admin_client: Client, django_assert_num_queries: Any
) -> None:
    for number in range(1, count + 1):
        make_version(labelled, number)
    with django_assert_num_queries(14):
        admin_client.get(url("runs"))


def test_the_list_is_polled_while_something_is_active(
    labelled: Project, run: TrainingRun, admin_client: Client
) -> None:
    page = admin_client.get(url("runs")).content.decode()
    link = re.search(r'hx-get="([^"]+)"', page)
    assert link is not None
    assert admin_client.get(link[1], headers=HTMX).status_code == 204
    run.request_cancel()
    fragment = admin_client.get(link[1], headers=HTMX).content.decode()
    assert "cancelled" in fragment
    assert "hx-get" not in fragment
    assert "<html" not in fragment


# --- Starting ---


@pytest.mark.usefixtures("sent")
def test_the_form_starts_a_run(labelled: Project, admin: User, admin_client: Client) -> None:
    response = admin_client.post(
        url("run-start"), {"method": "bt", "epochs": "2", "seed": "7", "learning_rate": ""}
    )
    run = TrainingRun.objects.get()
    assert response.headers["Location"] == url("run", run.pk)
    assert (run.method, run.trigger, run.created_by) == ("bt", "button", admin)
    assert (run.config["epochs"], run.config["seed"]) == (2, 7)
    assert not {"learning_rate", "crossfit"} & set(run.config)
    again = admin_client.get(f"{url('runs')}?from={run.pk}").context["form"]
    assert again["crossfit"].value() is False


@pytest.mark.usefixtures("sent")
def test_more_options_reach_the_config(labelled: Project, admin_client: Client) -> None:
    data = {"method": "haf", "base_model": "starter", "haf_head": "ordinal"}
    data |= {"reliability": "off", "hardening": "0.2", "patience": "3", "votes": "majority", "region": ""}
    data["crossfit"] = "on"
    assert admin_client.post(url("run-start"), data).status_code == 302
    config = TrainingRun.objects.get().config
    assert (config["haf_head"], config["reliability"]) == ("ordinal", False)
    assert (config["hardening"], config["patience"], config["votes"]) == (0.2, 3, "majority")
    assert config["crossfit"] == 5
    assert "region" not in config


@pytest.mark.usefixtures("sent")
def test_further_settings_reach_the_config_and_the_runs_page(labelled: Project, admin_client: Client) -> None:
    data = {"method": "bt", "further": "warmup = 0.05\r\n\r\ndropout = null\r\n"}
    assert admin_client.post(url("run-start"), data).status_code == 302
    run = TrainingRun.objects.get()
    assert (run.config["warmup"], run.config["dropout"]) == (0.05, None)
    page = admin_client.get(url("run", run.pk)).content.decode()
    assert "<dt>warmup</dt><dd>0.05</dd>" in page
    assert "<dt>dropout</dt><dd>null</dd>" in page


@pytest.mark.usefixtures("sent")
def test_the_form_begins_with_the_projects_options(labelled: Project, admin_client: Client) -> None:
    labelled.training_options = {"reliability": True, "votes": "majority", "hardening": 0.2, "patience": 3}
    labelled.save()
    form = admin_client.get(url("runs")).context["form"]
    shown = {name: form[name].value() for name in labelled.training_options}
    assert shown == {"reliability": "on", "votes": "majority", "hardening": 0.2, "patience": 3}
    # What somebody empties is not the project's any more.
    admin_client.post(url("run-start"), {"method": "bt", **shown, "hardening": "", "reliability": ""})
    config = TrainingRun.objects.get().config
    assert (config["votes"], config["patience"]) == ("majority", 3)
    assert not {"hardening", "reliability"} & set(config)


@pytest.mark.usefixtures("sent")
def test_a_preset_is_one_choice_and_the_runs_page_names_it(
    labelled: Project, judge: Callable[..., None], admin_client: Client
) -> None:
    judge(labelled, 0, levels=4)
    labelled.training_options = {"preset": "paper"}
    labelled.save()
    form = admin_client.get(url("runs")).context["form"]
    assert form["preset"].value() == "paper"
    told = {"rgft": "paper: flood, no level terms", "bt": None}
    for method, words in told.items():  # the project's own stands in the form of every method
        assert admin_client.post(url("run-start"), {"method": method, "preset": "paper"}).status_code == 302
        run = TrainingRun.objects.get(method=method)
        page = admin_client.get(url("run", run.pk)).content.decode()
        assert ("<dt>Preset</dt>" in page) == (words is not None)
        assert words is None or words in page
    again = admin_client.get(url("runs"), {"from": TrainingRun.objects.get(method="rgft").pk}).context["form"]
    assert (again["preset"].value(), again["region"].value()) == ("paper", "")
    data = {"method": "rgft", "preset": "", "region": "rectangle"}
    assert admin_client.post(url("run-start"), data).status_code == 302
    page = admin_client.get(url("run", TrainingRun.objects.first().pk)).content.decode()
    assert "own settings: rectangle, all level terms" in page


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"method": "bt", "preset": "paper"}, "preset is an option of Region Flooding Tuning (RgFT) alone"),
        ({"method": "bt", "hardening": "2"}, "less than or equal to 1"),
        ({"method": "bt", "region": "flood"}, "region is an option of Region Flooding Tuning (RgFT) alone"),
        ({"method": "haf", "haf_head": "magic"}, "Select a valid choice."),
        ({"method": "rgft"}, "RgFT learns from quality levels"),
        ({"method": "haf", "base_model": "all-MiniLM-L6-v2"}, "HaF-RM needs a causal language model"),
        ({"method": "bt", "further": "warmpu = 0.1"}, "Did you mean warmup?"),
        ({"method": "bt", "further": "warmup = 2"}, "warmup is 2; it must lie between 0 and 1."),
        ({"method": "bt", "further": "beta = 0.2"}, "beta is an option of Hybrid (HaF-RM) alone"),
        ({"method": "bt", "epochs": "0"}, "greater than or equal to 1"),
        ({"method": "bt", "seed": "many"}, "Enter a whole number."),
        ({"method": "magic"}, "Select a valid choice."),
        ({}, "This field is required."),
    ],
)
def test_the_form_says_what_is_wrong(
    labelled: Project, admin_client: Client, data: dict[str, str], text: str
) -> None:
    response = admin_client.post(url("run-start"), data)
    assert response.status_code == 400
    assert text in response.content.decode()
    assert TrainingRun.objects.count() == 0
    if len(data) > 1:
        assert "<details open>" in response.content.decode(), "the wrong field is in sight"


# --- One run ---


def progress_link(client: Client, run: TrainingRun) -> str:
    found = re.search(r'hx-get="([^"]+progress[^"]+)"', client.get(url("run", run.pk)).content.decode())
    assert found is not None
    return found[1]


def words(response: Any) -> str:
    return " ".join(response.content.decode().split())


def write_progress(run: TrainingRun, losses: list[float]) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    started = run.started_at or timezone.now()
    with (run.folder / "progress.jsonl").open("w") as file:
        for step, loss in enumerate(losses, start=1):
            moment = (started + timedelta(seconds=step)).isoformat()
            record = {"time": moment, "phase": "training", "step": step, "total": 100, "loss": loss}
            file.write(json.dumps({**record, "tokens_per_second": 900.0, "message": None}) + "\n")
        file.write("half a li")


def test_a_running_run_shows_its_progress(run: TrainingRun, admin_client: Client) -> None:
    assert run.claim()
    run.beat(phase="training", step=40, total=100, loss=0.5, tokens_per_second=1234.0)
    write_progress(run, [0.9, 0.8, 0.7])
    (run.folder / "log.txt").write_text("loading <all>\n")
    page = words(admin_client.get(url("run", run.pk)))
    # Loading is worth 2 of 100, training 76: one percentage over all phases.
    assert '<progress value="32" max="100" aria-label="All phases">32 %</progress>' in page
    assert "step 40 of 100" in page
    assert "1,234 tokens/s" in page
    assert "<polyline" in page
    assert "Training loss: 0.900 at step 1, 0.700 at step 3" in page
    assert "1 min 37 s" in page, "97 steps are left at one a second"
    assert "loading &lt;all&gt;" in page
    assert "Cancel" in page
    assert "style=" not in page


def test_the_page_leads_to_the_tracker_that_the_run_reports_to(
    labelled: Project, make_run: Callable[..., TrainingRun], admin_client: Client
) -> None:
    run = make_run(
        labelled, overrides={"report_to": "wandb"}, tracking_url="https://wandb.ai/a/caliper/runs/1"
    )
    page = admin_client.get(reverse("training:run", args=[labelled.slug, run.pk])).content.decode()
    assert (
        '<a href="https://wandb.ai/a/caliper/runs/1" rel="noopener noreferrer" target="_blank">wandb</a>'
        in page
    )
    TrainingRun.objects.update(tracking_url="javascript:alert(1)")
    page = admin_client.get(reverse("training:run", args=[labelled.slug, run.pk])).content.decode()
    assert "javascript:alert" not in page
    TrainingRun.objects.filter(pk=run.pk).update(config=run.config | {"report_to": "tensorboard"})
    page = admin_client.get(reverse("training:run", args=[labelled.slug, run.pk])).content.decode()
    assert f"tensorboard --logdir runs/{run.pk}/tracking" in page


def test_a_running_run_shows_what_early_stopping_sees(run: TrainingRun, admin_client: Client) -> None:
    assert run.claim()
    run.beat(phase="training", step=3, total=100)
    write_progress(run, [0.9, 0.8, 0.7])
    with (run.folder / "progress.jsonl").open("a") as file:
        moment = timezone.now().isoformat()
        for step, nll in ((2, 0.66), (3, 0.61)):
            record = {"time": moment, "phase": "training", "step": step, "total": 100, "loss": None}
            file.write("\n" + json.dumps(record | {"validation": {"nll": nll, "accuracy": 0.6}}))
    page = admin_client.get(url("run", run.pk)).content.decode()
    assert "Log loss on groups kept aside: 0.660 at step 2, lowest 0.610 at step 3." in page
    assert page.count('class="validation"') == 2


def test_the_fragment_comes_only_when_something_changed(run: TrainingRun, admin_client: Client) -> None:
    assert run.claim()
    link = progress_link(admin_client, run)
    unchanged = admin_client.get(link, headers=HTMX)
    assert (unchanged.status_code, unchanged.content) == (204, b"")
    run.beat(phase="training", step=1, total=10)
    changed = admin_client.get(link, headers=HTMX).content.decode()
    assert "step 1 of 10" in changed
    assert "<html" not in changed
    assert link not in changed
    assert "hx-trigger" in changed
    run.beat()
    assert admin_client.get(progress_link(admin_client, run), headers=HTMX).status_code == 204


@pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.CANCELLED, State.LOST])
def test_the_last_fragment_has_no_trigger(run: TrainingRun, admin_client: Client, state: str) -> None:
    assert run.claim()
    link = progress_link(admin_client, run)
    TrainingRun.objects.filter(pk=run.pk).update(
        state=state, finished_at=timezone.now(), error="It broke.\nIn two"
    )
    fragment = admin_client.get(link, headers=HTMX).content.decode()
    assert "hx-get" not in fragment
    assert "It broke." in fragment
    assert ("Resume" in fragment) is (state != State.DONE)


def test_the_fragment_as_a_plain_link_leads_to_the_page(run: TrainingRun, admin_client: Client) -> None:
    assert admin_client.get(url("run-progress", run.pk)).headers["Location"] == url("run", run.pk)


def test_a_run_that_waits_says_for_what(
    run: TrainingRun, admin_client: Client, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    assert "Waiting" not in admin_client.get(url("run", run.pk)).content.decode()
    TrainingRun.objects.update(queued_at=timezone.now() - timedelta(minutes=1))
    listening(monkeypatch, [])
    for path in (url("run", run.pk), url("runs")):
        assert "None is listening to the “train” queue" in admin_client.get(path).content.decode()
    listening(monkeypatch, ["train@here"])
    assert "all of them are busy" in admin_client.get(url("run", run.pk)).content.decode()
    monkeypatch.undo()
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert "the broker (Redis) doesn&#x27;t answer" in admin_client.get(url("run", run.pk)).content.decode()


def test_a_run_whose_worker_is_silent_says_so(run: TrainingRun, admin_client: Client) -> None:
    assert run.claim()
    assert "no sign of life" not in admin_client.get(url("run", run.pk)).content.decode()
    TrainingRun.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    assert "no sign of life" in admin_client.get(url("run", run.pk)).content.decode()


def test_a_finished_run_stands_beside_what_it_replaced(
    labelled: Project, make_version: Make, make_run: Make, admin_client: Client
) -> None:
    hour_ago = timezone.now() - timedelta(hours=1)
    old = make_version(labelled, 1, accuracy=0.7, promoted_at=hour_ago)
    new = make_version(labelled, 2, accuracy=0.8, promoted_at=timezone.now(), is_serving=True)
    write_progress(new.run, [0.5, 0.4])
    page = words(admin_client.get(url("run", new.run.pk)))
    assert "v1 (served before)" in page
    assert "80.0 %" in page
    assert "70.0 %" in page
    assert "Roll back to v1" in page
    assert "passed the gate" in page
    assert '<td class="numeric">0.4000</td>' in page, "the chart's numbers stand in a table"
    page = words(admin_client.get(url("run", old.run.pk)))
    assert "v2 (serving)" in page
    same = make_run(labelled, state=State.DONE, same_as=new.run)
    page = admin_client.get(url("run", same.pk)).content.decode()
    assert "Not trained again: same labels and settings as" in page
    assert url("run", new.run.pk) in page


# --- Methods that write their judgement ---


def test_the_form_marks_which_methods_know_a_field(labelled: Project, admin_client: Client) -> None:
    form = admin_client.get(url("runs")).context["form"]
    marked = {name: form[name].field.widget.attrs.get("data-methods") for name in form.fields}
    assert (marked["samples"], marked["stages"], marked["cost_limit"]) == ("grm judge", "grm", "judge")
    assert (marked["region"], marked["epochs"]) == ("rgft", "bt clf oprm rgft haf grm")
    assert {name for name, methods in marked.items() if methods is None} == {
        "method", "further", "base_model", "seed", "max_length",
    }  # fmt: skip


@pytest.mark.usefixtures("sent")
def test_the_form_starts_a_judge_whatever_the_project_keeps_for_others(
    labelled: Project, admin_client: Client
) -> None:
    labelled.training_options = {"reliability": True, "votes": "majority", "hardening": 0.2, "patience": 3}
    labelled.save()
    form = admin_client.get(url("runs")).context["form"]
    shown = {name: form[name].value() for name in labelled.training_options}
    data = {"method": "judge", "samples": "4", "max_new_tokens": "256", "base_model": "org/instruct", **shown}
    assert admin_client.post(url("run-start"), data).status_code == 302
    config = TrainingRun.objects.get().config
    assert (config["samples"], config["max_new_tokens"], config["tuning"]) == (4, 256, "frozen")
    assert not set(labelled.training_options) & set(config)
    refused = admin_client.post(url("run-start"), data | {"stages": "rft"})
    assert "stages is an option of Generative (SPCT) alone" in refused.content.decode()


def test_a_generative_run_shows_what_it_writes(
    labelled: Project, make_run: Make, admin_client: Client
) -> None:
    run = make_run(labelled, "grm", overrides={"samples": 4})
    assert run.claim()
    live = {"reward": -0.25, "kl": 0.0125, "samples_per_second": 3.5, "kept": 61, "too_easy": 7, "hinted": 3}
    run.beat(phase="reinforcing", step=3, total=9, live=live)
    run.folder.mkdir(parents=True)
    with (run.folder / "progress.jsonl").open("w") as file:
        for step, phase in enumerate(["fine-tuning"] * 3 + ["reinforcing"] * 3):
            record = {
                "time": timezone.now().isoformat(),
                "phase": phase,
                "step": step,
                "total": 9,
                "loss": 1 / (1 + step),
            }
            record |= {"reward": step / 10 - 0.5, "kl": step / 100} if phase == "reinforcing" else {}
            file.write(json.dumps(record) + "\n")
    page = words(admin_client.get(url("run", run.pk)))
    # The stages rft and grpo are 89 of 92 parts of all, and a third of the second of them is done.
    assert re.search(r'<progress value="5\d" max="100"', page)
    assert "Training loss: 1.000 at step 0, 0.333 at step 2" in page
    assert "Mean reward: -0.200 at step 3, 0.000 at step 5, highest 0.000 at step 5." in page
    assert "KL from the model it began with: 0.030 at step 3" in page
    assert page.count("<polyline") == 3
    assert "<dt>Reward</dt><dd>-0.250</dd>" in page
    assert "3.50 a second" in page
    assert "<h3>Fine-tuning (RFT)</h3>" in page
    assert "<dt>Kept</dt><dd>61</dd>" in page
    link = progress_link(admin_client, run)
    assert admin_client.get(link, headers=HTMX).status_code == 204
    run.beat(live=live | {"reward": 0.5})
    assert "<dt>Reward</dt><dd>0.500</dd>" in words(admin_client.get(link, headers=HTMX))


def test_a_finished_judge_shows_its_cost_against_its_limit(
    labelled: Project, make_version: Make, admin_client: Client
) -> None:
    version = make_version(labelled, 1)
    found = fake_train.generative({"method": "judge", "samples": 8}) | {
        "stages": {"score": {"prompts": 3, "odd": 0.5}}
    }
    config = version.run.config | {"method": "judge", "cost_limit": 5.0, "samples": 8}
    TrainingRun.objects.update(method="judge", metrics=version.metrics | {"generative": found}, config=config)
    ModelVersion.objects.update(method="judge")
    page = words(admin_client.get(url("run", version.run.pk)))
    for text in ("0.4200 USD", "of 5.00 at most", "120,000 read, 90,000 written", "2 asked again", "12.5 %"):
        assert text in page
    assert "<h3>Votes</h3>" in page
    assert "<dt>Odd</dt><dd>0.500</dd>" in page
    assert "A judge learns nothing: every label of its snapshot measures it." in page
    assert "Trained on" not in page
    TrainingRun.objects.update(
        metrics=version.metrics | {"generative": {"stages": [1], "cost": "much", "order": 3}}
    )
    assert admin_client.get(url("run", version.run.pk)).status_code == 200


# --- Reports ---


@pytest.fixture
def reported(labelled: Project, make_version: Make) -> ModelVersion:
    """A version with all that a newer trainer reports: it fails its robustness suite."""
    version: ModelVersion = make_version(labelled, 1, is_serving=True, promoted_at=timezone.now())
    people = [
        {"annotator": f"judge-{number}", "judgements": 5, "error_rate": number / 100, "left_share": 0.5}
        for number in range(30)
    ]
    metrics = version.metrics | {
        "robustness": fake_train.robustness(ordinal=True, hardening=0.0),
        "annotators": people,
        "base": {"a_left": 0.5, "tie": 0.1},
        "early_stopping": fake_train.early_stopping(3),
        "training": {
            "steps": 40,
            "judgements": 20,
            "levels": 0,
            "responses": 3,
            "dropped": {},
            "truncated": 0,
        },
    }
    metrics["held_out"]["calibration"] = fake_train.calibration(ordinal=True)
    ModelVersion.objects.update(metrics=metrics)
    TrainingRun.objects.update(metrics=metrics)
    version.refresh_from_db()
    return version


def test_the_reports_of_a_run(reported: ModelVersion, researcher: User, client_of: ClientOf) -> None:
    write_progress(reported.run, [0.9, 0.8, 0.7])
    page = words(client_of(researcher).get(url("run", reported.run.pk)))
    # Calibration: the diagram, its numbers, the measures before and after.
    assert "Calibrated by a monotone recalibration of the rating distribution" in page
    assert "fitted on 60 held-out pairs" in page
    assert (
        'Calibration error (ECE)</th> <td class="numeric">0.093</td> <td class="numeric">0.021</td>' in page
    )
    assert page.count('<g class="series ') == 2
    assert "0.9 to 1.0" in page
    # Robustness: badge, sentences with their remedy, the tables.
    assert '<span class="badge warned"> 2 goals missed </span>' in page
    assert "not part of the gate: this version may serve all the same" in page
    assert "Train with &quot;hardening&quot; (0.3 is a good start)." in page
    assert page.count("The words that raised scores most") == 1
    assert "&lt;b&gt;be kind&lt;/b&gt;" in page
    assert "praise of itself" in page
    assert "+0.84" in page
    assert "Start a training" not in page, "a researcher can't"
    # Annotators: the highest rate first, twenty in sight.
    assert "Estimates, not facts" in page
    assert (
        page.index("judge-29") < page.index("judge-10") < page.index("Show all 30") < page.index("judge-9<")
    )
    # Early stopping.
    assert "2 of 40" in page
    assert "Log loss on groups kept aside: 0.660 at step 1, lowest 0.580 at step 2." in page
    assert "style=" not in page


def test_annotators_do_not_see_how_others_are_estimated(
    reported: ModelVersion, annotator: User, stranger: User, client_of: ClientOf
) -> None:
    for person, status in ((annotator, 403), (stranger, 404)):
        for name in ("run", "run-progress"):
            response = client_of(person).get(url(name, reported.run.pk), headers=HTMX)
            assert response.status_code == status
            assert "judge-2" not in response.content.decode()


def test_versions_that_failed_the_suite_link_to_it(
    reported: ModelVersion, labelled: Project, make_version: Make, admin_client: Client
) -> None:
    make_version(labelled, 2)
    page = words(admin_client.get(url("runs")))
    assert page.count("2 robustness goals missed") == 1
    assert f'href="{url("run", reported.run.pk)}#robustness"' in page
    page = words(admin_client.get("/p/capitals/"))
    assert "2 goals missed" in page


def test_versions_without_reports_show_none(
    labelled: Project, make_version: Make, admin_client: Client
) -> None:
    version = make_version(labelled, 1, is_serving=True, promoted_at=timezone.now())
    for path in (url("runs"), url("run", version.run.pk), "/p/capitals/"):
        page = words(admin_client.get(path))
        for name in ("robustness", "Calibrated", "Annotators, as", "Best step"):
            assert name not in page, path


def test_cancel_and_resume(run: TrainingRun, admin_client: Client, sent: list[Any]) -> None:
    admin_client.post(url("run-cancel", run.pk))
    run.refresh_from_db()
    assert run.state == State.CANCELLED
    assert "nothing to cancel" in admin_client.post(url("run-cancel", run.pk), follow=True).content.decode()
    admin_client.post(url("run-resume", run.pk))
    run.refresh_from_db()
    assert run.state == State.QUEUED
    assert "was not resumed" in admin_client.post(url("run-resume", run.pk), follow=True).content.decode()
    assert run.claim()
    admin_client.post(url("run-cancel", run.pk))
    run.refresh_from_db()
    assert (run.state, run.cancel_requested) == (State.RUNNING, True)
    assert "Cancelling" in admin_client.get(url("run", run.pk)).content.decode()


def test_promote_by_click(labelled: Project, make_version: Make, admin_client: Client) -> None:
    version = make_version(labelled, 1, gate_passed=False, gate_reason="It was worse.")
    page = admin_client.get(url("run", version.run.pk)).content.decode()
    assert "held at the gate" in page
    assert "It was worse." in page
    answer = admin_client.post(url("version-promote", version.pk), follow=True).content.decode()
    assert "Ordinal (OPRM) v1 serves now." in answer
    assert ModelVersion.objects.get().is_serving
    assert (
        "was serving already"
        in admin_client.post(url("version-promote", version.pk), follow=True).content.decode()
    )


def test_the_log_can_be_read_whole(run: TrainingRun, admin_client: Client) -> None:
    assert admin_client.get(url("run-log", run.pk)).status_code == 404
    run.folder.mkdir(parents=True)
    (run.folder / "log.txt").write_text("<script>alert(1)</script>\n")
    response = admin_client.get(url("run-log", run.pk))
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert b"".join(response.streaming_content) == b"<script>alert(1)</script>\n"  # type: ignore[attr-defined]


def test_the_page_names_the_base_model_and_its_commit(run: TrainingRun, admin_client: Client) -> None:
    page = admin_client.get(url("run", run.pk)).content.decode()
    assert "<dt>Base model</dt>" in page
    assert "commit" not in page
    TrainingRun.objects.update(
        state=State.DONE,
        config={**run.config, "base_model": "org/name@v2"},
        metrics={"base_revision": "0123456789abcdef"},
    )
    page = " ".join(admin_client.get(url("run", run.pk)).content.decode().split())
    assert 'org/name@v2 <small class="quiet" title="0123456789abcdef"> commit 01234567 </small>' in page


def test_a_run_without_metrics_or_folder_has_a_page(run: TrainingRun, admin_client: Client) -> None:
    ModelVersion.objects.create(
        project=run.project,
        run=run,
        method="oprm",
        number=1,
        kind="ordinal",
        digest="d" * 64,
        metrics={"held_out": None},
    )
    TrainingRun.objects.update(state=State.DONE, metrics={"held_out": None})
    assert "Nothing was held out" in admin_client.get(url("run", run.pk)).content.decode()
    training = {
        "judgements": 1705,
        "levels": 0,
        "responses": 196,
        "dropped": {"crosses_split": 12},
        "truncated": 3,
    }
    TrainingRun.objects.update(metrics={**metrics_of(0.5), "training": training})
    page = words(admin_client.get(url("run", run.pk)))
    assert "1,705 judgements" in page
    assert "12 labels left out (their pairs lie across the split); 3 texts shortened" in page
    assert "50.0 %" in admin_client.get(url("run", run.pk)).content.decode()


def test_the_list_looks_for_runs_that_start_by_themselves(project: Project, admin_client: Client) -> None:
    assert "hx-trigger" not in admin_client.get("/p/capitals/runs/").content.decode()
    Project.objects.filter(pk=project.pk).update(retrain_after_labels=50)
    assert 'hx-trigger="every 15s"' in admin_client.get("/p/capitals/runs/").content.decode()
