"""How an exported model is used, for its card: code that tests run, and the other programs that it scores equal in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..text.sections import MARKER

Row = Mapping[str, Any]

_HEAD = """\
import torch
from transformers import {auto}, AutoTokenizer

folder = "."  # or the folder's path
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
model = {auto}.from_pretrained(folder{trust}).eval()
"""

_PLAIN = """
def plain(text):  # a marker such as "### Score:" inside a text stays a quotation
    return re.sub({marker}, lambda run: "\\\\" + run.group(), text)
"""

_SECTIONS = """
def spoken(message):  # a message's content, then its tool calls
    lines = [message["content"]] if message.get("content") else []
    for call in message.get("tool_calls") or ():
        call = call.get("function", call)
        arguments = call.get("arguments", "")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False, sort_keys=True)
        lines.append(" ".join(part for part in ("[call]", call.get("name"), arguments) if part))
    return "\\n".join(lines)

def sections(messages, tools):
    found = [("Tools", "\\n".join(json.dumps(t, ensure_ascii=False, sort_keys=True) for t in tools))] if tools else []
    calls = [call.get("id") for m in messages for call in m.get("tool_calls") or ()]
    for m in messages:
        heading = [m["role"].capitalize(), m.get("name")]
        if m.get("tool_call_id") is not None and m["tool_call_id"] in calls:
            heading.append(f"(call {{calls.index(m['tool_call_id']) + 1}})")
        found.append((" ".join(str(part) for part in heading if part), spoken(m)))
    return "\\n\\n".join(f"### {{plain(heading)}}\\n{{plain(text)}}" for heading, text in found)

def encode(messages, response, tools=()):
    prompt = {prompt}
    texts = (prompt, plain(response)) if tokenizer.tokenize(prompt) else plain(response)
    # a list, as a lone pair may not end in an empty text; a special token that a text spells stays text
    ids = {{name: value[0] for name, value in tokenizer([texts], split_special_tokens=True).items()}}
    assert len(ids["input_ids"]) <= tokenizer.model_max_length, "longer than the model was trained on; shorten it"
    return ids
"""

_CHAT = """
def encode(messages, response, tools=None):
    turns = [*messages, {{"role": "assistant", "content": response}}]
    text = tokenizer.apply_chat_template({turns}, tools=tools or None, tokenize=False)
    ids = dict(tokenizer(text, add_special_tokens=False))
    assert len(ids["input_ids"]) <= tokenizer.model_max_length, "longer than the model was trained on; shorten it"
    return ids
"""

_CHATS = """
chats = [
    ([{"role": "user", "content": "How do I keep a fern alive?"}], "Water it weekly, and keep it out of the sun."),
    ([{"role": "user", "content": "How do I keep a fern alive?"}], "No idea."),
]
batch = tokenizer.pad([encode(messages, response) for messages, response in chats], return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits
"""

_ENCODER_PROMPT = """\
sections(messages, tools)
    if not tools and len(messages) == 1 and set(messages[0]) == {"role", "content"}:
        prompt = plain(messages[0]["content"])"""

_SCALAR_READ = """\
rewards = logits[:, 0]  # higher is better; only differences mean something
print(rewards.tolist())
"""

_RATINGS_READ = """\
p = torch.softmax(logits.double(), dim=1)  # [B, 9]: the probability of each rating, 1 to 9
rewards = p @ torch.arange(1.0, 10.0, dtype=p.dtype)  # E[rating]
print(rewards.tolist())
"""

_DIGITS_READ = """\
digits = {digits}  # the tokens 1 to 9
last = batch["attention_mask"].sum(1) - 1
logits = logits[torch.arange(len(last)), last][:, digits]
"""


_CROSS_ENCODER = """\
With sentence-transformers, a pair of what the user asks and the response:

```py
from sentence_transformers import CrossEncoder

CrossEncoder(folder, trust_remote_code=True).predict([("How do I keep a fern alive?", "Water it weekly.")])
```

It gives {gives}. A conversation of several messages goes in as `sections(messages, tools)`, and a text that may hold
`###` as `plain(text)`. What is too long it cuts otherwise than the training program."""

_TRL = """\
As the reward of TRL's `GRPOTrainer`:

```py
from trl import GRPOConfig, GRPOTrainer

GRPOTrainer(model=policy, reward_funcs=folder, args=GRPOConfig(output_dir="out"), train_dataset=prompts).train()
```

{prompts}"""

_MESSAGES = "The column `prompt` holds lists of messages; TRL writes them with this folder's chat template."
_JOINED = (
    " A prompt may also be a text that ends where the response begins: `tokenizer.apply_chat_template([*messages, "
    '{"role": "assistant", "content": ""}], tokenize=False)` by this folder\'s tokenizer.'
)
_WITHOUT_END = (
    " Prompts that are texts score otherwise: this model reads its score where a turn ends, and TRL takes the end off "
    "such completions."
)

_OPENRLHF = """\
As OpenRLHF's reward server, which a trainer reaches by its `remote_rm_url`:

```sh
python -m openrlhf.cli.serve_rm --reward_pretrain FOLDER --value_head_prefix score --max_len {length}
```

{queries}"""

_SERVED = (
    "It loads `tokenization_caliper.py` of this folder, which hides the end tokens of its queries from attention: the "
    "score is read at the response's last token. A trainer that loads the folder itself, without its tokenizer, reads "
    "at the policy's end token and gets numbers that mean nothing."
)
_SERVED_END = (
    "The score is read at the very end of what the chat template writes. A query that ends otherwise, such as of a "
    "response that was cut off, scores otherwise."
)
_SAME_FRAME = " The policy's prompts have to be written with this folder's chat template."

_EDGES = (
    "White space at a response's ends can change a score here: the chat template drops it, or the tokenizer joins it "
    "with what stands around."
)
_SPELLED = (
    "These programs, and the code above, read a special token that a message or a response spells out as that token. "
    "`python -m workers.rewards.score` reads it as text."
)
_SPELLED_SECTIONS = (
    "These programs read a special token that a message or a response spells out as that token. The code above, and "
    "`python -m workers.rewards.score`, read it as text. They also escape a run of ### in a response (`plain`), which "
    "is read as it stands where the prompt is given as a text."
)
_APART = (
    "Programs that join prompt and response to one text before they tokenise it, as TRL and OpenRLHF do, can't be "
    "given this folder: its tokenizer treats the beginning of a text apart. Give them a function that calls `encode`."
)


def usage(config: Row, report: Row) -> str:
    """The code sample; tests run it."""
    encoder, ordinal = config["backbone"] == "encoder", config["kind"] != "scalar"
    chat = config["template"]["name"].startswith("chat")
    trust = ", trust_remote_code=True" if report["trust_remote_code"] else ""
    parts = [_HEAD.format(auto=report["auto_class"], trust=trust)]
    if ordinal or not chat:
        parts.append(_PLAIN.format(marker=ascii(MARKER.pattern)))
    if chat:
        quoted = '[{**turn, "content": plain(turn["content"] or "")} for turn in turns]'
        parts.append(_CHAT.format(turns=quoted if ordinal else "turns"))
    else:
        parts.append(_SECTIONS.format(prompt=_ENCODER_PROMPT if encoder else "sections(messages, tools)"))
    parts.append(_CHATS)
    if not ordinal:
        parts.append(_SCALAR_READ)
    else:
        parts += [] if encoder else [_DIGITS_READ.format(digits=config["template"]["digit_ids"])]
        parts.append(_RATINGS_READ)
    code = "".join(parts)
    needed = "".join(f"import {name}\n" for name in ("json", "re") if f"{name}." in code)
    return needed + code


def reads_response(config: Row) -> bool:
    """Whether a causal model's scalar head reads the response's last token; else the end of the turn."""
    template = config["template"]
    return config["kind"] == "scalar" and template.get("reads", template["name"]) in ("response", "causal-2")


def use(config: Row, report: Row) -> str:
    """The card's section: the code, what it reads, and what else gives the same scores."""
    template = config["template"]
    chat = template["name"].startswith("chat")
    pooled = (
        " Its mean is over the response alone, in view of the prompt: the tokenizer's token types say which tokens."
        if "pooled" in template
        else ""
    )
    cut = (
        "the prompt's beginning first, then the response's middle"
        if "cut" in template
        else "the beginnings of prompt and response, never the response's end"
    )
    read = " The score is read at the response's last token." if reads_response(config) else ""
    spelled = " (of those that spell no special token)" if chat else ""
    frame = (
        "It reads the chat template of its base model."
        if chat
        else "The tokenizer frames prompt and response by itself, and special tokens inside a text are read as plain "
        "text."
    )
    return "\n\n".join(
        [
            f"```python\n{usage(config, report)}```",
            f"{frame}{pooled}{read} The ids are those of the template `{template['name']}`:",
            f"```text\n{template['text']}\n```",
            f"On {report['probes']} difficult texts the ids are equal to the training program's{spelled}, and scores "
            f"differ by at most {report['max_difference']:.1e} (fp32). The model was trained on at most "
            f"{config['max_length']} tokens. Of longer texts the training program cuts {cut}, and marks the place with "
            "`[...]`; this code refuses instead.",
            *_elsewhere(config, report),
        ]
    )


def _elsewhere(config: Row, report: Row) -> list[str]:
    """The other programs that score the same, as proof.py and the tests found."""
    if config["backbone"] == "encoder":
        gives = "the reward" if config["kind"] == "scalar" else "nine logits, of the ratings 1 to 9"
        return [_CROSS_ENCODER.format(gives=gives)]
    chat = config["template"]["name"].startswith("chat")
    spelled = _SPELLED if chat else _SPELLED_SECTIONS
    if not report.get("chat"):
        return [_APART]
    if config["kind"] != "scalar":
        return [
            "TRL and OpenRLHF take no ratings. Give them a function that calls `encode` and returns E[rating]."
        ]
    if reads_response(config):
        joined, served = _JOINED if report.get("plain") else "", _SERVED
    else:
        joined, served = _WITHOUT_END, _SERVED_END
    return [
        _TRL.format(prompts=_MESSAGES + joined),
        _OPENRLHF.format(length=config["max_length"], queries=served + _SAME_FRAME),
        *([] if report.get("edges") else [_EDGES]),
        spelled,
    ]
