"""Which ids of a model stand for tokens: an embedding may have more rows than its tokenizer has tokens, or fewer."""

from collections.abc import Iterable
from typing import Any

UNUSED_IDS = "unused_ids"
"""The buffer of a loaded model that holds them, int64; models without any lack it."""


ROWS = "embedding_rows"
"""The attribute of a loaded tokenizer that holds the number of ids its model knows."""


def unused_ids(tokenizer: Any, rows: int) -> tuple[int, ...]:
    """The ids below `rows` that stand for no token, ascending; empty where the tokenizer covers the embedding.

    Embeddings are padded to a round number of rows (Qwen2.5: 151,936 for 151,665 tokens). What the model makes of
    such a row is no text, so neither the engine samples it nor the learner counts it as possible.
    """
    used = set(tokenizer.get_vocab().values())
    return tuple(token_id for token_id in range(rows) if token_id not in used)


def rowless_tokens(tokenizer: Any, token_ids: Iterable[int]) -> list[str]:
    """Those of the tokens that the tokenizer's model has no row for, in order of their ids.

    Tokenizers bring such tokens along, one of a picture or an added [PAD]: no harm as long as no prompt holds them.
    """
    rows = getattr(tokenizer, ROWS, None)
    beyond = () if rows is None else sorted({token_id for token_id in token_ids if token_id >= rows})
    return tokenizer.convert_ids_to_tokens(list(beyond))
