"""What the management commands of several apps share."""

from django.core.management.base import CommandError

from webapp.corpus.models import Project


def project_named(slug: str) -> Project:
    """The project of --project. Raises CommandError, which names the projects there are."""
    project = Project.objects.filter(slug=slug).first()
    if project is None:
        known = ", ".join(Project.objects.values_list("slug", flat=True)) or "none yet"
        raise CommandError(f"There is no project “{slug}”. Projects: {known}.")
    return project
