"""Prompts to angle concentration: a forward pass that ends at the signal layer."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from gainrl_ray.algo.angles import concentration_of_sums, unit_sums
from gainrl_ray.errors import ModelError
from gainrl_ray.types import AngleScore, Prompt

SIGNAL_VERSION = "last-mlp-input/1"
"""Names the tensor and the arithmetic of the signal; a change of either is a new version, and a new index."""

ENOUGH_TOKENS = {"cpu": 1024}
"""Padded question tokens, by device type, with which a batch is full: more run no faster, and leave a CPU's caches."""
ENOUGH_ELSEWHERE = 16384
"""The same of accelerators."""
WIDEST = 1.1
"""A batch of a quarter of enough tokens takes no question of more than so many times its shortest's length."""

_LAYER_LISTS = ("layers", "h", "blocks")


class _Reached(Exception):
    """The signal layer was reached; what follows it in the model is not wanted."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """What the prompts of one prefix share."""

    tokens: int
    cache: Any  # transformers Cache of one row; None without a prefix
    unit_sum: Tensor  # [hidden_size] float64, on the model's device

    def cache_of(self, rows: int) -> Any:
        """The cache for a batch of `rows` questions, to be added to; it shares the prefix's keys and values."""
        if self.cache is None:
            return None
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            # The signal layer may have none; a layer's update puts longer tensors in their place, never into them.
            if layer.get_seq_length() > 0:
                layer.keys, layer.values = (kept.expand(rows, -1, -1, -1) for kept in (layer.keys, layer.values))
        return cache


@dataclass(frozen=True, slots=True)
class PrefixBatch:
    """Sequences of one prefix, run together after it."""

    members: list[int]  # their places among the sequences asked for
    token_ids: Tensor  # [rows, width] int64, what follows the prefix, padded on the right
    lengths: Tensor  # [rows] int64, of the rows before their padding
    prefix: Prefix

    @property
    def inputs(self) -> dict[str, Any]:
        """What the model's forward takes beside the token ids: a cache of its own."""
        cache = self.prefix.cache_of(len(self.members))
        return {"past_key_values": cache, "use_cache": cache is not None}

    def real(self, states: Tensor) -> Tensor:
        """The states of the real tokens, [tokens, hidden_size], row after row; states: [rows, width, hidden_size]."""
        within = torch.arange(self.token_ids.shape[1]) < self.lengths[:, None]
        return states.flatten(0, 1)[within.flatten().nonzero().squeeze(1).to(states.device)]


def block_list(model: nn.Module) -> tuple[nn.Module, str] | None:
    """The module that holds the list of the decoder's blocks, and the list's name there: the longest of such a name."""
    get_decoder: Any = getattr(model, "get_decoder", None)
    decoder: Any = get_decoder() if callable(get_decoder) else model
    lists = [
        (len(child), owner, name)
        for owner in decoder.modules()
        for name, child in owner.named_children()
        if isinstance(child, nn.ModuleList) and name in _LAYER_LISTS and len(child) > 0
    ]
    longest = max(lists, key=lambda found: found[0], default=None)
    return None if longest is None else longest[1:]


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder's blocks, found by structure: the longest list of blocks, whose last has an `mlp`.

    Raises: ModelError naming the class when there is no such list.
    """
    found = block_list(model)
    blocks: Any = None if found is None else getattr(*found)
    if blocks is None or not isinstance(getattr(blocks[-1], "mlp", None), nn.Module):
        raise ModelError(
            f"{type(model).__name__} has no signal layer: expected a list of decoder blocks named "
            f"{' or '.join(_LAYER_LISTS)} whose last block has an `mlp`, as in Qwen2, Llama or Mistral"
        )
    return blocks


def signal_module(model: nn.Module) -> nn.Module:
    """The module whose input is the signal: the MLP of the decoder's last block.

    Its input is the post-attention-norm output of that block. Depth and wrappers (an engine, adapters) do not matter.

    Raises: ModelError when the model has no list of decoder blocks.

    Source: the released GAIN-RL code hooks the same tensor, at a layer number that fits one model size only.
    """
    mlp: Any = decoder_blocks(model)[-1].mlp
    return mlp


def prefill_angles(model: Any, prompts: Sequence[Prompt], pad_id: int, batch_tokens: int) -> list[AngleScore]:
    """The angle concentration of every prompt, in the order given.

    model: a causal language model in evaluation mode; pad_id: any valid token id; batch_tokens: bound on
    rows * (prefix + longest question) of one forward pass (a single longer prompt runs alone).

    Each prefix is run once and its keys and values serve all its questions; suffixes are not run, since attention
    is causal. Questions are padded on the right, where causal attention never looks.

    Raises: ModelError when the model has no signal layer or fewer positions than a prompt has tokens.
    """
    values = of_questions(model, prompts, pad_id, batch_tokens, _question_angles).tolist()
    return [
        AngleScore(
            problem_id=prompt.problem_id,
            c_intra=c_intra,
            c_inter=c_inter,
            prompt_tokens=len(prompt.token_ids),
            question_tokens=prompt.question.length,
        )
        for prompt, (c_intra, c_inter) in zip(prompts, values, strict=True)
    ]


def of_questions(
    model: Any,
    prompts: Sequence[Prompt],
    pad_id: int,
    batch_tokens: int,
    measure: Callable[[Any, PrefixBatch], Tensor],
) -> Tensor:
    """What `measure` finds of each question of a batch, of all prompts in the order given: [prompts, ...] on the CPU.

    Arguments and errors are those of `prefill_angles`.
    """
    prefixes = [prompt.token_ids[: prompt.prefix.stop] for prompt in prompts]
    questions = [prompt.token_ids[prompt.question.start : prompt.question.stop] for prompt in prompts]
    check_positions_of(model, prompts, [len(prompt.token_ids) for prompt in prompts])
    order: list[int] = []
    found: list[Tensor] = []
    for batch in prefix_batches(model, prefixes, questions, pad_id, batch_tokens):
        found.append(measure(model, batch))
        order += batch.members
    # One transfer for all: one a batch would have the device wait for Python each time.
    values = torch.cat(found).cpu() if found else torch.empty(0)
    return values[torch.argsort(torch.tensor(order, dtype=torch.long))]


def signal_states(model: Any, token_ids: Tensor, **inputs: Any) -> Tensor:
    """Input of the signal module, [batch, seq, hidden_size] in the model's dtype, without gradient.

    token_ids: [batch, seq]; inputs: further arguments of the model's forward. Nothing after the signal layer runs.
    """
    found: list[Tensor] = []

    def stop(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        found.append(arguments[0].detach())
        raise _Reached

    hook = signal_module(model).register_forward_pre_hook(stop)
    try:
        with torch.no_grad():
            model(input_ids=token_ids.to(model.device), **inputs)
    except _Reached:
        return found[0]
    finally:
        hook.remove()
    raise ModelError(f"{type(model).__name__} ran without calling the MLP of its last block: no signal to read")


def prefix_batches(
    model: Any, prefixes: Sequence[tuple[int, ...]], rests: Sequence[Sequence[int]], pad_id: int, batch_tokens: int
) -> Iterator[PrefixBatch]:
    """The sequences `prefixes[i]` + `rests[i]` in batches of one prefix, which is run once, and alike lengths.

    rests: each of one token or more; pad_id, batch_tokens: as `prefill_angles` takes them.
    """
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, prefix_ids in enumerate(prefixes):
        groups[prefix_ids].append(index)
    enough = ENOUGH_TOKENS.get(model.device.type, ENOUGH_ELSEWHERE)
    for prefix_ids, members in groups.items():
        prefix = _run_prefix(model, prefix_ids)
        lengths = {index: len(rests[index]) for index in members}
        for batch in _length_batches(lengths, prefix.tokens, batch_tokens, enough):
            rows = torch.tensor([lengths[index] for index in batch])
            within = torch.arange(int(rows.max())) < rows[:, None]
            token_ids = torch.full(within.shape, pad_id, dtype=torch.int64)
            token_ids[within] = torch.tensor(list(chain.from_iterable(rests[index] for index in batch)))
            yield PrefixBatch(batch, token_ids, rows, prefix)


def _run_prefix(model: Any, token_ids: tuple[int, ...]) -> Prefix:
    if not token_ids:
        return Prefix(0, None, torch.zeros(1, dtype=torch.float64, device=model.device))
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    states = signal_states(model, torch.tensor([token_ids]), past_key_values=cache, use_cache=True)
    return Prefix(len(token_ids), cache, unit_sums(states[0], torch.tensor([len(token_ids)]))[0])


def _question_angles(model: Any, batch: PrefixBatch) -> Tensor:
    """C_intra and C_inter of a batch's questions, [batch, 2] float64 on the model's device."""
    states = signal_states(model, batch.token_ids, **batch.inputs)
    lengths = batch.lengths.to(states.device)
    sums = unit_sums(batch.real(states), lengths)
    prefix_tokens = torch.full_like(lengths, batch.prefix.tokens)
    return torch.stack(concentration_of_sums(sums, batch.prefix.unit_sum, lengths, prefix_tokens), dim=1)


def _length_batches(lengths: dict[int, int], prefix_tokens: int, batch_tokens: int, enough: int) -> Iterator[list[int]]:
    """The keys by rising length, cut so that rows * (prefix + longest) <= batch_tokens.

    Also cut where more rows would save nothing (`enough` tokens after the prefix), or less than their padding costs
    (WIDEST).
    """
    batch: list[int] = []
    for index in sorted(lengths, key=lambda member: lengths[member]):
        length = lengths[index]
        padded = (len(batch) + 1) * length
        too_large = padded > enough or (len(batch) + 1) * prefix_tokens + padded > batch_tokens
        if batch and (too_large or (4 * padded > enough and length > WIDEST * lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def check_positions_of(model: Any, prompts: Sequence[Prompt], tokens: Sequence[int]) -> None:
    """Nothing; raises ModelError for a prompt that, with what follows it `tokens` long, the model has no room for."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for prompt, length in zip(prompts, tokens, strict=True):
        if positions is not None and length > positions:
            raise ModelError(
                f"problem {prompt.problem_id}: its prompt has {length} tokens, the model has "
                f"{positions} positions; set data.prompt.max_tokens to {positions} or less"
            )
