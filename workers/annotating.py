"""A round of questions to a machine annotator, from the queued row to stored judgements. Called by the task.

A child process asks (workers.rewards.annotate), as trainings are done by one: it alone has the endpoint's key. What it
was answered is stored here, also of a round that is stopped or runs out of its budget.
"""

import json
import shutil
from collections.abc import Callable
from typing import Any

from django.conf import settings

from webapp import life
from webapp.corpus.models import Pair
from webapp.jobs import JobFailed, State, carried, patiently
from webapp.labels.machine_models import MachineJob
from webapp.labels.machines import MachineRefused, Said, answer_store, endpoint_of, pairs_choose
from workers.child import explained_with_disk, log_tail, never, supervise_job


def ask_machine(pk: int, *, stopping: Callable[[], bool] = never) -> None:
    """Claim the job and carry it to its end; leaves at once if it isn't there to be claimed, or waits for another one.
    Never raises.
    """
    jobs = MachineJob.objects.select_related("machine__project", "machine__user", "project")
    job = jobs.filter(pk=pk).first()
    if job is not None and (job.project.archived_at is not None or job.machine.withdrawn_at is not None):
        job.request_cancel()
    if job is None or job.waits_for is not None or not job.claim():
        return
    with carried(job, explain=explained_with_disk), life.alive(job):
        _ask(job, stopping)
    if (waiting := MachineJob.objects.filter(state=State.QUEUED).order_by("queued_at").first()) is not None:
        waiting.enqueue()


def _ask(job: MachineJob, stopping: Callable[[], bool]) -> None:
    try:
        endpoint = endpoint_of(job.machine)
    except MachineRefused as refusal:
        raise JobFailed(str(refusal)) from None
    folder = job.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "pairs.jsonl").exists():
        _write_questions(job)
    project = job.project
    ask = {
        "endpoint": job.machine.endpoint, "guidelines": project.guidelines, "bad_max": project.bad_to,
        "normal_max": project.normal_to, "seed": job.pk, "cost_limit": job.cost_limit, "token_limit": job.token_limit,
    }  # fmt: skip
    (folder / "ask.json").write_text(json.dumps(ask), encoding="utf-8")
    (folder / "log.txt").unlink(missing_ok=True)  # an earlier go's refusal is not this one's
    try:
        status = supervise_job(
            job, [*settings.ANNOTATE_COMMAND, str(folder)], folder=folder, stopping=stopping,
            endpoint=job.machine.endpoint,
            also=lambda: {"usage": _usage(job) | {"currency": endpoint.currency}},
        )  # fmt: skip
    finally:
        left = patiently(lambda: _store(job))
        usage = _usage(job) | {"currency": endpoint.currency, "unanswered": left}
        MachineJob.objects.filter(pk=job.pk).update(usage=usage)
    if status != 0:
        lines = log_tail(folder, 12)
        refused = [line.removeprefix("refused: ") for line in lines if line.startswith("refused: ")]
        raise JobFailed(
            refused[-1] if refused else f"Asking ended with status {status}.\n" + "\n".join(lines)
        )
    job.finish()
    shutil.rmtree(folder, ignore_errors=True)


def _write_questions(job: MachineJob) -> None:
    """JOB_DIR/pairs.jsonl with the drawn pairs, and how they were drawn in chosen.json; whole or not there."""
    chosen = pairs_choose(job)
    (job.folder / "chosen.json").write_text(
        json.dumps({"policy": chosen.policy, "propensity": chosen.propensity}), encoding="utf-8"
    )
    beside = job.folder / "pairs.jsonl.part"
    with beside.open("w", encoding="utf-8") as file:
        for start in range(0, len(chosen.pairs), 500):
            some = chosen.pairs[start : start + 500]
            found = Pair.objects.select_related("response_a__prompt", "response_b__prompt").in_bulk(some)
            for pk in some:
                if (pair := found.get(pk)) is not None:
                    row = {"pair": pk, "a": _response(pair.response_a), "b": _response(pair.response_b)}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    beside.replace(job.folder / "pairs.jsonl")


def _response(response: Any) -> dict[str, Any]:
    """A row as a snapshot's responses.parquet has it, once read."""
    prompt = response.prompt
    return {
        "response_id": response.external_id, "prompt_id": prompt.external_id,
        "group": prompt.group or prompt.external_id, "messages": prompt.messages, "text": response.text,
        "tools": prompt.tools, "answer": response.messages,
    }  # fmt: skip


def _store(job: MachineJob) -> int:
    """Store what was answered in both orders; how many pairs are not. Again and again without harm."""
    chosen = json.loads((job.folder / "chosen.json").read_text(encoding="utf-8"))
    half: dict[int, dict[str, Said]] = {}
    path = job.folder / "answers.jsonl"
    for line in path.open(encoding="utf-8") if path.exists() else ():
        if not line.endswith("\n"):
            break
        row = json.loads(line)
        said = Said(row["text"], row["scores"] and (row["scores"][0], row["scores"][1]), row["reason"])
        both = half.setdefault(row["pair"], {})
        both[row["order"]] = said
        if len(both) == 2:
            del half[row["pair"]]
            answer_store(job=job, pair_id=row["pair"], ab=both["ab"], ba=both["ba"], **chosen)
    with (job.folder / "pairs.jsonl").open("rb") as file:
        return sum(1 for _ in file) - job.answers.count()


def _usage(job: MachineJob) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((job.folder / "usage.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found
