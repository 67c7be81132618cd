"""The tokenizer of an exported model, which frames prompt and response as the model was trained to read them.

Three ways lead to the same ids:

| | frame |
|---|---|
| `tokenizer(prompt, response)` (encoders; causal models that read ### sections) | the post-processor |
| `tokenizer.apply_chat_template(messages)` (causal models) | the chat template |
| prompt + response as one text that apply_chat_template began | the chat template, and nothing at the end |

A causal model whose head reads the response's last token gets a chat template that ends there, and pads with the token
that ends a turn: transformers' classifiers read the last token that doesn't pad, so that end tokens after the response,
as policies write them, change no score.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from ..text.chat import ChatTemplate
from ..text.sections import RESPONSE_HEADER, Template
from . import tokenization_caliper

PAD = "<|caliper_pad|>"
_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

# text/sections.py as a chat template. A run of ### gets its backslash as there, through two characters that no text
# holds; the rarer forms of # that sections.MARKER knows are not seen here.
SECTIONS = r"""
{%- macro plain(text) -%}
{{- text | string | replace('###', '\uffff\ufffe') | replace('\ufffe\uffff', '\ufffe') | replace('\uffff', '\\')
    | replace('\ufffe', '###') -}}
{%- endmacro -%}
{%- macro spoken(message) -%}
{%- set said = namespace(lines=[message.content] if message.content else []) -%}
{%- for call in message.tool_calls or [] -%}
{%- set called = call.function or call -%}
{%- set arguments = called.arguments if called.arguments is defined else '' -%}
{%- set arguments = arguments if arguments is string else arguments | tojson(sort_keys=true) -%}
{%- set said.lines = said.lines + [['[call]', called.name, arguments] | select | join(' ')] -%}
{%- endfor -%}
{{- plain(said.lines | join('\n')) -}}
{%- endmacro -%}
{%- set seen = namespace(calls=[], sections=[]) -%}
{%- for message in messages -%}
{%- for call in message.tool_calls or [] -%}{%- set seen.calls = seen.calls + [call.id] -%}{%- endfor -%}
{%- endfor -%}
{%- if tools -%}
{%- set offered = namespace(lines=[]) -%}
{%- for tool in tools -%}{%- set offered.lines = offered.lines + [tool | tojson(sort_keys=true)] -%}{%- endfor -%}
{%- set seen.sections = ['### Tools\n' + plain(offered.lines | join('\n'))] -%}
{%- endif -%}
{%- set answered = messages and messages[-1].role == 'assistant' and not add_generation_prompt -%}
{%- for message in (messages[:-1] if answered else messages) -%}
{%- set place = '(call ' + (seen.calls.index(message.tool_call_id) + 1) | string + ')'
    if message.tool_call_id is defined and message.tool_call_id in seen.calls else '' -%}
{%- set heading = [message.role | capitalize, message.name, place] | select | join(' ') -%}
{%- set seen.sections = seen.sections + ['### ' + plain(heading) + '\n' + spoken(message)] -%}
{%- endfor -%}
{{- START + seen.sections | join('\n\n') -}}
{%- if answered or add_generation_prompt -%}{{- HEADER -}}{%- endif -%}
{%- if answered -%}{{- spoken(messages[-1]) + END -}}{%- endif -%}
"""


def exported_tokenizer(template: Template) -> Any:
    """The tokenizer that an exported model with this template gets. See the module for what it does."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    source = template.tokenizer
    encoder, own = template.architecture == "encoder", isinstance(template, ChatTemplate)
    made = source.backend_tokenizer.to_str()
    if not encoder and not own:
        # prompt, header and response each are a text's beginning, also where they come as one text
        made = re.sub(r'("prepend_scheme": ?)"first"', r'\1"always"', made)
    core = Tokenizer.from_str(made)
    core.no_truncation()
    core.no_padding()
    named = {
        f"{name}_token": getattr(source, f"{name}_token")
        for name in _SPECIAL
        if getattr(source, f"{name}_token", None) is not None
    }
    others = [named.get(f"{name}_token") for name in ("bos", "eos", "unk", "sep", "cls")]
    if (end := _turns_end(template)) is not None:
        named["pad_token"] = named["eos_token"] = end
    elif named.get("pad_token") is None or named["pad_token"] in others:
        # transformers find the last token of a text as the last that is not the pad token
        named["pad_token"] = PAD
    core.post_processor = _post_processor(template, core)
    chat_template = None
    if not encoder:
        chat_template = _chat_template(template)
        if not own:
            core.pre_tokenizer = _pieces_apart(template, core)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **named,
        chat_template=chat_template,
        # a chat template's own tokens have to be read as such; markers in texts are the card's matter
        split_special_tokens=encoder,
        model_max_length=template.max_length,
        padding_side="right",
        truncation_side="left",
        model_input_names=["input_ids", "attention_mask"]
        + ([] if template.pool_prompt else ["token_type_ids"]),
    )


def ends_at_response(template: Template) -> bool:
    """Whether a scalar head reads the response's last token, so that what a text ends in doesn't matter."""
    return template.architecture == "causal" and not template.ordinal and template.reads == "response"


def save_tokenizer(tokenizer: Any, template: Template, folder: Path) -> None:
    """Write the tokenizer's files, under the class name that every version of transformers knows."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if template.architecture == "causal":
        # Beside an auto_map AutoTokenizer takes tokenizer.json as it stands; of a Qwen2 it would else keep the
        # vocabulary alone and build the rest as for every Qwen2.
        shutil.copy(str(tokenization_caliper.__file__), folder / "tokenization_caliper.py")
        config["auto_map"] = {"AutoTokenizer": [None, "tokenization_caliper.CaliperTokenizer"]}
        config["reads_response"] = ends_at_response(template)
        # what a training that starts from this folder reads (models/load.py)
        own = template.tokenizer.get_chat_template() if isinstance(template, ChatTemplate) else None
        config["base_chat_template"] = own
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def without_chat_template(folder: Path) -> None:
    """Take the chat template out of a saved tokenizer whose ids it does not give."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)


def _post_processor(template: Template, core: Any) -> Any:
    """The frame around `tokenizer(prompt, response)`; a chat template spells all of its own tokens, so none there."""
    from tokenizers import processors

    if isinstance(template, ChatTemplate):
        return processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:0", special_tokens=[])
    pieces = dict(zip(("START", "MIDDLE", "END"), template.frame, strict=True))

    def rule(parts: tuple[str, ...], pooled: str) -> str:
        """Where the mean leaves the prompt out, it is over the parts from `pooled` on, which are of type 1."""
        first = len(parts) if template.pool_prompt else parts.index(pooled)
        kept = [(part, int(place >= first)) for place, part in enumerate(parts)]
        return " ".join(f"{part}:{type_id}" for part, type_id in kept if part.startswith("$") or pieces[part])

    alone = ("START", "$A", "END") if template.architecture == "encoder" else ("START", "MIDDLE", "$A", "END")
    return processors.TemplateProcessing(
        single=rule(alone, "START"),
        pair=rule(("START", "$A", "MIDDLE", "$B", "END"), "$B"),
        special_tokens=[
            {"id": name, "ids": ids, "tokens": [core.id_to_token(i) for i in ids]}
            for name, ids in pieces.items()
            if ids
        ],
    )


def _pieces_apart(template: Template, core: Any) -> Any:
    """Prompt, header and response are tokenised apart (sections.py), also where they come as one text."""
    from tokenizers import pre_tokenizers

    frame = [RESPONSE_HEADER, *([_suffix(template)] if template.ordinal else [])]
    if core.normalizer is not None:
        frame = [core.normalizer.normalize_str(text) for text in frame]
    apart = [pre_tokenizers.Split(text, "isolated") for text in frame]
    return pre_tokenizers.Sequence([*apart, *([core.pre_tokenizer] if core.pre_tokenizer else [])])


def _chat_template(template: Template) -> str:
    start, _, end = template.frame
    decode = template.tokenizer.decode
    if isinstance(template, ChatTemplate):
        return _own_chat_template(template)
    read = "" if ends_at_response(template) else _suffix(template) if template.ordinal else decode(end)
    words = {"START": decode(start), "HEADER": RESPONSE_HEADER, "END": read}
    return "".join(_set(name, text) for name, text in words.items()) + SECTIONS.strip()


def _suffix(template: Template) -> str:
    """What follows a response whose rating is asked for; some tokenizers decode a text's beginning as a space."""
    text: str = template.tokenizer.decode(template.frame[2])
    return text.lstrip(" ")


def _own_chat_template(template: ChatTemplate) -> str:
    """The base model's chat template, but its last assistant turn ends where the head reads."""
    own = template.tokenizer.get_chat_template()
    if template.reads == "turn" and not template.ordinal:
        return str(own)
    eos = template.tokenizer.eos_token
    return (
        _set("caliper_tail", _tail(template))
        + _set("caliper_end", template.suffix)
        + ("" if eos is None else _set("eos_token", eos))  # the exported tokenizer's may be another
        + "{% set caliper_text +%}"
        + own.removesuffix("\n")  # as Jinja does at a template's end
        + "{%+ endset %}"
        "{{- caliper_text.removesuffix(caliper_tail) + caliper_end"
        " if messages and messages[-1].role == 'assistant' and not add_generation_prompt else caliper_text -}}"
    )


def _tail(template: ChatTemplate) -> str:
    """What the base model's chat template writes after the last response."""
    said = "A response."
    turns = [{"role": "user", "content": "A request."}, {"role": "assistant", "content": said}]
    rendered: str = template.tokenizer.apply_chat_template(turns, tokenize=False)
    return rendered.rpartition(said)[2]


def _turns_end(template: Template) -> str | None:
    """The token that ends a turn, where it may pad because no head reads it."""
    if not ends_at_response(template):
        return None
    told = template.end_of_turn if isinstance(template, ChatTemplate) else None
    end: str | None = told or template.tokenizer.eos_token
    return end


def _set(name: str, text: str) -> str:
    return "{%- set " + f"{name} = {json.dumps(text, ensure_ascii=False)}" + " -%}"
