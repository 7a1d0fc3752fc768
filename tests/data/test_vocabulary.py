"""Ids without a token, and tokens without a row, by a tokenizer whose vocabulary is known."""

from types import SimpleNamespace
from typing import Any

from gainrl_ray.data.vocabulary import ROWS, rowless_tokens, unused_ids

TOKENS = {"a": 0, "b": 1, "c": 3, "<end>": 5}


def tokenizer(rows: int | None = None) -> Any:
    names = {token_id: token for token, token_id in TOKENS.items()}
    made = SimpleNamespace(
        get_vocab=lambda: TOKENS, convert_ids_to_tokens=lambda ids: [names[token_id] for token_id in ids]
    )
    if rows is not None:
        setattr(made, ROWS, rows)
    return made


def test_holes_and_padding_are_unused() -> None:
    assert unused_ids(tokenizer(), 8) == (2, 4, 6, 7)
    assert unused_ids(tokenizer(), 4) == (2,)
    assert unused_ids(tokenizer(), 2) == ()


def test_tokens_beyond_the_rows_are_named_once() -> None:
    assert rowless_tokens(tokenizer(4), [5, 1, 5, 3]) == ["<end>"]
    assert rowless_tokens(tokenizer(3), [5, 1, 3]) == ["c", "<end>"]
    assert rowless_tokens(tokenizer(6), TOKENS.values()) == []
    assert rowless_tokens(tokenizer(), TOKENS.values()) == []
