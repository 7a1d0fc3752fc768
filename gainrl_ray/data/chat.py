"""A question that comes as a chat: its last user turn is asked, the turns before it lead up to that."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gainrl_ray.types import Turn


def split_chat(value: Any) -> tuple[tuple[Turn, ...], Any] | None:
    """The turns before the last user turn and that turn's content; None for what is no list of turns with one.

    A turn is a mapping with role and content, which is text or a list of parts with text. What follows the last user
    turn, such as a worked solution, is left out.
    """
    if isinstance(value, Mapping) and {"role", "content"} <= value.keys():  # columns, as datasets.Sequence gives them
        value = [{"role": role, "content": content} for role, content in zip(value["role"], value["content"])]  # noqa: B905
    if not isinstance(value, Sequence) or not all(isinstance(turn, Mapping) for turn in value):
        return None
    turns = [(turn.get("role"), _text(turn.get("content"))) for turn in value]
    asked = [place for place, (role, _) in enumerate(turns) if role == "user"]
    if not asked or not all(isinstance(part, str) for turn in turns[: asked[-1] + 1] for part in turn):
        return None
    return tuple((str(role), str(content)) for role, content in turns[: asked[-1]]), turns[asked[-1]][1]


def turns_text(turns: Sequence[Turn]) -> str:
    """Turns as one text, "" for none; `turns_of` reads it back."""
    return json.dumps(turns, ensure_ascii=False) if turns else ""


def turns_of(text: str) -> tuple[Turn, ...]:
    """The inverse of `turns_text`."""
    return tuple((role, content) for role, content in json.loads(text)) if text else ()


def _text(content: Any) -> Any:
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    return content
