"""`manage.py accounts ACTION`: what the operator's pages do, for whoever has a shell."""

import os
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from webapp.accounts import services
from webapp.accounts.models import User


def default_origin() -> str:
    """Where people reach this installation, as far as the settings tell."""
    if settings.CSRF_TRUSTED_ORIGINS:
        return str(settings.CSRF_TRUSTED_ORIGINS[0])
    host = next((host for host in settings.ALLOWED_HOSTS if "*" not in host and host[:1] != "."), "127.0.0.1")
    return f"https://{host}" if settings.BEHIND_TLS else f"http://{host}:{os.environ.get('PORT', '8000')}"


class Command(BaseCommand):
    help = "List the accounts of this installation, let somebody in no more or again, make a link for a new password."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        listing = actions.add_parser("list", help="name, state, last sign-in and projects of each account")
        listing.add_argument("search", nargs="?", default="", help="only those with these words in a name")
        for name, text in (
            ("deactivate", "let somebody in no more and sign them out everywhere; labels and roles stay"),
            ("reactivate", "let somebody in again"),
            ("remove-second-factor", "for somebody who lost telephone and recovery codes"),
            ("reset-link", "a link, for a day and usable once, on which somebody sets a new password"),
        ):
            action = actions.add_parser(name, help=text)
            action.add_argument("username")
            if name == "reset-link":
                action.add_argument("--origin", default=None, help="where people reach Caliper: https://...")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["action"] == "list":
            return self.list(options["search"])
        user = User.objects.filter(username=options["username"]).first()
        if user is None:
            raise CommandError(
                f"no account is named {options['username']}; `manage.py accounts list` names all"
            )
        try:
            self.stdout.write(self.act(user, options))
        except services.Refused as refusal:
            raise CommandError(str(refusal)) from refusal

    def act(self, user: User, options: dict[str, Any]) -> str:
        if options["action"] == "deactivate":
            done = services.user_deactivate(user=user)
            return (
                f"{user.username} can't sign in any more"
                if done
                else f"{user.username} was not active before"
            )
        if options["action"] == "reactivate":
            done = services.user_reactivate(user=user)
            return f"{user.username} can sign in again" if done else f"{user.username} was active before"
        if options["action"] == "remove-second-factor":
            done = services.second_factor_remove(user=user)
            return f"{user.username} {'signs in with the password alone now' if done else 'had no second factor'}"
        origin = (options["origin"] or default_origin()).rstrip("/")
        return f"{origin}{services.reset_path(user=user)}"

    def list(self, search: str) -> None:
        found = User.objects.people().search(search).order_by("username")
        for user in found.prefetch_related("memberships__project"):
            projects = ",".join(sorted({one.project.slug for one in user.memberships.all()}))
            words = [
                user.username,
                "active" if user.is_active else "deactivated",
                "superuser" if user.is_superuser else "staff" if user.is_staff else "person",
                f"{user.last_login:%Y-%m-%d}" if user.last_login else "never",
                projects or "-",
            ]
            self.stdout.write("\t".join(words))
