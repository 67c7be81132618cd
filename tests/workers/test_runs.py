"""A run's task body: every end that a training can come to, with a trainer that only pretends."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from webapp.corpus.models import Project, Response
from webapp.jobs import State
from webapp.ratings.models import Prediction
from webapp.training.models import ModelVersion, TrainingRun
from workers import child, runs
from workers.child import FolderBusy, ProgressLog, folder_lock, progress_fields, supervise

pytestmark = pytest.mark.usefixtures("fake")

Make = Callable[..., TrainingRun]


def test_a_training_ends_as_a_serving_version_with_predictions(
    labelled: Project, make_run: Make, trained: Make
) -> None:
    run = trained(make_run(labelled))
    assert run.error == ""
    assert run.state == State.DONE
    assert run.finished_at is not None
    assert run.labels_seen == 20
    version = run.version
    assert (version.number, version.kind, version.tie, version.temperature) == (1, "ordinal", None, 1.5)
    assert version.is_serving
    assert version.gate_passed
    assert version.metrics["held_out"]["pairs"]["accuracy"]["value"] == 0.8
    # NaN is not JSON; PostgreSQL would refuse it.
    assert version.metrics["held_out"]["pairs"]["ece"]["value"] is None
    predictions = {p.response.external_id: p for p in version.predictions.select_related("response")}
    assert len(predictions) == 3
    assert {p.percentile for p in predictions.values()} == {0.0, 50.0, 100.0}
    assert {p.split for p in predictions.values()} == {"train", "held_out"}
    config = json.loads((run.folder / "config.json").read_text())
    assert run.snapshot is not None
    assert config["snapshot_digest"] == run.snapshot.digest
    assert config["method"] == "oprm"
    assert config["split_salt"] == labelled.split_salt
    assert (run.folder / "snapshot" / "manifest.json").exists()
    assert (run.folder / "log.txt").read_text().startswith("fake training")


def test_a_judge_is_stored_with_its_votes_though_nobody_has_labelled(
    project: Project, make_prompt: Make, make_run: Make, trained: Make
) -> None:
    make_prompt(project, "p1", texts=["one", "two", "three"])
    run = trained(make_run(project, method="judge", overrides={"samples": 3}))
    assert (run.state, run.error, run.labels_seen) == (State.DONE, "", 0)
    version = run.version
    assert (version.kind, version.saw_levels, version.short_method) == ("ordinal", True, "Judge")
    assert version.trajectories.count() == 3, "those of other stages stay in the file"
    first, second = version.trajectories.order_by("sample")[:2]
    assert (first.counted, second.counted) == (False, True)
    assert [vote.rating for vote in second.votes.order_by("position")] == [9, 8, 7]
    assert version.metrics["generative"]["cost"] == 0.42
    config = json.loads((run.folder / "config.json").read_text())
    assert (config["tuning"], config["guidelines"]) == ("frozen", project.guidelines)


@pytest.mark.parametrize(
    ("mode", "text"),
    [("no-votes", "without writing critiques.parquet"), ("bad-votes", "trajectories.parquet")],
)
def test_damaged_votes_are_refused_and_nothing_is_stored(
    labelled: Project, make_run: Make, trained: Make, mode: str, text: str
) -> None:
    run = trained(make_run(labelled, method="grm", overrides={"base_model": "org/instruct"}), mode)
    assert run.state == State.FAILED
    assert text in run.error
    assert (ModelVersion.objects.count(), Prediction.objects.count()) == (0, 0)


def test_progress_reaches_the_row(labelled: Project, make_run: Make, trained: Make) -> None:
    run = trained(make_run(labelled, method="bt"))
    assert (run.step, run.total) == (3, 3)
    assert run.loss == pytest.approx(1 / 3)
    assert run.tokens_per_second == 1000.0
    assert run.version.kind == "scalar"
    assert run.version.tie == 0.3


def test_a_message_that_comes_twice_leaves(labelled: Project, make_run: Make, trained: Make) -> None:
    run = trained(make_run(labelled))
    before = TrainingRun.objects.filter(pk=run.pk).values().get()
    runs.train(run.pk)
    runs.train(987654)
    assert TrainingRun.objects.filter(pk=run.pk).values().get() == before
    assert ModelVersion.objects.count() == 1


def test_the_same_labels_and_settings_are_not_trained_again(
    labelled: Project, make_run: Make, trained: Make, judge: Callable[..., None]
) -> None:
    first = trained(make_run(labelled))
    again = trained(make_run(labelled))
    assert again.state == State.DONE
    assert again.same_as == first
    assert not again.folder.exists()
    assert not hasattr(again, "version")
    other_seed = trained(make_run(labelled, overrides={"seed": 1}))
    assert other_seed.same_as is None
    assert other_seed.version.number == 2
    judge(labelled, 1)
    more_labels = trained(make_run(labelled))
    assert more_labels.same_as is None
    shutil.rmtree(first.folder)
    shutil.rmtree(more_labels.folder)
    assert trained(make_run(labelled)).version.number == 4, "a model whose files are gone is trained again"


def test_too_few_labels_are_refused_in_the_worker_too(
    labelled: Project, make_run: Make, trained: Make
) -> None:
    labelled.min_judgements = 21
    labelled.save()
    run = trained(make_run(labelled))
    assert run.state == State.FAILED
    assert "20 judgements and levels, fewer than this project's minimum of 21" in run.error
    assert run.labels_seen == 20, "the threshold trigger counts from here, so it isn't tried at each tick"


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("refuse", "method rgft learns from levels"),
        ("crash", "The training failed. ValueError: the loss is not finite at step 3; lower learning_rate"),
        ("quiet", "It ended with status 7.\nfake training: quiet\nIllegal instruction"),
        ("die", "most likely the machine ran out of memory"),
        ("outside", "stopped from outside (signal 15)"),
        ("no-metrics", "ended without writing metrics.json"),
        ("corrupt", "model.safetensors is not what was saved"),
        ("bad-predictions", "score is nan, not a finite number"),
    ],
)
def test_failures_are_readable_and_the_old_version_serves(
    labelled: Project, make_run: Make, trained: Make, mode: str, text: str
) -> None:
    serving = trained(make_run(labelled)).version
    run = trained(make_run(labelled, overrides={"seed": 1}), mode)
    assert run.state == State.FAILED
    assert text in run.error
    assert not hasattr(run, "version")
    assert list(ModelVersion.objects.filter(is_serving=True)) == [serving]
    assert Prediction.objects.exclude(version=serving).count() == 0


def test_a_damaged_result_is_made_again_on_resume(labelled: Project, make_run: Make, trained: Make) -> None:
    run = trained(make_run(labelled), "corrupt")
    assert run.requeue()
    assert trained(run).state == State.DONE


def test_a_worse_model_waits_at_the_gate(labelled: Project, make_run: Make, trained: Make) -> None:
    first = trained(make_run(labelled)).version
    worse = trained(make_run(labelled, overrides={"seed": 1}), "accuracy=0.7").version
    assert worse.gate_passed is False
    assert "more than the allowed 0.020 lower" in worse.gate_reason
    assert not worse.is_serving
    about_as_good = trained(make_run(labelled, overrides={"seed": 2}), "accuracy=0.79").version
    assert about_as_good.gate_passed
    assert about_as_good.is_serving
    first.refresh_from_db()
    assert not first.is_serving


def test_publishing_is_all_or_nothing(
    labelled: Project, make_run: Make, trained: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: Any) -> int:
        raise RuntimeError("bulk insert broke")

    monkeypatch.setattr(runs, "predictions_store", broken)
    run = trained(make_run(labelled))
    assert run.state == State.FAILED
    assert "bulk insert broke" in run.error
    assert ModelVersion.objects.count() == 0


def test_a_response_deleted_meanwhile_is_left_out(
    labelled: Project, make_run: Make, trained: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = runs.read_predictions

    def delete_one(folder: Path) -> list[dict[str, Any]]:
        Response.objects.get(external_id="p1-r3").delete()
        return read(folder)

    monkeypatch.setattr(runs, "read_predictions", delete_one)
    assert trained(make_run(labelled)).version.predictions.count() == 2


def test_a_full_disk_and_missing_files_are_named(
    labelled: Project, make_run: Make, trained: Make, monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runs, "DISK_NEEDED_BYTES", 1 << 62)
        run = trained(make_run(labelled))
    assert run.state == State.FAILED
    assert run.error == "No space is left on the disk of the data folder. Free some, then press Resume."
    take = runs.snapshot_take

    def take_and_lose(**kwargs: Any) -> Any:
        snapshot = take(**kwargs)
        shutil.rmtree(snapshot.path)
        return snapshot

    with monkeypatch.context() as patch:
        patch.setattr(runs, "snapshot_take", take_and_lose)
        run = trained(make_run(labelled))
    assert "The snapshot's files are gone" in run.error
    assert str(data_dir) not in run.error


def test_other_errors_of_the_disk_are_readable(data_dir: Path) -> None:
    assert "may not write /x" in child.readable_os_error(PermissionError(errno.EACCES, "no", "/x"))
    assert "Missing: /x" in child.readable_os_error(FileNotFoundError(errno.ENOENT, "no", "/x"))
    assert "Input/output error (/x)" in child.readable_os_error(
        OSError(errno.EIO, "Input/output error", "/x")
    )


# --- Stopping ---


def wait_for(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "POLL_SECONDS", 0.1)


def stepped(run: TrainingRun) -> bool:
    return (run.folder / "progress.jsonl").exists()


@pytest.mark.usefixtures("quick")
def test_a_cancel_stops_the_child_and_resume_goes_on(
    labelled: Project, make_run: Make, trained: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(labelled)
    beat = TrainingRun.beat

    def cancel_then_beat(self: TrainingRun, **fields: Any) -> bool:
        if stepped(self):
            assert TrainingRun.objects.get(pk=self.pk).request_cancel()
        return beat(self, **fields)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "beat", cancel_then_beat)
        trained(run, "slow")
    assert run.state == State.CANCELLED
    assert ModelVersion.objects.count() == 0
    step = int((run.folder / "checkpoint" / "step").read_text())
    assert 1 <= step < 200
    assert run.requeue()
    trained(run, "ok")
    assert run.state == State.DONE
    assert run.metrics["training"]["resumed_from"] == step


@pytest.mark.usefixtures("quick")
def test_a_cancel_that_comes_while_the_result_is_stored_is_obeyed(
    labelled: Project, make_run: Make, trained: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = runs.read_metrics
    run = make_run(labelled)

    def cancel(folder: Path) -> dict[str, Any]:
        assert TrainingRun.objects.get(pk=run.pk).request_cancel()
        return read(folder)

    monkeypatch.setattr(runs, "read_metrics", cancel)
    assert trained(run).state == State.CANCELLED
    assert ModelVersion.objects.count() == 0


@pytest.mark.usefixtures("quick")
def test_a_shutdown_puts_the_run_back_into_the_queue(
    labelled: Project, make_run: Make, fake: Callable[[str], None]
) -> None:
    fake("slow")
    run = make_run(labelled)
    runs.train(run.pk, stopping=lambda: stepped(run))
    run.refresh_from_db()
    assert run.state == State.QUEUED
    assert (run.folder / "checkpoint" / "step").exists()


@pytest.mark.usefixtures("quick")
def test_a_shutdown_while_the_same_training_waits_makes_it_lost(
    labelled: Project, make_run: Make, fake: Callable[[str], None]
) -> None:
    fake("slow")
    run = make_run(labelled)
    made = []

    def stopping() -> bool:
        if stepped(run) and not made:
            made.append(make_run(labelled))
        return bool(made)

    runs.train(run.pk, stopping=stopping)
    run.refresh_from_db()
    assert run.state == State.LOST
    assert "Resume continues this one" in run.error


@pytest.mark.usefixtures("quick")
def test_a_worker_that_was_given_up_does_no_harm_when_it_wakes(
    labelled: Project, make_run: Make, trained: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(labelled)
    beat = TrainingRun.beat
    taken = []

    def beat_after_another_took_over(self: TrainingRun, **fields: Any) -> bool:
        if stepped(self) and not taken:
            TrainingRun.objects.filter(pk=self.pk).update(state=State.QUEUED)
            taken.append(TrainingRun.objects.get(pk=self.pk))
            assert taken[0].claim()
        return beat(self, **fields)

    monkeypatch.setattr(TrainingRun, "beat", beat_after_another_took_over)
    trained(run, "slow")
    assert run.state == State.RUNNING
    assert run.started_at == taken[0].started_at
    assert ModelVersion.objects.count() == 0


@pytest.mark.usefixtures("quick")
def test_a_database_that_is_away_for_a_while_costs_no_training(
    labelled: Project, make_run: Make, trained: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import OperationalError

    beat = TrainingRun.beat
    failures = []

    def sometimes(self: TrainingRun, **fields: Any) -> bool:
        if self.phase == "starting" and len(failures) < 2 and self.folder.exists():
            failures.append(1)
            raise OperationalError("the server closed the connection")
        return beat(self, **fields)

    monkeypatch.setattr(TrainingRun, "beat", sometimes)
    assert trained(make_run(labelled)).state == State.DONE
    assert failures


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, quick: None) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); open('up', 'w'); time.sleep(60)"
    status = supervise(
        [sys.executable, "-c", script],
        folder=tmp_path,
        cwd=tmp_path,
        each_second=lambda progress: not (tmp_path / "up").exists(),
        grace=0.3,
    )
    assert status == -signal.SIGKILL


def test_no_child_is_left_when_the_watcher_breaks(tmp_path: Path, quick: None) -> None:
    pids: list[int] = []

    def broken(progress: object) -> bool:
        if not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            return True
        pids.append(int((tmp_path / "pid").read_text()))
        raise KeyboardInterrupt

    script = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        supervise([sys.executable, "-c", script], folder=tmp_path, cwd=tmp_path, each_second=broken)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_leftover_child_of_a_dead_worker_is_ended_first(tmp_path: Path, quick: None) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); open('up', 'w'); time.sleep(60)"
    status: list[int] = []
    first = threading.Thread(
        target=lambda: status.append(
            supervise(
                [sys.executable, "-c", script],
                folder=tmp_path,
                cwd=tmp_path,
                each_second=lambda progress: True,
            )
        )
    )
    first.start()
    wait_for(lambda: (tmp_path / "up").exists())
    with folder_lock(tmp_path, wait=2.0):
        first.join(5)
    assert status == [-signal.SIGKILL]


def test_a_folder_in_use_by_who_knows_whom_is_refused(tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(FolderBusy), folder_lock(tmp_path, wait=0.2):
        pass


def test_the_child_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://somebody:secret@host/db")
    monkeypatch.setenv("WANDB_API_KEY", "for the tracker")
    environment = child.environment()
    assert "DATABASE_URL" not in environment
    assert environment["WANDB_API_KEY"] == "for the tracker"
    assert environment["CALIPER_PARENT_PID"] == str(os.getpid())
    assert int(environment["OMP_NUM_THREADS"]) >= 1


# --- Progress ---


def test_progress_reads_only_what_is_new_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text('{"phase": "training", "step": 9, "total": 9}\n')
    progress = ProgressLog(path)
    assert progress.newest() is None, "an earlier attempt's lines say nothing of this one"
    with path.open("a") as file:
        file.write(
            '{"phase": "training", "step": 1, "total": 9, "loss": NaN, "tokens_per_second": 5}\nnot json\n{"pha'
        )
        file.flush()
        assert progress.newest() == {
            "phase": "training",
            "step": 1,
            "total": 9,
            "tokens_per_second": 5.0,
        }
        assert progress.newest() is None
        file.write('se": "saving", "step": 2, "total": 9}\n')
        file.flush()
    newest = progress.newest()
    assert newest is not None
    assert newest["phase"] == "saving"
    assert ProgressLog(tmp_path / "absent").newest() is None


def test_further_figures_are_kept_until_they_are_told_anew(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    progress = ProgressLog(path)
    line = {"phase": "reinforcing", "step": 1, "total": 9}
    lines = [line | {"kept": 3, "hinted": None}, line | {"reward": -0.5, "kl": float("nan")}]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert progress.newest() == line | {"live": {"kept": 3.0, "reward": -0.5}}
    with path.open("a") as file:
        file.write(json.dumps(line | {"step": 2, "reward": 0.25}) + "\n")
    assert progress.newest() == line | {"step": 2, "live": {"kept": 3.0, "reward": 0.25}}


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("https://wandb.ai/somebody/caliper/runs/1", True),
        ("javascript:alert(1)", False),
        ("https://", False),
        ("https://host/ x", False),
        ("https://[", False),
        ("https://host/" + 500 * "x", False),
        (7, False),
    ],
)
def test_a_tracker_s_address_is_a_link_for_a_browser_or_nothing(address: object, kept: bool) -> None:
    line = {"phase": "training", "step": 1, "total": 2, "tracking": address}
    fields = progress_fields(json.dumps(line).encode())
    assert fields is not None
    assert fields.get("tracking_url") == (address if kept else None)


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"null", b'{"phase": 1}', b'{"phase": "x", "step": null, "total": 1}']
)
def test_lines_that_are_no_progress_are_passed_over(line: bytes) -> None:
    assert progress_fields(line) is None
