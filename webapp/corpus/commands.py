"""What the management commands of several apps share."""

from django.core.management.base import CommandError

from webapp.corpus.access import ProjectArchived
from webapp.corpus.models import Project


def project_named(slug: str, *, writes: bool = True) -> Project:
    """The project of --project. Raises CommandError, which names the projects there are, or says it is archived."""
    project = Project.objects.filter(slug=slug).first()
    if project is None:
        known = ", ".join(Project.objects.values_list("slug", flat=True)) or "none yet"
        raise CommandError(f"There is no project “{slug}”. Projects: {known}.")
    if writes and project.archived_at is not None:
        raise CommandError(str(ProjectArchived(project)))
    return project
