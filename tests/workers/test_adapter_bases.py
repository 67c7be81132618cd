"""LoRA versions in the product: their base model is found for every job that loads them, and told to nobody."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from safetensors.torch import load_file, save_file

from tests.evaluation_sets.conftest import PAIRS, add, sent  # noqa: F401 - fixtures
from tests.rewards.conftest import _quiet, rows, tiny_lm  # noqa: F401 - fixtures
from tests.workers.test_base_models import judged  # noqa: F401 - a fixture
from webapp.accounts.models import User
from webapp.benchmarks.models import EvaluationSet
from webapp.benchmarks.services import measurement_start
from webapp.corpus.models import Project
from webapp.corpus.options import RunRefused
from webapp.jobs import JobFailed, State
from webapp.operations.disk import disk_measure, disk_report
from webapp.operations.folder import files_kept
from webapp.training.models import ModelExport, ModelVersion, Remeasurement, TrainingRun
from webapp.training.retention import versions_packable, weights_remove
from webapp.training.services import run_config, starter_path
from workers import child, exports, measurements, remeasuring, runs, trials
from workers.rewards import benchmark
from workers.rewards import export as exporting
from workers.rewards.artifacts.save import load_model
from workers.rewards.measure import measure_again
from workers.rewards.models.base_models import FOLDERS_VARIABLE
from workers.rewards.models.predict import score_responses
from workers.rewards.training.loop import train
from workers.rewards.training.progress import Stop

Make = Callable[..., TrainingRun]
LORA = {"tuning": "lora", "lora_rank": 4, "epochs": 1}
pytestmark = pytest.mark.one_database


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The children's work without the seconds that a child takes to load PyTorch, under the folders it is allowed."""

    def supervise(command: list[str], *, folder: Path, base_folders: list[Path] = (), **_: Any) -> int:  # type: ignore[assignment]
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv(FOLDERS_VARIABLE, json.dumps([str(path.resolve()) for path in base_folders]))
            module = command[2] if command[1] == "-m" else command[-2]
            if module == "workers.rewards.starter":
                shutil.copytree(request.getfixturevalue("tiny_lm"), command[-1])
            elif module == "workers.rewards.export":
                return exporting.main(command[3:])
            elif module == "workers.rewards.benchmark":
                return benchmark.main(command[3:])
            elif module == "workers.rewards.measure":
                measure_again(Path(command[3]), Path(command[4]), Path(command[5]), Stop())
            else:
                train(folder)
        return 0

    for place in (child, runs, exports):
        monkeypatch.setattr(place, "supervise", supervise)


@pytest.fixture
def offered(tiny_lm: Path, tmp_path: Path, settings: Any) -> Path:  # noqa: F811
    """folder:llm, an operator's base model."""
    settings.BASE_MODEL_DIRS = [tmp_path / "models"]
    return Path(shutil.copytree(tiny_lm, tmp_path / "models" / "llm"))


@pytest.fixture
def trained(judged: Project, make_run: Make) -> Callable[..., ModelVersion]:  # noqa: F811
    """trained(base_model="folder:llm", **LORA) -> the version of a training of bt."""

    def carry(**overrides: Any) -> ModelVersion:
        run = make_run(judged, "bt", overrides=overrides)
        runs.train(run.pk)
        run.refresh_from_db()
        assert (run.state, run.error) == (State.DONE, "")
        return run.version

    return carry


def scored(version: ModelVersion) -> list[float]:
    """What "try it" answers, by a worker that has the model not yet in memory."""
    trials._kept.clear()
    asked = {"version": version.pk, "messages": [], "texts": ["water it", "no idea"]}
    return [row["score"] for row in trials._scored(asked)]


def exported(version: ModelVersion, user: User, format: str, target: Path) -> Path:
    """The folder in an export's archive, without the server's files behind it."""
    export = ModelExport.objects.create(version=version, format=format, created_by=user)
    exports.export_model(export.pk)
    export.refresh_from_db()
    assert (export.state, export.error) == (State.DONE, "")
    with zipfile.ZipFile(export.archive) as zipped:
        zipped.extractall(target)
    export.archive.unlink()
    ModelExport.objects.all().delete()
    return target / export.name


@pytest.mark.parametrize("start", ["starter", "folder:llm", "version:bt-1"])
def test_a_version_is_tried_and_exported_whatever_its_base(
    start: str,
    trained: Callable[..., ModelVersion],
    offered: Path,
    researcher: User,
    data_dir: Path,
    tmp_path: Path,
) -> None:
    if start == "version:bt-1":
        assert trained(base_model="folder:llm", epochs=1).artifact.get("base") is None
    version = trained(base_model=start, **LORA)
    assert version.artifact["base"]["name"] == start
    assert (version.path / "adapter_model.safetensors").is_file()
    link = version.run.folder / "base"
    assert link.is_dir()
    assert link.is_symlink() == (start != "starter")
    before = scored(version)
    packed = exported(version, researcher, "caliper", tmp_path / "out")
    whole = exported(version, researcher, "transformers", tmp_path / "out")

    # the link is set right at each use, and never in a backup
    if link.is_symlink():
        link.unlink()
        (tmp_path / "large").mkdir(exist_ok=True)
        (tmp_path / "large" / "config.json").write_bytes(bytes(2**20))
        link.symlink_to(tmp_path / "large")
        assert f"runs/{version.run_id}/base/config.json" not in dict(files_kept(data_dir))
        disk_measure()
        assert disk_report()["projects"][0]["other"] < 2**20  # type: ignore[index]
    assert scored(version) == before

    # a pack needs nothing of this server, and tells nothing of it
    offered.rename(offered.with_name("away"))
    shutil.rmtree(starter_path(version.project), ignore_errors=True)
    model, template, _ = load_model(packed)
    assert [row["score"] for row in _rows(model, template)] == before
    for path in [*packed.rglob("*.json"), *whole.rglob("*.json"), *version.path.glob("*.json")]:
        assert str(tmp_path) not in path.read_text(), path.name


def _rows(model: Any, template: Any) -> list[dict[str, Any]]:
    responses = [
        {"response_id": text, "messages": [], "tools": [], "text": text} for text in ("water it", "no idea")
    ]
    return score_responses(model, template, responses)


def test_a_version_is_measured_on_a_set_and_again(
    trained: Callable[..., ModelVersion],
    offered: Path,
    add: Callable[..., EvaluationSet],  # noqa: F811
    admin: User,
) -> None:
    first = trained(base_model="folder:llm", **LORA)
    second = trained(base_model="folder:llm", **LORA, seed=4)
    (first.run.folder / "base").unlink()
    one = measurement_start(evaluation_set=add(content=PAIRS), version=first)
    measurements.measure(one.pk)
    one.refresh_from_db()
    assert (one.state, one.error) == (State.DONE, "")
    assert (first.run.folder / "base").resolve() == offered
    (first.run.folder / "base").unlink()
    again = Remeasurement.objects.create(version=first, rows_of=second, created_by=admin)
    remeasuring.measure_version(again.pk)
    again.refresh_from_db()
    assert (again.state, again.error) == (State.DONE, "")
    assert again.metrics["held_out"]["pairs"]["n"] > 0


def test_the_same_adapters_go_on_and_only_with_their_rank(
    trained: Callable[..., ModelVersion],
    offered: Path,
    judged: Project,  # noqa: F811
    tmp_path: Path,
    admin: User,
    client_of: Callable[[User], Client],
) -> None:
    first = trained(base_model="folder:llm", **LORA)
    with pytest.raises(
        RunRefused, match=r"lora_rank is 8, but the adapters of version:bt-1, .* have 4"
    ) as refusal:
        run_config(judged, "bt", {"base_model": "version:bt-1", "tuning": "lora", "lora_rank": 8})
    assert refusal.value.field == "lora_rank"
    asked = {"method": "bt", "base_model": "version:bt-1", "tuning": "lora", "further": "lora_rank = 8"}
    page = client_of(admin).post(f"/p/{judged.slug}/runs/start/", asked)
    assert page.status_code == 400
    assert "which go on learning, have 4. Leave lora_rank out" in page.content.decode()
    run_config(
        judged, "bt", {"base_model": "version:bt-1", "tuning": "tuned", "lora_rank": 8}
    )  # it has no say

    second = trained(base_model="version:bt-1", tuning="lora", epochs=1, seed=5)
    assert second.artifact["base"] == first.artifact["base"], "no chain of bases"
    assert (second.run.folder / "base").resolve() == offered
    merged = trained(base_model="version:bt-2", tuning="tuned", epochs=1, seed=6)
    assert merged.artifact.get("base") is None
    assert not (merged.run.folder / "base").exists()
    shutil.rmtree(first.path)  # nothing of it is needed any more
    assert len(scored(second)) == len(scored(merged)) == 2


def test_a_version_that_was_taken_away_is_a_start_elsewhere(
    trained: Callable[..., ModelVersion], offered: Path, researcher: User, tmp_path: Path
) -> None:
    """Its pack, offered by the operator of another server, has its own starter below it, not this server's."""
    pack = exported(trained(base_model="starter", **LORA), researcher, "caliper", tmp_path / "out")
    shutil.copytree(pack, offered.with_name("pack"))
    shutil.rmtree(starter_path(ModelVersion.objects.get().project))
    second = trained(base_model="folder:pack", tuning="lora", epochs=1)
    third = trained(base_model="version:bt-2", tuning="lora", epochs=1, seed=5)
    assert (second.run.folder / "base").resolve() == offered.with_name("pack") / "base"
    assert len(scored(second)) == len(scored(third)) == 2


def test_a_starter_that_is_made_anew_takes_no_version_with_it(
    trained: Callable[..., ModelVersion],
    judged: Project,  # noqa: F811
) -> None:
    first = trained(base_model="starter", **LORA)
    second = trained(base_model="version:bt-1", tuning="lora", epochs=1, seed=5)
    before = scored(first), scored(second)
    weights = starter_path(judged) / "model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    assert (scored(first), scored(second)) == before


def test_a_base_that_is_gone_is_said_by_name_and_keeps_its_version(
    trained: Callable[..., ModelVersion],
    offered: Path,
    judged: Project,  # noqa: F811
    researcher: User,
) -> None:
    below = trained(base_model="folder:llm", epochs=1)
    version = trained(base_model="version:bt-1", **LORA)
    trained(base_model="folder:llm", epochs=1, seed=3)
    ModelVersion.objects.update(is_serving=False, promoted_at=None)
    assert below not in versions_packable(keep=1), "adapters lie over it"
    assert version in versions_packable(keep=1)

    shutil.rmtree(below.path)
    words = "bt v2 is adapters over version:bt-1, and that base model's files are gone. Put them back, or train again."
    with pytest.raises(JobFailed) as failed:
        scored(version)
    assert trials._words(failed.value) == words
    export = ModelExport.objects.create(version=version, format="caliper", created_by=researcher)
    exports.export_model(export.pk)
    export.refresh_from_db()
    assert (export.state, export.error) == (State.FAILED, words)
    with pytest.raises(RunRefused, match="It can't be a start: bt v2 is adapters over version:bt-1"):
        run_config(judged, "bt", {"base_model": "version:bt-2"})

    weights_remove(version)
    assert not (version.run.folder / "base").is_symlink()
