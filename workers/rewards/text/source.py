"""What a chat template needs of a tokenizer: one template, which writes one date, and the tokenizer of runs of text."""

from __future__ import annotations

import json
import re
from typing import Any

_DIRECTIVES = {
    "%Y": "2024", "%y": "24", "%m": "07", "%d": "26", "%b": "Jul", "%B": "July", "%a": "Fri", "%A": "Friday",
    "%H": "12", "%M": "00", "%S": "00",
}  # fmt: skip
# A template that writes today's date would score a text differently tomorrow. This is Llama 3.1's own default.
_DATE = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f' | replace("{directive}", "{value}")' for directive, value in _DIRECTIVES.items())
    + " }}{%- endmacro %}\n"
)


class Unusable(Exception):
    """A chat template that can't show a question and an answer; the message says why."""


def single(template: str | dict[str, str]) -> str:
    """One template of several by name, as transformers choose among them: "tool_use" where there are tools."""
    if isinstance(template, str):
        return template
    if "default" not in template:
        raise Unusable(f"of {', '.join(sorted(template))} none is the default")
    # Jinja drops one line end after a tag, and one at a template's end
    default, tools = (template.get(name, "").removesuffix("\n") for name in ("default", "tool_use"))
    return "{% if tools %}\n" + tools + "{% else %}\n" + default + "{% endif %}" if tools else default


def dated(template: str) -> str:
    """A chat template that writes one date, whenever it is rendered."""
    return template if "strftime_now" not in template or template.startswith(_DATE) else _DATE + template


def backends(tokenizer: Any) -> tuple[Any, Any]:
    """The tokenizer for text with nothing before it, and for text after a special token. Both read special tokens as
    text, and neither cuts, pads or adds."""
    from tokenizers import Tokenizer

    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec |= {"post_processor": None, "truncation": None, "padding": None}
    text = json.dumps(spec)
    # the mark of a word's beginning that some put before a text's first word alone
    inner = re.sub(r'("prepend_scheme": ?)"first"', r'\1"never"', text)
    made = [Tokenizer.from_str(each) for each in dict.fromkeys((text, inner))]
    for backend in made:
        backend.encode_special_tokens = True
    return made[0], made[-1]
