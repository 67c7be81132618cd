"""Files in no known format: somebody says which column is what, on the page or by command."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus.models import Import, Pair, Project, Prompt, Response
from webapp.importing.services import import_run
from webapp.labels.models import Judgement, QualityLabel

SHEET = (
    "question;answer_1;answer_2;better\nq1;x;y;1\nq2; x, y ;z;answer_2\nq3;x;y;tie\nq4;x;y;\nq5;x;y;banana\n"
)


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What would have gone to the broker."""
    keys: list[int] = []
    monkeypatch.setattr("webapp.jobs.enqueue", lambda task, pk, queue: keys.append(pk))
    return keys


@pytest.fixture
def client(client_of: Callable[[User], Client], admin: User) -> Client:
    return client_of(admin)


def upload(client: Client, text: str, name: str = "sheet.csv") -> Import:
    client.post(
        "/p/capitals/imports/", {"uploads": [SimpleUploadedFile(name, text.encode())], "format": "auto"}
    )
    return run(Import.objects.latest("pk"))


def run(row: Import) -> Import:
    row = Import.objects.get(pk=row.pk)
    import_run(row)
    row.refresh_from_db()
    return row


def answer(client: Client, row: Import, roles: list[str], **more: Any) -> Any:
    given = {f"role-{place}": role for place, role in enumerate(roles)}
    return client.post(f"/p/capitals/imports/{row.pk}/mapping/", given | more)


def verdicts() -> dict[str, str]:
    return {
        judgement.pair.response_a.prompt.last_text: judgement.verdict
        for judgement in Judgement.objects.select_related("pair__response_a__prompt")
    }


def test_a_spreadsheet_is_mapped_previewed_and_imported(client: Client, project: Project) -> None:
    row = upload(client, SHEET)
    page = client.get(f"/p/capitals/imports/{row.pk}/").content.decode()
    assert f"/p/capitals/imports/{row.pk}/mapping/" in page
    mapping = f"/p/capitals/imports/{row.pk}/mapping/"
    form = client.get(mapping).content.decode()
    for guessed in (
        '<option value="prompt" selected>',
        '<option value="a" selected>',
        '<option value="winner" selected>',
    ):
        assert guessed in form
    assert "banana" in form  # a value that nobody has explained yet
    answered = client.get(mapping).context["form"]
    values = {f"meaning-{v['place']}": v["meaning"] or "skip" for v in answered.winners()["values"]}
    assert (
        answer(
            client, row, ["prompt", "a", "b", "winner"], asked=answered.winners()["asked"], **values
        ).status_code
        == 302
    )
    run(row)
    assert not Prompt.objects.exists()
    preview = client.get(f"/p/capitals/imports/{row.pk}/").content.decode()
    assert "This is a preview" in preview
    client.post(f"/p/capitals/imports/{row.pk}/confirm/")
    run(Import.objects.get(pk=row.pk))
    assert verdicts() == {"q1": "a", "q2": "b", "q3": "tie", "q5": "skip"}
    assert Pair.objects.count() == 5
    assert Response.objects.filter(text=" x, y ").exists()
    assert Pair.objects.get(response_a__prompt__messages__0__content="q4").judged == 0


def test_the_next_file_with_these_columns_is_offered_the_mapping(client: Client, project: Project) -> None:
    text = "ask,one,two\nq1,x,y\n"
    first = upload(client, text)
    assert answer(client, first, ["prompt", "a", "b"]).status_code == 302
    second = upload(client, "ask,one,two\nq2,v,w\n")
    page = client.get(f"/p/capitals/imports/{second.pk}/mapping/").content.decode()
    assert "its mapping is filled in" in page
    assert page.count(" selected>") >= 3


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        (["", "", "", ""], "Say which column is the prompt"),
        (["prompt", "", "", ""], "Say which columns are the responses"),
        (["prompt", "a", "", ""], "as well"),
        (["prompt", "prompt", "a", "b"], "Choose one of the two"),
    ],
)
def test_a_mapping_that_cannot_be_says_why(
    client: Client, project: Project, sent: list[int], roles: list[str], said: str
) -> None:
    row = upload(client, SHEET)
    sent.clear()
    refused = answer(client, row, roles)
    assert refused.status_code == 400
    assert said in refused.content.decode()
    assert not sent


def test_the_command_maps_too(project: Project, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(SHEET)
    with pytest.raises(CommandError, match="--map prompt=question"):
        call_command("import_data", str(tmp_path / "s.csv"), project="capitals")
    out = StringIO()
    maps = ["prompt=question", "a=answer_1", "b=answer_2", "winner=better", "winner.banana=both_bad"]
    call_command("import_data", str(tmp_path / "s.csv"), project="capitals", map=maps, stdout=out)
    assert verdicts() == {"q1": "a", "q2": "b", "q3": "tie", "q5": "both_bad"}
    assert Import.objects.get().mapping["roles"]["question"] == "prompt"
    for bad in (["prompt=nosuch"], ["nosuch=question"], ["winner.1=perhaps"]):
        with pytest.raises(CommandError, match="--map"):
            call_command("import_data", str(tmp_path / "s.csv"), project="capitals", map=bad)


def rated(tmp_path: Path, **options: Any) -> None:
    path = tmp_path / "r.csv"
    path.write_text(
        'question,answer_1,answer_2,score_1,score_2,note\nq1,x,y,5,2,hm\nq2,x,y,"3,5",3,\nq3,x,y,4,4,\n'
    )
    maps = ["prompt=question", "a=answer_1", "b=answer_2", "rating_a=score_1", "rating_b=score_2"]
    maps += [f"{name}={value}" for name, value in options.items()]
    call_command("import_data", str(path), project="capitals", map=maps, stdout=StringIO())


def test_ratings_become_pairs_by_difference(project: Project, tmp_path: Path) -> None:
    rated(tmp_path, ratings="pairs", difference="1")
    assert verdicts() == {"q1": "a", "q3": "tie"}
    assert not QualityLabel.objects.exists()
    assert Import.objects.get().report["unused"] == {"note": 1}


def test_ratings_become_levels_by_cut_points(project: Project, tmp_path: Path) -> None:
    rated(tmp_path, ratings="levels", bad_to="2", normal_to="3.5")
    levels = QualityLabel.objects.values_list(
        "response__prompt__messages__0__content", "response__text", "level"
    )
    assert set(levels) == {
        ("q1", "x", "good"), ("q1", "y", "bad"), ("q2", "x", "normal"), ("q2", "y", "normal"),
        ("q3", "x", "good"), ("q3", "y", "good"),
    }  # fmt: skip
    assert not Judgement.objects.exists()


def test_lists_conversations_and_people(project: Project, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}, {"from": "human", "value": "r"}]
    rows = [
        {"sys": "Be terse.", "chat": turns, "outs": ["x", "y", "z"], "who": "ann", "best": 2},
        {"sys": "Be terse.", "chat": turns, "outs": ["x", "y", "z"], "who": "bob", "best": None},
    ]
    path = tmp_path / "l.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    maps = ["system=sys", "history=chat", "response=outs", "annotator=who", "winner=best", "winner.2=r2"]
    call_command("import_data", str(path), project="capitals", map=maps, stdout=StringIO())
    prompt = Prompt.objects.get()
    assert [turn["role"] for turn in prompt.messages] == ["system", "user", "assistant", "user"]
    assert sorted(prompt.responses.values_list("text", flat=True)) == ["x", "y", "z"]
    won = [
        (j.pair.response_a.text if j.verdict == "a" else j.pair.response_b.text)
        for j in Judgement.objects.all()
    ]
    assert won == ["y", "y"]


def test_a_zip_is_mapped_as_well(client: Client, project: Project, tmp_path: Path) -> None:
    import io
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("in/a.csv", "ask,one,two\nq1,x,y\n")
        archive.writestr("in/b.csv", "ask,one,two\nq2,x,y\n")
    file = SimpleUploadedFile("both.zip", packed.getvalue())
    client.post("/p/capitals/imports/", {"uploads": [file], "format": "auto"})
    row = run(Import.objects.get())
    assert answer(client, row, ["prompt", "a", "b"]).status_code == 302
    run(row)
    client.post(f"/p/capitals/imports/{row.pk}/confirm/")
    run(Import.objects.get(pk=row.pk))
    assert Pair.objects.count() == 2
