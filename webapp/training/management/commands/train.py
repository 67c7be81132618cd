"""manage.py train: queue a training, follow it with --wait, or do it here with --inline."""

import argparse
import contextlib
import signal
import time
from typing import Any

import redis
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.module_loading import import_string

from webapp import heartbeat
from webapp.corpus.base_models import WHAT_TO_NAME
from webapp.corpus.commands import project_named
from webapp.corpus.endpoints import endpoint_named
from webapp.corpus.options import (
    CHOICES,
    FOLDS,
    FURTHER,
    METHODS_OF,
    NAMED,
    WHOLE,
    Method,
    RunRefused,
    Tuning,
    further_settings,
)
from webapp.jobs import State
from webapp.training.estimates import judge_estimate
from webapp.training.models import TrainingRun
from webapp.training.services import run_start

POLL_SECONDS = 0.5
# A worker that has just been started needs some seconds until its first sign of life.
NO_WORKER_AFTER_SECONDS = 20.0


_GENERATIVE = {
    "samples": "votes a response; default 8",
    "sampling_temperature": "of the votes; default 0.5",
    "max_new_tokens": "longest judgement; default 1024",
    "kl": "GRPO's weight of the KL term; default 0.01",
    "group": "GRPO's judgements a prompt; default 4",
    "grpo_steps": "default: once over the prompts, 900 at most",
    "cost_limit": "of an endpoint, in the currency of its prices: there the run stops and can be resumed",
    "token_limit": "of an endpoint, prompts and answers together: there the run stops and can be resumed",
}


def _only(name: str) -> str:
    methods = METHODS_OF.get(name)
    return f"{' and '.join(methods)} only; " if methods else ""


class Command(BaseCommand):
    help = "Train a reward model on a project's labels of now."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--method", required=True, choices=Method.values)
        parser.add_argument("--base-model", help=f"default: the project's. {WHAT_TO_NAME}")
        parser.add_argument("--tuning", choices=Tuning.values)
        parser.add_argument("--epochs", type=int)
        parser.add_argument("--seed", type=int)
        parser.add_argument("--learning-rate", type=float)
        parser.add_argument("--max-length", type=int)
        parser.add_argument("--holdout", type=float)
        parser.add_argument(
            "--hardening", type=float, help="share of responses that get a copy with injected text"
        )
        parser.add_argument(
            "--patience", type=int, help="evaluations without progress before it stops; 0: never"
        )
        parser.add_argument(
            "--crossfit",
            type=int,
            choices=(0, FOLDS),
            help=f"{FOLDS}: predict every judged response by a model that has not seen its labels (tuned: up to five "
            "times as long); default: for frozen heads",
        )
        parser.add_argument(
            "--reliability",
            action=argparse.BooleanOptionalAction,
            help="weigh annotators by an estimated error rate; default: for bt, clf and haf with a scalar head",
        )
        for name in (name for name in NAMED if name in CHOICES):
            words = CHOICES[name]
            only = _only(name)
            parser.add_argument(
                f"--{name.replace('_', '-')}", choices=words, help=f"{only}default {words[0]}"
            )
        for name, meaning in _GENERATIVE.items():
            parser.add_argument(
                f"--{name.replace('_', '-')}",
                type=int if name in WHOLE else float,
                metavar="N",
                help=f"{_only(name)}{meaning}",
            )
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help=f"a further setting, VALUE as JSON; may be given again; keys: {', '.join(FURTHER)}",
        )
        how = parser.add_mutually_exclusive_group()
        how.add_argument(
            "--wait", action="store_true", help="follow the run; exit non-zero unless it ends well"
        )
        how.add_argument("--inline", action="store_true", help="train here instead of in a worker, and wait")

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        try:
            run = run_start(
                project=project,
                method=options["method"],
                trigger=TrainingRun.Trigger.COMMAND,
                config={name: options[name] for name in NAMED if options[name] is not None}
                | further_settings(options["set"]),
                send=not options["inline"],
            )
        except RunRefused as refusal:
            raise CommandError(str(refusal)) from None
        self.stdout.write(
            f"run {run.pk}: {run.get_method_display()} on {project.name}, {run.get_state_display()}"
        )
        if (endpoint := endpoint_named(run.config["base_model"])) is not None:
            self.stdout.write(
                f"  {endpoint.name} ({endpoint.model}), about {judge_estimate(project, endpoint, run.config)}"
            )
        if options["inline"]:
            # By name: the web half doesn't import the workers' half (this is a worker, for once).
            # A polite kill is a Ctrl-C: it leaves a checkpoint and no child.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            try:
                import_string("workers.runs.train")(run.pk)
            except KeyboardInterrupt:
                raise CommandError(f"Run {run.pk} was cancelled; Resume on its page goes on.") from None
            run.refresh_from_db()
            if run.state == State.RUNNING:
                raise CommandError(f"Run {run.pk} is in another worker's hands.")
            self._report(run)
        elif options["wait"]:
            try:
                self._wait(run)
            except KeyboardInterrupt:
                raise CommandError(f"Run {run.pk} goes on without this command.") from None
            self._report(run)

    def _wait(self, run: TrainingRun) -> None:
        """Until the run has ended; its progress goes to stdout, a line whenever the phase or a tenth is new."""
        started, shown = time.monotonic(), ""
        while run.is_active:
            time.sleep(POLL_SECONDS)
            run.refresh_from_db()
            percent = run.percent
            line = run.phase + ("" if percent is None else f" {percent // 10 * 10} %")
            if run.state == State.RUNNING and line and line != shown:
                shown = line
                self.stdout.write(f"  {line}")
                self.stdout.flush()
            if run.state == State.QUEUED and time.monotonic() - started > NO_WORKER_AFTER_SECONDS:
                self._check_listening(run)
                started = time.monotonic()

    def _check_listening(self, run: TrainingRun) -> None:
        queue, listening = run.queue, list[str]()
        with contextlib.suppress(redis.RedisError), heartbeat.redis_client() as client:
            listening = heartbeat.readers(client, (queue,))[queue]
        if not listening:
            raise CommandError(
                f"No worker is listening to the queue “{queue}”. Run {run.pk} stays queued and starts when one does: "
                f"start `celery -A workers.tasks worker -Q {queue}` (or `make run`), or train here with --inline."
            )

    def _report(self, run: TrainingRun) -> None:
        """The end of the run in words; CommandError unless it ended well."""
        if run.state != State.DONE:
            raise CommandError(f"Run {run.pk} {run.get_state_display()}. {run.error}".strip())
        if run.same_as is not None:
            self.stdout.write(f"Not trained again: same labels and settings as run {run.same_as.pk}.")
            return
        version = run.version
        serving = "It serves now." if version.is_serving else "It does not serve."
        self.stdout.write(f"{run.get_method_display()} v{version.number}. {version.gate_reason} {serving}")
