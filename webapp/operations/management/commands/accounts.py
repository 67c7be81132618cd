"""`manage.py accounts ACTION`: what the operator's pages do, for whoever has a shell."""

import os
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from webapp.accounts import services
from webapp.accounts.models import ApiToken, User
from webapp.api.tokens import token_make, token_revoke
from webapp.corpus.audit import COMMAND
from webapp.corpus.models import Project


def default_origin() -> str:
    """Where people reach this installation, as far as the settings tell."""
    if settings.CSRF_TRUSTED_ORIGINS:
        return str(settings.CSRF_TRUSTED_ORIGINS[0])
    host = next((host for host in settings.ALLOWED_HOSTS if "*" not in host and host[:1] != "."), "127.0.0.1")
    return f"https://{host}" if settings.BEHIND_TLS else f"http://{host}:{os.environ.get('PORT', '8000')}"


class Command(BaseCommand):
    help = (
        "List the accounts of this installation, let somebody in no more or again, make a link for a new password or a "
        "token for a program."
    )

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
        token = actions.add_parser("token", help="make an API token, and print it and nothing else")
        token.add_argument("username")
        scopes = token.add_argument("--scopes", nargs="+", choices=ApiToken.Scope.values, required=True)
        scopes.help = "what it may do"
        token.add_argument(
            "--days", type=int, default=None, help="how long it lives; without: until it is revoked"
        )
        token.add_argument("--project", default=None, metavar="SLUG", help="in this project alone")
        token.add_argument("--replace", action="store_true", help="revoke those of the same name first")
        token.add_argument(
            "--name", default="made by manage.py", help="what it is called on the page of tokens"
        )

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
        if options["action"] == "token":
            return self.token(user, options)
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

    def token(self, user: User, options: dict[str, Any]) -> str:
        """The secret, which goes to a program's environment or a file and nowhere else."""
        name, days, slug = options["name"][:80], options["days"], options["project"]
        if days is not None and not 1 <= days <= 3650:
            raise CommandError("--days is a number from 1 to 3650; leave it out for a token without an end")
        project = Project.objects.for_user(user).filter(slug=slug).first() if slug else None
        if slug and project is None:
            raise CommandError(
                f"{user.username} is in no project {slug}; `manage.py accounts list` names theirs"
            )
        scopes: list[str] = options["scopes"]
        with transaction.atomic():
            for older in user.api_tokens.live().filter(name=name) if options["replace"] else ():
                token_revoke(token=older, actor=COMMAND)
            return token_make(user=user, name=name, scopes=scopes, days=days, project=project, actor=COMMAND)[
                1
            ]

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
