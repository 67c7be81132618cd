"""The reasons that a project offers: what may be one, the settings page, the audit log."""

from collections.abc import Callable

import pytest
from django.core.exceptions import ValidationError
from django.test import Client

from tests.corpus.test_pages import settings_of
from webapp.accounts.models import User
from webapp.corpus.models import AuditEntry, Project
from webapp.corpus.reason_tags import TagRefused, check_tags

SETTINGS = "/p/capitals/settings/"


@pytest.mark.parametrize(
    "tags",
    [
        [],
        ["false", "too long"],
        ["x" * 40],
        ["می\u200cخواهم", "👩\u200d🔬", "מנומס", "a:b", "<script>"],
        [str(number) for number in range(10)],
    ],
)
def test_tags_that_may_be(tags: list[str]) -> None:
    assert check_tags(tags) == tags


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([str(number) for number in range(11)], "11 reasons, of 10 allowed"),
        (["x" * 41], "has 41 characters, of 40 allowed"),
        (["False", "fALSE"], "“fALSE” stands here beside “False”"),
        (["straße", "STRASSE"], "“STRASSE”"),
        (["ﬁne", "fine"], "“fine”"),
        (["false", "false"], "“false” stands here twice"),
        (["false", "fal\u200dse"], "leave one of the two out"),
        (["fal\u202ese"], "“fal�se” holds the invisible character U+202E"),
        (["a\x00b"], "U+0000"),
        (["a\u2028b"], "U+2028"),
        (["a\ud83db"], "U+D83D"),
        (["\u200d"], "no visible character"),
        ([""], "no visible character"),
        ([7], "7 is no text"),
    ],
)
def test_tags_that_are_refused(tags: list[str], message: str) -> None:
    with pytest.raises(TagRefused) as refused:
        check_tags(tags)
    assert message in str(refused.value)
    str(refused.value).encode()


@pytest.mark.django_db
def test_settings_are_saved_and_audited(
    project: Project, admin: User, client_of: Callable[[User], Client]
) -> None:
    client = client_of(admin)
    page = client.get(SETTINGS).content.decode()
    assert "Whoever hosts them sees who looks" in page
    assert "Ring: each response with so many neighbours" in page
    changes = {
        "reason_tags": "false\r\n\r\n  too long \r\nمهذب",
        "load_images": "on",
        "pairing": "ring",
        "pairing_limit": 3,
    }
    assert client.post(SETTINGS, settings_of(project, **changes)).status_code == 302
    project.refresh_from_db()
    assert project.reason_tags == ["false", "too long", "مهذب"]
    assert (project.load_images, project.pairing, project.pairing_limit) == (True, "ring", 3)
    detail = AuditEntry.objects.get(action="settings-changed").detail
    assert set(detail) == {"reason_tags", "load_images", "pairing", "pairing_limit"}
    assert detail["reason_tags"] == {"from": [], "to": ["false", "too long", "مهذب"]}
    page = client.get(SETTINGS).content.decode()
    assert "false\ntoo long\nمهذب</textarea>" in page
    client.post(SETTINGS, settings_of(project, reason_tags=""))
    project.refresh_from_db()
    assert (project.reason_tags, project.load_images) == ([], False)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reason_tags": "false\nFALSE"}, "“FALSE” stands here beside “false”"),
        ({"reason_tags": "one\u2028two"}, "U+2028"),
        ({"pairing": "every"}, "every is not one of the available choices"),
        ({"pairing_limit": 0}, "greater than or equal to 1"),
        ({"pairing_limit": 1001}, "less than or equal to 1000"),
    ],
)
def test_settings_that_are_refused(
    project: Project,
    admin: User,
    client_of: Callable[[User], Client],
    changes: dict[str, object],
    message: str,
) -> None:
    answer = client_of(admin).post(SETTINGS, settings_of(project, **changes))
    assert answer.status_code == 422
    assert message in answer.content.decode()
    before = Project.objects.get(pk=project.pk)
    assert (before.reason_tags, before.pairing, before.pairing_limit) == ([], "all", 10)


@pytest.mark.django_db
def test_the_project_itself_refuses_bad_tags(project: Project) -> None:
    project.reason_tags = ["x"] * 11
    with pytest.raises(ValidationError, match="stands here twice"):
        project.full_clean()
