"""`manage.py reward_server`: become the reward server of a project, with a token made for it."""

import os
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from webapp.accounts.models import ApiToken
from webapp.accounts.services import Refused
from webapp.api.tokens import token_make, token_revoke
from webapp.corpus.audit import COMMAND
from webapp.corpus.models import Membership, Project

NAME = "reward server of this machine"
NICENESS = 5  # labelling goes first on a machine that serves pages as well
# What it gets of this process's environment: it reads models, and has no business with Caliper's own secrets.
PASSED = {"PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "CALIPER_CACHE_DIR", "CALIPER_SERVE_TOKENS"}
PASSED_BEGINNINGS = ("LC_", "LD_", "PYTHON", "XDG_", "OMP_", "CUDA_", "NVIDIA_", "HF_", "TOKENIZERS_")


class Command(BaseCommand):
    help = (
        "Start a reward server on this machine for what a project serves. It is one of the project's admins' programs: "
        "each start makes a token with the scope score, and revokes the one before."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--port", type=int, default=8100)
        parser.add_argument(
            "--caliper", default="http://127.0.0.1:8000", metavar="URL", help="where Caliper answers"
        )
        parser.add_argument(
            "--if-there", action="store_true", help="without such a project, end without a word"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        slug = options["project"]
        project = Project.objects.filter(slug=slug, archived_at=None).first()
        admin = (
            Membership.objects.filter(project=project, role=Membership.Role.ADMIN, user__is_active=True)
            .order_by("pk")
            .first()
        )
        if project is None or admin is None:
            if options["if_there"]:
                return
            raise CommandError(f"no project {slug} with an admin is open; name another one with --project")
        try:
            for older in admin.user.api_tokens.live().filter(name=NAME, project_slug=slug):
                token_revoke(token=older, actor=COMMAND)
            scopes = [ApiToken.Scope.SCORE]
            _, secret = token_make(user=admin.user, name=NAME, scopes=scopes, project=project, actor=COMMAND)
        except Refused as refusal:
            raise CommandError(str(refusal)) from refusal
        address = f"{options['caliper']}/p/{slug}"
        command = [sys.executable, "-m", "workers.rewards.serve", "--project", address]
        passed = {
            name: value
            for name, value in os.environ.items()
            if name in PASSED or name.startswith(PASSED_BEGINNINGS)
        }
        # Threads that wait for each other sleep, since pages want the cores as well.
        own = {
            "CALIPER_TOKEN": secret,
            "CALIPER_DATA_DIR": str(settings.DATA_DIR),
            "OMP_WAIT_POLICY": "passive",
        }
        os.nice(NICENESS)
        os.execve(sys.executable, [*command, "--port", str(options["port"])], passed | own)  # noqa: S606
