"""Each project has a salt of its own, which decides for good what its trainings hold out."""

from collections.abc import Iterator

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.corpus.services import project_copy
from webapp.ratings.searching import index_install
from webapp.ratings.tallies import triggers_install

BEFORE, AFTER = [("corpus", "0006_archive_and_undo")], [("corpus", "0007_split_salt")]


def test_a_new_project_and_a_copy_have_salts_of_their_own(project: Project, admin: User) -> None:
    copy = project_copy(project=project, name="Copy", slug="copy", people=False, actor=admin)
    other = Project.objects.create(slug="other", name="Other")
    salts = [one.split_salt for one in (project, copy, other)]
    assert len(set(salts)) == 3
    assert all(len(salt) == 32 for salt in salts)
    project.save()
    assert Project.objects.get(pk=project.pk).split_salt == salts[0]


@pytest.fixture
def back(transactional_db: None) -> Iterator[None]:
    """All migrations again, whatever happened."""
    yield
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
    triggers_install()
    index_install()


@pytest.mark.slow
def test_projects_of_older_versions_get_one_each(back: None, monkeypatch: pytest.MonkeyPatch) -> None:
    MigrationExecutor(connection).migrate(BEFORE)
    old = MigrationExecutor(connection).loader.project_state(BEFORE).apps.get_model("corpus", "Project")
    for number in range(5):
        old.objects.create(slug=f"p{number}", name=f"P {number}")
    migration = MigrationExecutor(connection).loader.get_migration("corpus", "0007_split_salt")
    monkeypatch.setattr(f"{migration.__module__}.BATCH", 2)
    MigrationExecutor(connection).migrate(AFTER)
    salts = list(Project.objects.values_list("split_salt", flat=True))
    assert len(set(salts)) == 5
    assert all(len(salt) == 32 for salt in salts)
