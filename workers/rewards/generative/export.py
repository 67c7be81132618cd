"""A grm to take away: the language model that writes the critiques, with code that asks it as its run did."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from ..artifacts.card import model_card
from ..artifacts.export import FORMAT, place
from ..artifacts.proof import ExportError
from ..artifacts.save import begin_folder, check_files, read_config
from ..files import write_text
from ..models.load import load_tokenizer
from .saved import asked_config, load_weights, template_of
from .template import LONG, SHORT, JudgeTemplate

CLOSE = 1e-3  # of logits in fp32, after saving and loading


def export_judge(
    model_dir: Path, out_dir: Path, metrics: dict[str, Any] | None = None, **words: str | None
) -> dict[str, Any]:
    """Write OUT_DIR whole or not at all, and return what was made, as artifacts.export.export_model does.

    Raises ExportError for a judge, which has no weights, and ArtifactError.
    """
    config = read_config(model_dir)
    if config["method"] == "judge":
        raise ExportError(
            f"a judge has no weights of its own: it asks {config['base_model']}. The Caliper format packs how it asks"
        )
    check_files(model_dir, config)
    asked = asked_config(config)
    tokenizer = load_tokenizer(str(model_dir), str(model_dir))
    template = template_of(config, asked, tokenizer)
    model: Any = load_weights(model_dir, config, exact=True).eval()
    model.config.caliper = {key: config[key] for key in ("method", "partition", "template", "generative")}
    beside = begin_folder(out_dir)
    try:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        report: dict[str, Any] = {
            "format": FORMAT,
            "method": config["method"],
            "kind": config["kind"],
            "backbone": "causal",
            "auto_class": "AutoModelForCausalLM",
            "architecture": type(model).__name__,
            "trust_remote_code": False,
            "probes": 1,
            "max_difference": _difference(model, template, beside),
            "chat": not template.short,
            "plain": False,
            "edges": False,
        }
        card = model_card(config, metrics, report, usage=usage(config, template), **words)
        write_text(beside / "README.md", card)
        place(beside, out_dir, report)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return report


@torch.no_grad()
def _difference(model: Any, template: JudgeTemplate, folder: Path) -> float:
    """The largest difference of a logit on one prompt once the folder is loaded. Raises ExportError if it is large."""
    from transformers import AutoModelForCausalLM

    probe = {
        "messages": [{"role": "user", "content": "How do I keep a fern alive?"}],
        "text": "Water it weekly.",
    }
    ids = torch.tensor([template.ids([probe])])
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    device = next(model.parameters()).device
    found = float((model(input_ids=ids.to(device)).logits.cpu() - loaded(input_ids=ids).logits).abs().max())
    if not found < CLOSE:
        raise ExportError(
            f"the exported model's logits differ by {found:.2g} from this program's; please report it"
        )
    return found


_CODE = '''\
import hashlib
import itertools
import re

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder).eval()

FORM = {form}
GUIDELINES = {guidelines}
CRITERIA = {criteria}
LEVELS = {levels}


def prompt(messages, responses):
    """The ids of a prompt about one to four responses (texts) to a conversation."""
    conversation = "\\n\\n".join(f"{{turn['role'].capitalize()}}:\\n{{turn['content']}}" for turn in messages)
    n, known = len(responses), [GUIDELINES, conversation, *sorted(responses)]
    # between markers with a code that stands in none of the texts, so that no text can end its own part
    codes = (hashlib.sha256("\\0".join([str(k), *known]).encode()).hexdigest()[:8] for k in itertools.count())
    code = next(code for code in codes if not any(code in text.lower() for text in known))
    content = FORM.format(
        responses="the response" if n == 1 else f"the {{n}} responses",
        each="it" if n == 1 else "each response",
        them="it" if n == 1 else "them",
        number="a number" if n == 1 else "numbers",
        ratings=9,
        levels=LEVELS,
        code=code,
        criteria=CRITERIA,
        conversation=conversation,
        parts={join}.join({part} for k, text in enumerate(responses, 1)),
        critiques="\\n".join(f"Critique of Response {{k}}:" for k in range(1, n + 1)),
        scores=", ".join("xyzw"[:n]),
        hint="",
    )
{read}


def scores(text, n):
    """The scores that a text ends with, 1 (worst) to 9 (best), or None."""
    found = re.findall(r"\\\\boxed\\{{([^{{}}]*)\\}}", text)[-1:]
    values = [part.strip() for part in found[0].split(",")] if found else []
    return [int(v) for v in values] if len(values) == n and all(re.fullmatch("[1-9]", v) for v in values) else None


messages = [{{"role": "user", "content": "How do I keep a fern alive?"}}]
responses = ["Water it weekly, and keep it out of the sun.", "No idea."]
ids = prompt(messages, responses)
with torch.no_grad():
    out = model.generate(
        torch.tensor([ids]), max_new_tokens={new}, do_sample=True, temperature={temperature}, eos_token_id={stops}
    )
text = tokenizer.decode(out[0][len(ids):], skip_special_tokens=True)
print(text)
print(scores(text, len(responses)))
'''

_CHAT = """\
    turns = [{"role": "user", "content": content}]
    # the judge was asked without a thought of its own, where its template knows those
    how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    text = tokenizer.apply_chat_template(turns, **how)
    return tokenizer(text, add_special_tokens=False)["input_ids"]"""

_SECTIONS = """\
    content = re.sub(r"#{3,}", lambda run: "\\\\" + run[0], content)
    parts = [f"### User\\n{content}", "\\n\\n### Response\\n"]  # each tokenised by itself
    return [i for p in parts for i in tokenizer(p, add_special_tokens=False, split_special_tokens=True)["input_ids"]]"""


def usage(config: dict[str, Any], template: JudgeTemplate) -> str:
    """The card's section: code that asks the model, and what it leaves out. Tests run the code."""
    asked = config["generative"]
    long = '''f"[response {k} {code}]\\n{text}\\n[end of response {k} {code}]"'''
    code = _CODE.format(
        form=repr(SHORT if template.short else LONG),
        guidelines=repr(template.guidelines),
        criteria=repr(template.criteria),
        levels=repr(template.levels),
        join=repr("\n" if template.short else "\n\n"),
        part='''f"[response {k} {code}]\\n{text}"''' if template.short else long,
        read=_SECTIONS if template.short else _CHAT,
        new=asked["max_new_tokens"],
        temperature=asked["sampling_temperature"] or 1.0,
        stops=list(template.stop_ids),
    )
    return "\n\n".join(
        [
            f"```python\n{code}```",
            f"A vote is one such text. Ask {asked['samples']} times, with the responses in another order each time, "
            "and count: a response's probability of the rating s is (votes for s + 1/9) / (votes + 1), and one "
            "response's of being preferred to another (texts in which it scored higher, equal ones half, + 1/2) / "
            "(texts + 1).",
            "A text that can't be read has no vote. The training program also cuts texts that are too long, reads the "
            "tools and names of a conversation, and reads a special token that a text spells out as text.",
        ]
    )
