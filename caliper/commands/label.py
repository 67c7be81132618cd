"""`caliper label`: judge cards in a plain terminal, with the keys of the Annotate page."""

import argparse
import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from caliper import types
from caliper.client import Project
from caliper.commands.common import Adds, client_of, result, shown, told
from caliper.errors import CaliperError

VERDICTS = {"a": "left", "b": "right", "t": "tie", "x": "both_bad", "s": "skip"}
LEVELS = {"1": "bad", "2": "normal", "3": "good"}
STRENGTHS = {"1": 1, "2": 2, "3": 3, "\n": None}
_WIDEST = 100

Ask = Callable[[str, str], str]
"""Ask a question that one of some keys answers."""


class _Done(Exception):
    """The person has had enough."""


def add(command: Adds) -> None:
    sub = command("label", label, "Judge a project's cards here, in the terminal.")
    sub.add_argument("--project", required=True, metavar="SLUG")
    sub.add_argument("--count", type=int, metavar="N", help="stop after N answers")


def label(options: argparse.Namespace) -> None:
    answered = 0
    with client_of(options) as client, _keys() as ask:
        project = client.project(options.project)
        with contextlib.suppress(_Done):
            while options.count is None or answered < options.count:
                standing = project.cards.next(1)
                if not standing["cards"]:
                    told(_NOTHING[standing["nothing"] or "busy"])
                    break
                answered += _judged(project, standing["cards"][0], ask)
    result(options, {"answered": answered}, f"{answered} answered.")


_NOTHING = {
    "empty": "This project has nothing to judge yet. An admin imports responses.",
    "done": "All is judged. Thank you.",
    "busy": "Others judge the last cards now. Come back later.",
}


def _judged(project: Project, card: types.CardShown, ask: Ask) -> int:
    """Show a card and store what is said: 1 for an answer, -1 for one that was taken back, 0 for none."""
    print(_drawn(card))
    try:
        answer = _answer(card, ask)
    except _Undo:
        reopened = project.cards.undo()["card"]
        print("Taken back; its card comes again." if reopened else "There is nothing to take back.")
        return -1 if reopened else 0
    receipt = _sent(project, card, answer, ask)
    if receipt is None:
        return 0
    word = "Saved" if receipt["kept"] else "Not saved"
    print(f"{word}. {receipt['message']}".strip())
    return int(receipt["kept"])


class _Undo(Exception):
    """Take the newest answer back."""


def _answer(card: types.CardShown, ask: Ask) -> dict[str, Any]:
    """What is said of a card, as `cards.answer` takes it. Raises _Undo, _Done."""
    if card["kind"] == "response":
        key = _asked(ask, "1 bad, 2 normal, 3 good, s skip, u undo, q quit", "123suq")
        return {"verdict": "skip"} if key == "s" else {"level": LEVELS[key]}
    key = _asked(ask, "a A is better, b B is better, t tie, x both bad, s skip, u undo, q quit", "abtxsuq")
    answer: dict[str, Any] = {"verdict": VERDICTS[key]}
    if key in "ab" and card["asks"]["strengths"]:
        strength = STRENGTHS[
            _asked(ask, "How much? 1 slightly, 2 clearly, 3 much, Enter not said", "123\nuq")
        ]
        if strength is not None:
            answer["strength"] = strength
    if key != "s" and card["asks"]["levels_needed"]:
        answer["levels"] = {
            side: LEVELS[_asked(ask, f"{name} is: 1 bad, 2 normal, 3 good", "123uq")]
            for side, name in (("left", "A"), ("right", "B"))
        }
    return answer


def _asked(ask: Ask, question: str, keys: str) -> str:
    key = ask(question, keys)
    if key == "q":
        raise _Done
    if key == "u":
        raise _Undo
    return key


def _sent(project: Project, card: types.CardShown, answer: dict[str, Any], ask: Ask) -> types.Receipt | None:
    """The receipt; None if the person rather looks again. An answer that is asked about is sent once more if meant."""
    try:
        return project.cards.answer(card, **answer)
    except CaliperError as error:
        if error.status == 422:
            print(error)
            return None
        if error.status != 409 or "asks" not in error.problem:
            raise
        print(error.detail)
        if ask("Is it meant? y yes, n no", "yn") == "n":
            return None
        insist = {"keep": error.problem["keep"], "revision": error.problem["revision"]}
        return project.cards.answer(card, **answer, **insist)


# --- What a card looks like ---


def _drawn(card: types.CardShown) -> str:
    """The card as text: the conversation, then A and B. Nothing in a text can steer the terminal."""
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    parts = _prompt(card["prompt"], width)
    for name, side in (("A", card["left"]), ("B", card["right"]), ("Response", card["response"])):
        if side is None:
            continue
        parts += _prompt(side["prompt"], width)
        parts += [_rule(name, width), _wrapped(_turns(side), width)]
    return "\n".join(["", *parts, "─" * width])


def _prompt(prompt: types.PromptShown | None, width: int) -> list[str]:
    if prompt is None:
        return []
    parts = []
    for message in prompt["messages"]:
        parts += [_rule(str(message.get("role", "")), width), _wrapped(_said(message), width)]
    return parts


def _turns(side: types.SideShown) -> str:
    """A response's text, or each of its turns where it has several."""
    if not side["messages"]:
        return side["text"]
    return "\n\n".join(f"[{message.get('role', '')}] {_said(message)}" for message in side["messages"])


def _said(message: dict[str, Any]) -> str:
    content = message.get("content")
    said = content if isinstance(content, str) else "" if content is None else str(content)
    calls = message.get("tool_calls")
    return f"{said}\n{calls}" if calls else said


def _rule(name: str, width: int) -> str:
    return f"── {shown(name)} ".ljust(width, "─")


def _wrapped(text: str, width: int) -> str:
    lines = shown(text).expandtabs(4).split("\n")
    return "\n".join(
        "\n".join(textwrap.wrap(line, width, replace_whitespace=False, drop_whitespace=False))
        for line in lines
    )


# --- Keys ---


@contextlib.contextmanager
def _keys() -> Iterator[Ask]:
    """Asks by single keys on a terminal; by the first letter of a line elsewhere. The end of input quits."""
    if sys.stdin.isatty():
        try:
            import termios
            import tty
        except ImportError:  # Windows: lines
            pass
        else:
            handle = sys.stdin.fileno()
            before = termios.tcgetattr(handle)
            try:
                # Ctrl-C still interrupts.
                tty.setcbreak(handle)
                yield lambda question, keys: _by(lambda: os.read(handle, 1).decode("latin-1"), question, keys)
            finally:
                termios.tcsetattr(handle, termios.TCSADRAIN, before)
            return
    yield lambda question, keys: _by(_line, question, keys)


def _line() -> str:
    line = sys.stdin.readline()
    return (line.strip()[:1] or "\n") if line else ""


def _by(read: Callable[[], str], question: str, keys: str) -> str:
    print(f"{question}: ", end="", flush=True)
    while True:
        key = read().lower().replace("\r", "\n")
        if key in ("", "\x04"):
            print()
            if "n" in keys and "q" not in keys:
                return "n"
            return "q"
        if key in keys:
            print(key.strip())
            return key
