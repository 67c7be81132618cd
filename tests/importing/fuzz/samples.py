"""One or more good rows of every import format, and the odd values that take the place of good ones."""

import math
from typing import Any

Row = dict[str, Any]

_USER = {"role": "user", "content": "Why is the sky blue?"}
_SAID = [_USER, {"role": "assistant", "content": "Because of Rayleigh."}]
_DENIED = [_USER, {"role": "assistant", "content": "It isn't."}]
_CALLS = [
    _USER,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
    },
    {"role": "tool", "name": "f", "content": "3"},
    {"role": "assistant", "content": [{"type": "text", "text": "Three."}]},
]
_ANSWER = {
    "model": "m",
    "response": "Because.",
    "overall_score": 7.5,
    "annotations": {"truth": {"Rating": "4", "Rationale": "r"}},
}
_HH = "\n\nHuman: Hi\n\nAssistant: "
SAMPLES: dict[str, list[Row]] = {
    "caliper": [
        {"type": "prompt", "id": "p", "messages": [_USER], "group": "g"},
        {"type": "response", "id": "a", "prompt": "p", "text": "A", "author": "m", "metadata": {"run": 7}},
        {"type": "response", "id": "b", "prompt": "p", "text": "B"},
        {"type": "pair", "id": "ab", "a": "a", "b": "b"},
        {
            "type": "vote",
            "a": "a",
            "b": "b",
            "annotator": "kim",
            "verdict": "a",
            "strength": 2,
            "comment": "c",
            "reasons": ["a:clear"],
            "left": "a",
            "created_at": "2026-01-31T12:00:00Z",
            "shown_at": "2026-01-31T11:59:00Z",
            "policy": "random",
            "propensity": 0.5,
        },
        {"type": "level", "response": "a", "annotator": "kim", "level": "good", "comment": "fine"},
    ],
    "trl": [
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No.", "margin": 1.5, "system": "Be brief."},
        {"chosen": _SAID, "rejected": _DENIED},
        {"prompt": [_USER], "chosen": _SAID[1:], "rejected": _DENIED[1:]},
        {"chosen": _CALLS, "rejected": _DENIED, "tools": [{"name": "f", "parameters": {}}]},
    ],
    "trl-unpaired": [
        {"prompt": "Why?", "completion": "Because.", "label": True},
        {"prompt": [_USER], "completion": _SAID[1:], "label": False},
    ],
    "hh-rlhf": [{"chosen": _HH + "Hello!", "rejected": _HH + "What?"}],
    "arena": [
        {
            "question_id": "q",
            "model_a": "x",
            "model_b": "y",
            "winner": "tie (bothbad)",
            "judge": "u",
            "turn": 1,
            "conversation_a": _SAID,
            "conversation_b": _DENIED,
            "language": "English",
            "tstamp": 1.7e9,
        }
    ],
    "arena-kaggle": [
        {
            "id": 1,
            "model_a": "x",
            "model_b": "y",
            "prompt": '["Why?"]',
            "response_a": '["Because."]',
            "response_b": '["No."]',
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
        }
    ],
    "ultrafeedback": [
        {
            "source": "s",
            "instruction": "Why?",
            "models": ["m", "n"],
            "completions": [_ANSWER, {**_ANSWER, "model": "n", "response": "No.", "overall_score": 2}],
        }
    ],
    "helpsteer": [
        {
            "prompt": "Why?",
            "response": text,
            "helpfulness": 3,
            "correctness": 4,
            "coherence": 4,
            "complexity": 1,
            "verbosity": 1,
        }
        for text in ("Because.", "No.")
    ],
    "helpsteer-preference": [
        {"prompt": "Why?", "response_1": "Because.", "response_2": "No.", "preference_strength": -2},
        {
            "domain": "general",
            "language": "english",
            "context": [_USER],
            "response1": "Because.",
            "response2": "No.",
            "overall_preference": 1,
            "individual_preference": [{"score": 1, "reasoning": "r", "feedback_1": "f", "feedback_2": "g"}],
        },
    ],
    "rewardbench": [
        {
            "prompt": "Why?",
            "chosen": "Because.",
            "chosen_model": "m",
            "rejected": "No.",
            "rejected_model": "n",
            "subset": "s",
            "id": 1,
        },
        {
            "id": "2",
            "prompt": "Why?",
            "chosen": ["Because."],
            "rejected": ["No.", "What?", "Hm."],
            "num_correct": 1,
            "subset": "s",
        },
    ],
    "pandalm": [
        {
            "idx": 1,
            "cmp_key": "m_n",
            "instruction": "Why?",
            "input": "",
            "response1": "Because.",
            "response2": "No.",
            "annotator1": 1,
            "annotator2": 0,
        }
    ],
    "auto-j": [
        {"scenario": "s", "label": 0, "prompt": "Why?", "response 1": "Because.", "response 2": "No."}
    ],
    "qa-feedback": [
        {
            "question": "Why?",
            "passages": [["t", "p"]],
            "prediction 1": "A",
            "prediction 2": "B",
            "prediction 3": "C",
            "prediction 4": "D",
            "preference": [1, 2, 0, 1, 2, 0],
        }
    ],
    "sharegpt": [
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "What"},
            "system": "s",
        }
    ],
    "argilla": [
        {
            "id": "1",
            "status": "completed",
            "_server_id": "s",
            "metadata": {},
            "vectors": {},
            "suggestions": {},
            "fields": {"instruction": "q", "response_1": "x", "response_2": "y"},
            "responses": {"better": [{"value": "response_1", "user_id": "u", "status": "submitted"}]},
        }
    ],
    "label-studio": [
        {
            "id": 1,
            "data": {"prompt": "Why?", "answer1": "Because.", "answer2": "No."},
            "annotations": [
                {
                    "completed_by": 1,
                    "created_at": "2026-01-31T12:00:00Z",
                    "was_cancelled": False,
                    "result": [
                        {"type": "pairwise", "from_name": "pw", "to_name": "t", "value": {"selected": "left"}}
                    ],
                }
            ],
        }
    ],
    "potato": [
        {
            "id": "1",
            "prompt": "Why?",
            "text": ["Because.", "No."],
            "label_annotations": {"pref": {"selection": "A"}},
            "user_id": "u",
        },
        {"id": "1", "prompt": "Why?", "pref": {"selection": "A"}, "text": ["Because.", "No."]},
    ],
    "ukp-convarg1": [
        {
            "pair_id": "1",
            "topic": "t_s",
            "prompt": "Why?",
            "response_a_id": "a",
            "response_b_id": "b",
            "votes": [{"annotator": "kim", "choice": "a", "reason": "r"}],
        },
        {"response_id": "a", "topic": "t_s", "text": "Because.", "rank_score": 1.5},
        {"response_id": "b", "topic": "t_s", "text": "No.", "rank_score": -1},
    ],
}

NESTED: Any = "x"
for _ in range(200):
    NESTED = [NESTED]
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2,
    1.5,
    -0.0,
    1e308,
    10**30,
    10**400,
    math.nan,
    math.inf,
    -math.inf,
    "",
    " ",
    "\n",
    "nan",
    "NaN",
    "null",
    "None",
    "true",
    "False",
    "1",
    "1.0",
    "3,5",
    "1,000",
    "1e999",
    "-",
    "x",
    "a",
    "A",
    "tie",
    "\x00",
    "\ud83d",
    "\udce9",
    "\u200b",
    "\u200d",
    "\u2028",
    "\ufeff",
    "\x85",
    "\r",
    "a\r\nb",
    "=1+1",
    '"',
    "'",
    "\\",
    "[",
    "[]",
    "{}",
    "[1]",
    '{"a": 1}',
    "[[]]",
    "[{'role': 'user'}]",
    "[{'role': 'user', 'content': 'x'}\n {'role': 'assistant', 'content': 'y'}]",
    '["a" "b"]',
    "2026-01-31",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "yesterday",
    [],
    {},
    [None],
    [[]],
    [{}],
    [""],
    ["x"],
    [1, 2],
    {"a": None},
    {"": ""},
    {"a": {"b": [1]}},
    [_USER],
    _SAID,
    [{"role": "user"}],
    [{"role": 1, "content": 1}],
    [{"role": "user", "content": []}],
    [{"role": "user", "content": [{"type": "image"}]}],
    [{"from": "human", "value": None}],
    [{"from": "human", "value": "x"}, {"from": "gpt", "value": ["y"]}],
    {"role": "assistant", "content": "x"},
    {"text": "x"},
    _CALLS,
    [{"role": "assistant", "content": None, "tool_calls": 1}],
    [{"role": "assistant", "tool_calls": [None]}],
    [{"role": "assistant", "tool_calls": [{"function": "f"}]}],
    "x" * 300_000,
    "\u05d0" * 50,
    "e\u0301",
    NESTED,
    ["x"] * 1500,
    {str(n): n for n in range(300)},
    _HH,
    "\n\nHuman:",
    "\n\nHuman: x\n\nHuman: y\n\nAssistant:",
]
