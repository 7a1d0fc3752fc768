"""What a model can do, tried out on few of its blocks when it is loaded: a plain head, rows that share a line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from gainrl_ray.model.layout import has_flash_attention, lay_out, mask_dtype, model_inputs
from gainrl_ray.model.prefill import block_list
from gainrl_ray.types import LineKind, MicroBatch

_Found = TypeVar("_Found")
_NOT_UNDERSTOOD = (TypeError, ValueError, RuntimeError, IndexError, AttributeError)


def head_is_plain(model: Any) -> bool:
    """True when the model's logits are its output embedding applied to its base model's last hidden states."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or model.base_model is model:
        return False
    token_ids = torch.arange(4, device=head.weight.device).unsqueeze(0)

    def logits() -> tuple[Tensor, Tensor]:
        found = model(input_ids=token_ids, use_cache=False).logits
        return found, head(model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state)

    found, plain = _tried(model, logits)
    return found.shape == plain.shape and torch.allclose(found.float(), plain.float(), rtol=1e-3, atol=1e-3)


def line_kind(model: Any) -> LineKind:
    """How rows go through the model: end to end with flash attention, else packed, where that changes nothing.

    That is tried out on a prompt with two completions, since masks of four dimensions and positions are not understood
    by every attention and architecture. Layers that look back over a window only are refused by name: a short line
    would not show the difference.
    """
    config = model.config.get_text_config()
    windows = {"sliding_attention", "chunked_attention"} & set(getattr(config, "layer_types", None) or ())
    if windows or (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)):
        return LineKind.ROWS
    kind = LineKind.PACKS
    if has_flash_attention(model):
        kind = LineKind.END_TO_END
        if not getattr(model, "_supports_attention_backend", False):  # its layers may keep rows' ends from the kernel
            return LineKind.ROWS
    try:
        wanted, found = _tried(model, lambda: [trial_states(model, each) for each in (LineKind.ROWS, kind)])
    except _NOT_UNDERSTOOD:
        return LineKind.ROWS
    tolerance = 1e-4 if model.dtype == torch.float32 else 3e-2
    return kind if (wanted - found).abs().max() <= tolerance * wanted.abs().max() else LineKind.ROWS


def trial_states(model: Any, kind: LineKind) -> Tensor:
    """[tokens, hidden_size] float32: last hidden states before the trial's response tokens."""
    layout = lay_out(_TRIAL, _TRIAL.response_mask, kind).to(model.device)
    states = model.base_model(**model_inputs(layout, additive=mask_dtype(model)), use_cache=False).last_hidden_state
    return states.flatten(0, 1)[layout.predecessors].float()


@torch.no_grad()
def _tried(model: Any, trial: Callable[[], _Found]) -> _Found:
    """What `trial` returns on few blocks, or on all where the model does not run without the others."""
    with _attention_anywhere(model):
        try:
            with few_blocks(model):
                return trial()
        except _NOT_UNDERSTOOD:
            return trial()


@contextmanager
def few_blocks(model: Any) -> Iterator[None]:
    """The model without the decoder's later blocks, each kind of block among those that it keeps.

    A whole model of some billion weights takes a CPU minutes, on every rank; rounding, which grows with the depth,
    hides more of what is looked for, and a mask or position not understood shows in the first block.
    """
    found = block_list(model)
    if found is None:
        yield
        return
    owner, name = found
    blocks: Any = getattr(owner, name)
    setattr(owner, name, blocks[: few(model, blocks)])
    try:
        yield
    finally:
        setattr(owner, name, blocks)


def few(model: Any, blocks: Any) -> int:
    """The number of the model's first decoder blocks among which is each kind of block."""
    names = getattr(model.config.get_text_config(), "layer_types", None) or [None] * len(blocks)
    kinds = [(of_layer, *_kind(block)) for of_layer, block in zip(names, blocks, strict=False)]
    return 1 + max(map(kinds.index, kinds))


def _kind(block: nn.Module) -> Iterator[tuple[Any, ...]]:
    """What tells blocks apart: their modules' places, types, flags and names; of numbers, whether there is one."""
    for place, module in block.named_modules():
        facts = {key: value if isinstance(value, bool | str) else type(value) for key, value in vars(module).items()}
        yield place, type(module), {key: fact for key, fact in facts.items() if not key.startswith("_")}


@contextmanager
def _attention_anywhere(model: Any) -> Iterator[None]:
    """Models are tried out on the CPU, where they were loaded: one with flash attention, which needs a GPU, by sdpa."""
    chosen = model.config._attn_implementation
    if has_flash_attention(model):
        model.config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        model.config._attn_implementation = chosen


def _trial() -> MicroBatch:
    """Two completions of three and two tokens after a prompt of four."""
    mask = np.zeros((2, 7), dtype=bool)
    mask[0, 4:7] = mask[1, 4:6] = True
    zeros = np.zeros(mask.shape, dtype=np.float32)
    return MicroBatch(
        token_ids=np.asarray([[5, 6, 7, 8, 9, 10, 11], [5, 6, 7, 8, 12, 13, 0]]),
        lengths=np.asarray([7, 6]),
        response_mask=mask,
        token_weights=zeros,
        advantages=zeros[:, 0],
        generator_logprobs=zeros,
        prefix_stop=np.asarray([1, 1]),
        question_stop=np.asarray([3, 3]),
        slots=np.asarray([-1, -1]),
        packs=np.asarray([0, 0]),
    )


_TRIAL = _trial()
