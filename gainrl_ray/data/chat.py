"""A question that comes as a chat: its last user turn is asked, the turns before it lead up to that."""

import json
from collections.abc import Mapping
from typing import Any


def split_chat(value: Any) -> tuple[str, str] | None:
    """The turns before the last user turn (JSON, "" for none), and that turn's content; None for what is no such chat.

    value: a list of mappings with role and content, which is text or a list of parts with text. What follows the last
    user turn, such as a worked solution, is left out.
    """
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        return None
    turns = [{"role": turn.get("role"), "content": _text(turn.get("content"))} for turn in value]
    asked = max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    if asked < 0 or not all(isinstance(part, str) for turn in turns[: asked + 1] for part in turn.values()):
        return None
    return json.dumps(turns[:asked], ensure_ascii=False) if asked else "", turns[asked]["content"]


def question_key(turns: str, question: str) -> str:
    """A text that is equal for questions, with the turns before them, that differ in case and white space only."""
    return " ".join(f"{turns} {question}".casefold().split())


def _text(content: Any) -> Any:
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    return content
