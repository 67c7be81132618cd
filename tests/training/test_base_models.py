"""What may be a base model: an admin of one project must not reach another project's models, nor the server's disk."""

import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from tests.corpus.test_pages import settings_of
from tests.rewards.models.test_architectures import REFUSED
from webapp.accounts.models import User
from webapp.corpus.base_models import (
    REFUSAL,
    WHAT_TO_NAME,
    FolderModel,
    base_model_choices,
    base_model_named,
    base_model_public,
    folder_model,
)
from webapp.corpus.model_types import CAUSAL, ENCODER_DECODERS, ENCODERS
from webapp.corpus.models import Project, Prompt
from webapp.corpus.options import RunRefused
from webapp.jobs import State
from webapp.paths import without_paths
from webapp.training.models import ModelExport, ModelVersion, TrainingRun
from webapp.training.services import (
    STARTER,
    VersionRefused,
    base_folder,
    run_config,
    starter_path,
    version_promote,
)
from webapp.training.triggers import retrain_due
from workers import exports, runs
from workers.rewards.config import Refused
from workers.rewards.models.base_models import Source
from workers.rewards.models.kinds import look_at

Make = Callable[..., Any]
FAKE = Path(__file__).parent.parent / "workers" / "fake_train.py"
REWARD_MODEL = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForSequenceClassification"],
    "id2label": {"0": "REWARD"},
}
SPLIT = {"unit": "group", "held_out": ["g1"]}


@pytest.fixture
def alpha(make_version: Make, make_prompt: Callable[..., Prompt]) -> ModelVersion:
    """Another project with a private model: OPRM v7, and a starter made from its texts."""
    project = Project.objects.create(slug="alpha", name="Alpha", methods=["oprm"])
    version: ModelVersion = make_version(project, 7)
    model_write(version.path)
    model_write(starter_path(project))
    return version


def model_write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")


@pytest.fixture
def offered(settings: Any, tmp_path: Path) -> Path:
    """A folder that the operator lists, with one model in it."""
    root = tmp_path / "models"
    model_write(root / "tiny")
    settings.BASE_MODEL_DIRS = [root]
    return root


def ways_in(alpha: ModelVersion, offered: Path, data_dir: Path) -> dict[str, str]:
    """Every name under which an admin of another project might ask for alpha's models."""
    os.symlink(alpha.path, offered / "link")
    os.symlink(data_dir, offered / "all")
    return {
        "path": str(alpha.path),
        "starter's path": str(starter_path(alpha.project)),
        "relative path": os.path.relpath(alpha.path),
        "up and down": f"{offered}/../data/runs/{alpha.run_id}/model",
        "two parts, like the hub's": "data/starter-lm",
        "symlink by path": str(offered / "link"),
        "symlink by name": "folder:link",
        "symlink to all of it": f"folder:all/runs/{alpha.run_id}/model",
        "up from a name": f"folder:../data/runs/{alpha.run_id}/model",
        "path as a name": f"folder:{alpha.path}",
        "version": "version:oprm-7",
        "home": "~/model",
        "address": f"file://{alpha.path}",
    }


def test_no_way_into_another_project(
    labelled: Project,
    alpha: ModelVersion,
    offered: Path,
    data_dir: Path,
    admin: User,
    client_of: Callable[[User], Client],
    make_run: Make,
    sent: list[Any],
    settings: Any,
) -> None:
    client = client_of(admin)
    settings.TRAIN_COMMAND = [sys.executable, str(FAKE), "ok"]
    for way, name in ways_in(alpha, offered, data_dir).items():
        if way == "two parts, like the hub's":
            continue  # it is a hub id to the web; the child looks whether it is a folder
        page = client.post(
            reverse("training:run-start", args=[labelled.slug]), {"method": "oprm", "base_model": name}
        )
        assert page.status_code == 400, way
        assert REFUSAL in page.content.decode().replace("&#x27;", "'"), way
        answer = client.post("/p/capitals/settings/", settings_of(labelled, base_model=name))
        assert answer.status_code == 422, way
        with pytest.raises(RunRefused) as refusal:
            run_config(labelled, "oprm", {"base_model": name})
        assert str(refusal.value) == REFUSAL, way
        with pytest.raises(CommandError, match="No such base model may be used here"):
            call_command("train", project="capitals", method="oprm", base_model=name)
        # Should a row say so all the same (an older version's), its worker looks again.
        run = make_run(labelled)
        TrainingRun.objects.filter(pk=run.pk).update(config={**run.config, "base_model": name})
        runs.train(run.pk)
        run.refresh_from_db()
        assert run.state == State.FAILED, way
        assert REFUSAL in run.error, way
        assert not run.folder.exists(), way
    labelled.refresh_from_db()
    assert labelled.base_model == "all-MiniLM-L6-v2"
    assert sent == []


def test_whether_a_path_is_there_cannot_be_told(labelled: Project, offered: Path) -> None:
    words = set()
    for name in (
        "/etc/shadow",
        "/etc",
        "/nowhere",
        str(offered),
        f"{offered}/none",
        "folder:none",
        "version:bt-1",
        "",
    ):
        with pytest.raises(RunRefused) as refusal:
            base_folder(labelled, name)
        words.add(str(refusal.value))
    assert words == {REFUSAL}


@pytest.mark.parametrize(
    "name",
    [
        STARTER,
        "all-MiniLM-L6-v2",
        "org/name",
        "Qwen/Qwen2.5-0.5B",
        "org/name@main",
        "org/name@refs/pr/3",
        "folder:tiny",
    ],
)
def test_names_that_may_be_used(name: str, offered: Path) -> None:
    assert base_model_named(f" {name} ") == name
    assert base_model_public(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "org/",
        "org/..",
        "../x",
        "a/b/c",
        "org/name@",
        "org/name@../x",
        "-x/y",
        "org/näme",
        "org/na me",
    ],
)
def test_names_that_may_not(name: str) -> None:
    with pytest.raises(RunRefused):
        base_model_named(name)
    assert base_model_public(name) == "a local folder"


def test_an_operators_folder_has_a_name_and_no_path(
    labelled: Project, offered: Path, admin: User, client_of: Callable[[User], Client], sent: list[Any]
) -> None:
    os.symlink(offered / "tiny", offered / "newest")
    assert base_model_named(str(offered / "newest")) == "folder:tiny"
    assert base_model_choices() == ["all-MiniLM-L6-v2", STARTER, "folder:tiny"]
    client = client_of(admin)
    for page in ("/p/capitals/settings/", reverse("training:runs", args=["capitals"])):
        html = client.get(page).content.decode()
        assert '<option value="folder:tiny">' in html
        assert str(offered) not in html
    path = str(offered / "tiny")
    assert client.post("/p/capitals/settings/", settings_of(labelled, base_model=path)).status_code == 302
    labelled.refresh_from_db()
    assert labelled.base_model == "folder:tiny"
    client.post(reverse("training:run-start", args=["capitals"]), {"method": "oprm", "base_model": path})
    assert TrainingRun.objects.get().config["base_model"] == "folder:tiny"


# --- What a folder is ---

KINDS: list[tuple[dict[str, Any], str | None, bool]] = [
    ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "causal", True),
    ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "causal", True),
    ({"model_type": "bert", "architectures": ["BertModel"]}, "encoder", True),
    ({"model_type": "bert", "is_decoder": True}, "causal", True),
    ({"model_type": "caliper_reward", "backbone": {"model_type": "bert"}}, "encoder", True),
    ({**REWARD_MODEL, "tie_word_embeddings": True}, "causal", True),
    ({**REWARD_MODEL, "tie_word_embeddings": False}, "causal", False),
    (
        {"model_type": "gemma3", "vision_config": {}, "text_config": {"model_type": "gemma3_text"}},
        "causal",
        True,
    ),
    ({"architectures": None}, None, True),
]


@pytest.mark.parametrize(("config", "backbone", "writes"), KINDS)
def test_what_a_folder_is(tmp_path: Path, config: Any, backbone: str | None, writes: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert folder_model(tmp_path) == FolderModel(backbone, writes)
    if backbone is not None and config["model_type"] != "caliper_reward":
        base = look_at("x", Source(str(tmp_path)))
        assert base.architecture == backbone
        assert base.architecture == "encoder" or base.writes == writes
    (tmp_path / "config.json").write_text("[]")
    assert folder_model(tmp_path) == folder_model(tmp_path / "elsewhere") == FolderModel()


@pytest.mark.parametrize("name", REFUSED)
def test_the_form_and_the_worker_refuse_the_same(name: str, tmp_path: Path) -> None:
    """But for types that only transformers know."""
    config, _ = REFUSED[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = folder_model(tmp_path)
    assert bool(found.refusal) != (name in ("CLIP", "Wav2Vec2", "unknown", "own code"))
    assert found.backbone is None


def test_the_form_and_the_worker_read_every_model_type_alike(tmp_path: Path) -> None:
    """Of the types that both know: encoder, causal, or neither."""
    known = {**MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, **MODEL_FOR_MASKED_LM_MAPPING_NAMES}
    both = [kind for kind in ENCODERS | CAUSAL | ENCODER_DECODERS if kind in CONFIG_MAPPING]
    assert len(both) > 150
    unlike = {}
    for kind in {*both, *known}:
        try:
            config = CONFIG_MAPPING[kind]()
        except Exception:
            continue  # one that can't be made without settings
        config.save_pretrained(tmp_path)
        try:
            found: str | None = look_at("x", Source(str(tmp_path))).architecture
        except Refused:
            found = None
        told = folder_model(tmp_path)
        if (told.backbone or bool(told.refusal)) and told.backbone != found:
            unlike[kind] = (told, found)
    assert unlike == {}


def test_a_folder_that_can_be_no_base_model_is_refused_beside_its_field(
    labelled: Project, offered: Path, admin: User, client_of: Callable[[User], Client], sent: list[Any]
) -> None:
    client = client_of(admin)

    def told(method: str, config: dict[str, Any], name: str = "config.json") -> str:
        (offered / "tiny" / name).write_text(json.dumps(config))
        page = client.post("/p/capitals/runs/start/", {"method": method, "base_model": "folder:tiny"})
        assert page.status_code == 400
        return " ".join(page.context["form"].errors["base_model"])

    t5 = {"model_type": "t5", "is_encoder_decoder": True}
    assert "folder:tiny can't be a base model. It is an encoder-decoder (t5). Choose" in told("bt", t5)
    answer = client.post("/p/capitals/settings/", settings_of(labelled, base_model="folder:tiny"))
    assert "encoder-decoder" in answer.content.decode()
    for method in ("oprm", "rgft", "haf"):
        untied = {**REWARD_MODEL, "tie_word_embeddings": False}
        assert "needs a language model's own head, and folder:tiny has none" in told(method, untied)
    (offered / "tiny" / "config.json").write_text('{"model_type": "bert"}')
    answer = client.post("/p/capitals/settings/", settings_of(labelled, causal_base_model="folder:tiny"))
    assert "folder:tiny is a text encoder: choose a causal language model" in answer.content.decode()
    (offered / "tiny" / "model.safetensors").rename(offered / "tiny" / "pytorch_model.bin")
    assert "weights are pickled" in told("bt", {"model_type": "bert"})
    adapters = {"peft_type": "LORA", "base_model_name_or_path": "/srv/models/x"}
    assert "does not name by a hub id" in told("bt", adapters, "adapter_config.json")
    (offered / "tiny" / "reward_config.json").write_text(
        '{"backbone": "causal", "base": {"name": "a local folder"}}'
    )
    assert "does not name by a hub id" in told("bt", adapters, "adapter_config.json")
    model_write(offered / "tiny" / "base")
    assert folder_model(offered / "tiny") == FolderModel("causal"), "a pack's own base is there"
    (offered / "tiny" / "reward_config.json").unlink()
    (offered / "tiny" / "adapter_config.json").write_text(
        json.dumps({**adapters, "base_model_name_or_path": "org/x"})
    )
    assert base_model_named("folder:tiny") == "folder:tiny"
    assert sent == []


def test_a_version_without_an_lm_head_starts_no_method_that_reads_one(
    labelled: Project, make_version: Make, sent: list[Any]
) -> None:
    version = make_version(labelled, 1)
    ModelVersion.objects.update(metrics={**version.metrics, "split": SPLIT})
    (version.path / "reward_config.json").write_text('{"backbone": "causal"}')
    config = {"model_type": "llama", "architectures": ["LlamaModel"], "tie_word_embeddings": False}
    (version.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunRefused, match="and version:oprm-1 has none"):
        run_config(labelled, "rgft", {"base_model": "version:oprm-1"})
    assert run_config(labelled, "bt", {"base_model": "version:oprm-1"})["tuning"] == "tuned"


def test_the_data_folder_is_never_offered(settings: Any, data_dir: Path, alpha: ModelVersion) -> None:
    for folder in (data_dir, data_dir / "runs", data_dir.parent, Path("models")):
        settings.BASE_MODEL_DIRS = [folder]
        assert [message.id for message in run_checks(tags=["caliper"])] == ["caliper.E031"]
        assert all(not name.startswith("folder:") for name in base_model_choices())
    settings.BASE_MODEL_DIRS = [data_dir.parent / "models"]
    assert run_checks(tags=["caliper"]) == []


# --- A version as a start ---


def test_a_projects_own_version_is_a_start(
    labelled: Project,
    make_version: Make,
    admin: User,
    client_of: Callable[[User], Client],
    sent: list[Any],
    settings: Any,
    tmp_path: Path,
) -> None:
    version = make_version(labelled, 3)
    ModelVersion.objects.update(metrics={**version.metrics, "split": SPLIT})
    (version.path / "reward_config.json").write_text('{"backbone": "encoder"}')
    client = client_of(admin)
    assert '<option value="version:oprm-3">' in client.get("/p/capitals/runs/").content.decode()
    # An encoder it is: HaF and LoRA are refused before a worker is asked.
    for misfit in ({"method": "haf"}, {"method": "oprm", "tuning": "lora"}):
        answer = client.post("/p/capitals/runs/start/", {**misfit, "base_model": "version:oprm-3"})
        assert "a text encoder" in answer.content.decode()
    folded = {"method": "oprm", "base_model": "version:oprm-3", "crossfit": "on"}
    refused = client.post("/p/capitals/runs/start/", folded).content.decode()
    assert "version:oprm-3 has seen labels" in refused
    client.post("/p/capitals/runs/start/", {"method": "oprm", "base_model": "version:oprm-3"})
    run = TrainingRun.objects.latest("pk")
    look = tmp_path / "look.py"
    look.write_text(
        "import os, pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "(folder / 'seen').write_text(f\"{(folder / 'base').resolve()} {os.environ['CALIPER_BASE_FOLDERS']}\")\n"
        "sys.exit(3)\n"
    )
    settings.TRAIN_COMMAND = [sys.executable, str(look)]
    runs.train(run.pk)
    assert (run.folder / "seen").read_text() == f'{version.path} ["{version.path}"]'
    assert not (run.folder / "base").is_symlink()
    config = json.loads((run.folder / "config.json").read_text())
    assert (config["base_model"], config["held_out_groups"]) == ("version:oprm-3", ["g1"])
    assert str(settings.DATA_DIR) not in json.dumps(config)


def test_a_version_that_can_be_no_start(labelled: Project, make_version: Make) -> None:
    version = make_version(labelled, 1)
    with pytest.raises(RunRefused, match="it did not hold out whole groups"):
        run_config(labelled, "oprm", {"base_model": "version:oprm-1"})
    ModelVersion.objects.update(metrics={"split": SPLIT})
    (version.path / "reward_config.json").unlink()
    with pytest.raises(RunRefused, match="files are gone"):
        run_config(labelled, "oprm", {"base_model": "version:oprm-1"})


def test_a_project_does_not_retrain_from_a_version(
    labelled: Project, admin: User, client_of: Callable[[User], Client]
) -> None:
    answer = client_of(admin).post(
        "/p/capitals/settings/", settings_of(labelled, base_model="version:oprm-1")
    )
    assert "a start for a single run" in answer.content.decode()


# --- Projects and versions of before ---


def test_a_stored_path_is_shown_nowhere_and_a_retrain_says_what_to_choose(
    labelled: Project,
    make_version: Make,
    alpha: ModelVersion,
    admin: User,
    client_of: Callable[[User], Client],
    sent: list[Any],
    data_dir: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = str(alpha.path)
    version = make_version(labelled, 1)
    TrainingRun.objects.filter(pk=version.run_id).update(
        config={**version.run.config, "base_model": path},
        error=f"OSError: [Errno 5] Input/output error: '{path}/model.safetensors'",
    )
    ModelVersion.objects.filter(pk=version.pk).update(
        metrics={**version.metrics, "config": {"base_model": path}}
    )
    (version.path / "model.safetensors").write_bytes(b"weights")
    (version.run.folder / "log.txt").write_text(
        f'  File "{path}/x.py", line 3\nOSError: {data_dir} and/or {path}\n'
    )
    labelled.base_model = path
    labelled.retrain_after_labels = 5
    labelled.save()
    client = client_of(admin)
    for name, words in (
        ("/p/capitals/settings/", "The folder set here may not be used any more."),
        ("/p/capitals/runs/", "a local folder"),
        (f"/p/capitals/runs/{version.run_id}/", "a local folder"),
        (f"/p/capitals/runs/{version.run_id}/log.txt", "…/x.py"),
        ("/p/capitals/", ""),
    ):
        page: Any = client.get(name)
        assert page.status_code == 200, name
        text = b"".join(page.streaming_content).decode() if page.streaming else page.content.decode()
        assert words in text, name
        assert path not in text, name
        assert str(data_dir) not in text, name
    answer = client.post("/p/capitals/runs/start/", {"method": "oprm"})
    assert answer.status_code == 400
    assert WHAT_TO_NAME in answer.content.decode().replace("&#x27;", "'")
    assert path not in answer.content.decode()
    assert retrain_due(labelled) == []
    assert sent == []


def test_a_version_of_before_is_exported_without_its_path(
    labelled: Project, make_version: Make, researcher: User, data_dir: Path
) -> None:
    version = make_version(labelled, 1)
    path = f"{data_dir}/starter-lm/capitals"
    TrainingRun.objects.filter(pk=version.run_id).update(config={**version.run.config, "base_model": path})
    ModelVersion.objects.update(metrics={**version.metrics, "config": {"base_model": path, "seed": 4}})
    artifact_write(version.path, base_model=path)
    export = ModelExport.objects.create(version=version, format="caliper", created_by=researcher)
    exports.export_model(export.pk)
    export.refresh_from_db()
    assert (export.state, export.error) == (State.DONE, "")
    with zipfile.ZipFile(export.archive) as zipped:
        files = {Path(name).name: zipped.read(name).decode() for name in zipped.namelist()}
    assert all(str(data_dir) not in text for text in files.values())
    assert json.loads(files["reward_config.json"])["base_model"] == "a local folder"
    assert json.loads(files["metrics.json"])["config"] == {"base_model": "a local folder", "seed": 4}
    assert json.loads((version.path / "reward_config.json").read_text())["base_model"] == path, (
        "files stay as saved"
    )


def artifact_write(folder: Path, **fields: Any) -> None:
    import hashlib

    (folder / "model.safetensors").write_bytes(b"weights")
    files = {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    config = {"format": 1, "method": "oprm", "kind": "ordinal", "tie": None, "temperature": 1.0}
    (folder / "reward_config.json").write_text(
        json.dumps({**config, "files": files, "digest": digest, **fields})
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Missing: /data/runs/3/model/x.json. Was it moved?", "Missing: …/x.json. Was it moved?"),
        ('File "/usr/lib/python3/site.py", line 3', 'File "…/site.py", line 3'),
        ("'/home/me/a' and (~/b/c)", "'…/a' and (…/c)"),
        ("https://huggingface.co/org/name and/or 3/4 of org/name", None),
        ("date 1/2/2026, a/b/c, ./d/e", None),
    ],
)
def test_paths_are_taken_out_of_texts(text: str, shown: str | None) -> None:
    assert without_paths(text) == (text if shown is None else shown)


# --- A version whose files are gone ---


def test_a_version_whose_files_are_gone_says_so_and_cannot_serve(
    labelled: Project, make_version: Make, admin: User, client_of: Callable[[User], Client]
) -> None:
    version = make_version(labelled, 1)
    (version.path / "reward_config.json").unlink()
    client = client_of(admin)
    page = client.get(f"/p/capitals/runs/{version.run_id}/").content.decode()
    assert "The files of v1 are gone from the disk" in page
    assert "Let v1 serve" not in page
    with pytest.raises(VersionRefused, match=r"oprm v1 can't serve: its files are gone .* train again"):
        version_promote(version=version)
    answer = client.post(reverse("training:version-promote", args=["capitals", version.pk]), follow=True)
    assert "files are gone from the disk" in answer.content.decode()
    assert not ModelVersion.objects.filter(is_serving=True).exists()


def test_a_run_that_started_afresh_says_so(
    labelled: Project, make_run: Make, admin: User, client_of: Callable[[User], Client]
) -> None:
    run = make_run(labelled)
    run.folder.mkdir(parents=True)
    lines = [
        {"time": "2026-01-01T00:00:00+00:00", "phase": "training", "step": step, "total": 9000, "loss": 1.0}
        | {"message": "started afresh from step 0: its checkpoint is damaged" if step == 4001 else None}
        for step in range(1, 9001)
    ]
    (run.folder / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = client_of(admin).get(f"/p/capitals/runs/{run.pk}/").content.decode()
    assert "This run was interrupted and started afresh from step 0: its checkpoint is damaged." in page
