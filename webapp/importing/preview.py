"""The first items of an import, whole: all turns of the prompt and both responses, as they will be stored and shown."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from webapp.importing.report import PREVIEW_FILE
from webapp.importing.shapes import ResponseRecord
from webapp.importing.writing import PREVIEW, CorpusWriter


def first_items(corpus: CorpusWriter) -> list[dict[str, Any]]:
    """The first pairs (else responses) of the files: ids, authors, the prompt's messages, and the texts."""
    by_pk = {known.pk: known for known in corpus.responses.values()}
    needed = [pk for pair in corpus.preview_pairs for pk in pair.key]
    old = corpus.project.responses.filter(pk__in=[pk for pk in needed if pk not in by_pk])
    names = dict(old.values_list("pk", "external_id")) | {pk: known.id for pk, known in by_pk.items()}
    shown: list[dict[str, Any]] = [
        {"pair": pair.id, "sides": [names[pk] for pk in pair.key]}
        for pair in corpus.preview_pairs
        if all(pk in names for pk in pair.key)
    ]
    if not shown:
        shown = [{"pair": "", "sides": [known.id]} for known in islice(corpus.responses.values(), PREVIEW)]
    responses = _responses(corpus, {id for entry in shown for id in entry["sides"]})
    prompts = _prompts(corpus, {response["prompt"] for response in responses.values()})
    for entry in shown:
        sides = [responses[id] for id in entry["sides"]]
        entry["prompt"] = prompts.get(sides[0]["prompt"], {})
        if len(sides) == 2 and sides[0]["prompt"] != sides[1]["prompt"]:
            entry["other_prompt"] = prompts.get(sides[1]["prompt"], {})
        entry["sides"] = sides
    return shown


def _responses(corpus: CorpusWriter, ids: set[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for _, record in corpus.spool.read("responses"):
        if record.id in ids:
            found.setdefault(record.id, _response(record))
            if len(found) == len(ids):
                return found
    for row in corpus.project.responses.filter(external_id__in=ids - set(found)).select_related("prompt"):
        record = ResponseRecord(
            row.external_id, row.prompt.external_id, row.text, row.author, {}, row.messages
        )
        found[row.external_id] = _response(record)
    return {id: found.get(id) or _response(ResponseRecord(id, "", "", "", {})) for id in ids}


def _response(record: ResponseRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("id", "prompt", "text", "author", "messages")}


def _prompts(corpus: CorpusWriter, ids: set[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for _, record in corpus.spool.read("prompts"):
        if record.id in ids:
            found.setdefault(record.id, {"messages": record.messages, "tools": list(record.tools)})
            if len(found) == len(ids):
                return found
    for row in corpus.project.prompts.filter(external_id__in=ids - set(found)):
        found[row.external_id] = {"messages": row.messages, "tools": row.tools}
    return found


def preview_write(folder: Path, items: list[dict[str, Any]]) -> None:
    (folder / PREVIEW_FILE).write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")


def preview_read(folder: Path) -> list[dict[str, Any]]:
    """The items; none where the import has not come so far, or its files are gone."""
    try:
        items: list[dict[str, Any]] = json.loads((folder / PREVIEW_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return items
