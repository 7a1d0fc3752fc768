"""How the rows of a micro-batch lie in a forward pass: see types.LineKind."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gainrl_ray.types import LineKind, MicroBatch

_PROMPT, _PADDING = 0, -1  # segments of a line; completions count from 1


@dataclass(frozen=True, slots=True)
class Layout:
    """The lines that go through the model, and where the wanted tokens are in them.

    A line is one row, or one pack: a prompt followed by several of its completions, each of which attends to the
    prompt and itself, from the position where the prompt ends; or all rows, each of which attends to itself. Every
    figure is that of the row alone.
    """

    kind: LineKind
    token_ids: Tensor  # [lines, width] int64, right-padded
    segments: Tensor  # [lines, width] int64: 0 prompt, 1.. completions, -1 padding; end to end: 1.. rows
    predecessors: Tensor  # [tokens] int64, in lines * width: what predicts each response token, row by row
    targets: Tensor  # [tokens] int64: the response tokens
    line_of_row: Tensor  # [rows] int64
    start_of_row: Tensor  # [rows] int64, place of its first token in the line
    longest: int  # tokens of the longest row

    def to(self, device: Any) -> "Layout":
        """The same on another device."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return replace(self, **{name: each.to(device) for name, each in fields.items() if isinstance(each, Tensor)})


def lay_out(batch: MicroBatch, response_mask: np.ndarray, kind: LineKind) -> Layout:
    """The layout of `batch`; response_mask [rows, seq] stands for the batch's own."""
    if kind is LineKind.END_TO_END:
        return _end_to_end(batch, response_mask)
    packs = batch.packs if kind is LineKind.PACKS else np.arange(len(batch.lengths))
    lines = [np.flatnonzero(packs == pack) for pack in dict.fromkeys(packs.tolist())]
    prompts = batch.lengths - batch.response_mask.sum(axis=1)
    widths = [int(prompts[rows[0]] + (batch.lengths - prompts)[rows].sum()) for rows in lines]
    shape = (len(lines), max(widths))
    token_ids, segments = np.zeros(shape, dtype=np.int64), np.full(shape, _PADDING, dtype=np.int64)
    line_of_row = np.zeros(len(batch.lengths), dtype=np.int64)
    places = np.zeros(batch.token_ids.shape, dtype=np.int64)  # of each row's tokens among all lines'
    for line, rows in enumerate(lines):
        prompt, end = int(prompts[rows[0]]), int(prompts[rows[0]])
        token_ids[line, :prompt] = batch.token_ids[rows[0], :prompt]
        segments[line, :prompt] = _PROMPT
        for number, row in enumerate(rows, start=1):
            start, length = end, int(batch.lengths[row])
            end += length - prompt
            token_ids[line, start:end] = batch.token_ids[row, prompt:length]
            segments[line, start:end] = number
            places[row, :length] = line * shape[1] + np.r_[0:prompt, start:end]
            line_of_row[row] = line
    wanted = np.nonzero(response_mask)
    starts = np.zeros_like(line_of_row)
    arrays = token_ids, segments, places[wanted[0], wanted[1] - 1], batch.token_ids[wanted], line_of_row, starts
    return Layout(kind, *map(torch.from_numpy, arrays), longest=int(batch.lengths.max()))


def _end_to_end(batch: MicroBatch, response_mask: np.ndarray) -> Layout:
    """All rows one after the other in one line, without padding."""
    lengths = batch.lengths
    starts = np.cumsum(lengths) - lengths
    is_token = np.arange(batch.token_ids.shape[1]) < lengths[:, None]
    numbers = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    wanted = np.nonzero(response_mask)
    predecessors = starts[wanted[0]] + wanted[1] - 1
    arrays = batch.token_ids[is_token][None], numbers[None], predecessors, batch.token_ids[wanted]
    tensors = map(torch.from_numpy, (*arrays, np.zeros_like(starts), starts))
    return Layout(LineKind.END_TO_END, *tensors, longest=int(lengths.max()))


def has_flash_attention(model: Any) -> bool:
    """Whether the model's attention is a kind of flash attention, by whatever name transformers found it."""
    from transformers.utils.generic import is_flash_attention_requested

    return is_flash_attention_requested(model.config)


def mask_dtype(model: Any) -> torch.dtype | None:
    """The dtype of the mask numbers that this model's attention adds; None where it takes booleans."""
    return None if model.config._attn_implementation == "sdpa" else model.dtype


def model_inputs(layout: Layout, *, additive: torch.dtype | None) -> dict[str, Any]:
    """What a transformers model takes for the layout.

    Lines of one row each need the plain mask of what is padding. Rows end to end need their positions, and where each
    row begins, which flash attention would otherwise find out from the positions in every layer, waiting for the GPU
    each time. Packs need their positions and the mask of who sees whom, [lines, 1, width, width]: boolean, or 0 and
    -inf-like numbers of the dtype `additive`.
    """
    segments = layout.segments
    if layout.kind is LineKind.END_TO_END:
        return {"input_ids": layout.token_ids, "position_ids": _positions(segments), **_row_bounds(layout)}
    if int(segments.max()) <= 1:
        return {"input_ids": layout.token_ids, "attention_mask": (segments != _PADDING).long()}
    width = segments.shape[1]
    order = torch.arange(width, device=segments.device)
    queries, keys = segments.unsqueeze(2), segments.unsqueeze(1)
    # Padding sees padding, so that no query is without a key.
    visible = ((keys == _PROMPT) | (keys == queries)) & (order <= order.unsqueeze(1))
    mask = visible.unsqueeze(1)
    if additive is not None:
        mask = torch.zeros(mask.shape, dtype=additive, device=mask.device).masked_fill(~mask, torch.finfo(additive).min)
    return {"input_ids": layout.token_ids, "attention_mask": mask, "position_ids": _positions(segments)}


def _row_bounds(layout: Layout) -> dict[str, Any]:
    """Where rows of one line begin and end, as transformers hands it to flash attention (FlashAttentionKwargs)."""
    bounds = nn.functional.pad(layout.start_of_row, (0, 1), value=layout.token_ids.shape[1]).int()
    longest = layout.longest
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


def _positions(segments: Tensor) -> Tensor:
    """[lines, width] int64: the place of each token in its own row."""
    prompt = (segments == _PROMPT).sum(dim=1, keepdim=True)
    order = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    begin = torch.where(starts, order, 0).cummax(dim=1).values  # of the segment that each token is in
    # Padding stays at 0, since what it reaches may be no position of the model.
    return torch.where(segments == _PROMPT, order, order - begin + prompt).masked_fill(segments == _PADDING, 0)
