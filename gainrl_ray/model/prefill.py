"""Prompts to angle concentration: a forward pass that ends at the signal layer."""

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
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

FEWEST_ROWS, WIDEST = 8, 1.25
"""A batch of so many rows takes no question of more than so many times its shortest's length."""

_LAYER_LISTS = ("layers", "h", "blocks")


class _Reached(Exception):
    """The signal layer was reached; what follows it in the model is not wanted."""


@dataclass(frozen=True, slots=True)
class _Prefix:
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


def signal_module(model: nn.Module) -> nn.Module:
    """The module whose input is the signal: the MLP of the decoder's last block.

    Its input is the post-attention-norm output of that block. Found by structure, the longest list of blocks with
    an `mlp`, so that depth and wrappers (an engine, adapters) do not matter.

    Raises: ModelError naming the class when there is no such list.

    Source: the released GAIN-RL code hooks the same tensor, at a layer number that fits one model size only.
    """
    get_decoder: Any = getattr(model, "get_decoder", None)
    decoder: Any = get_decoder() if callable(get_decoder) else model
    lists = [
        module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in _LAYER_LISTS and len(module) > 0
    ]
    blocks = max(lists, key=len, default=None)
    mlp = None if blocks is None else getattr(blocks[-1], "mlp", None)
    if not isinstance(mlp, nn.Module):
        raise ModelError(
            f"{type(model).__name__} has no signal layer: expected a list of decoder blocks named "
            f"{' or '.join(_LAYER_LISTS)} whose last block has an `mlp`, as in Qwen2, Llama or Mistral"
        )
    return mlp


def prefill_angles(model: Any, prompts: Sequence[Prompt], pad_id: int, batch_tokens: int) -> list[AngleScore]:
    """The angle concentration of every prompt, in the order given.

    model: a causal language model in evaluation mode; pad_id: any valid token id; batch_tokens: bound on
    rows * (prefix + longest question) of one forward pass (a single longer prompt runs alone).

    Each prefix is run once and its keys and values serve all its questions; suffixes are not run, since attention
    is causal. Questions are padded on the right, where causal attention never looks.

    Raises: ModelError when the model has no signal layer or fewer positions than a prompt has tokens.
    """
    _check_positions(model, prompts)
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        groups[prompt.token_ids[: prompt.prefix.stop]].append(index)
    order: list[int] = []
    found: list[Tensor] = []
    for prefix_ids, members in groups.items():
        prefix = _run_prefix(model, prefix_ids)
        for batch in _length_batches(prompts, members, prefix.tokens, batch_tokens):
            questions = [prompts[i].token_ids[prompts[i].question.start : prompts[i].question.stop] for i in batch]
            found.append(_question_angles(model, prefix, questions, pad_id))
            order += batch
    # One transfer for all: one a batch would have the device wait for Python each time.
    values = torch.cat(found).tolist() if found else []
    scores: dict[int, AngleScore] = {}
    for index, (c_intra, c_inter) in zip(order, values, strict=True):
        prompt = prompts[index]
        scores[index] = AngleScore(
            problem_id=prompt.problem_id,
            c_intra=c_intra,
            c_inter=c_inter,
            prompt_tokens=len(prompt.token_ids),
            question_tokens=prompt.question.length,
        )
    return [scores[index] for index in range(len(prompts))]


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


def _run_prefix(model: Any, token_ids: tuple[int, ...]) -> _Prefix:
    if not token_ids:
        return _Prefix(0, None, torch.zeros(1, dtype=torch.float64, device=model.device))
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    states = signal_states(model, torch.tensor([token_ids]), past_key_values=cache, use_cache=True)
    return _Prefix(len(token_ids), cache, unit_sums(states[0], torch.tensor([len(token_ids)]))[0])


def _question_angles(model: Any, prefix: _Prefix, questions: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """C_intra and C_inter of questions after a common prefix, [batch, 2] float64 on the model's device."""
    lengths = torch.tensor([len(question) for question in questions])
    within = torch.arange(int(lengths.max())) < lengths[:, None]
    token_ids = torch.full(within.shape, pad_id, dtype=torch.int64)
    token_ids[within] = torch.tensor(list(chain.from_iterable(questions)))
    cache = prefix.cache_of(len(questions))
    states = signal_states(model, token_ids, past_key_values=cache, use_cache=cache is not None)
    real = within.flatten().nonzero().squeeze(1).to(states.device)
    lengths = lengths.to(states.device)
    sums = unit_sums(states.flatten(0, 1)[real], lengths)
    angles = concentration_of_sums(sums, prefix.unit_sum, lengths, torch.full_like(lengths, prefix.tokens))
    return torch.stack(angles, dim=1)


def _length_batches(
    prompts: Sequence[Prompt], members: Sequence[int], prefix_tokens: int, batch_tokens: int
) -> Iterator[list[int]]:
    """Members by rising question length, cut so that rows * (prefix + longest question) <= batch_tokens.

    Also cut where padding would cost more than a larger batch saves (FEWEST_ROWS, WIDEST).
    """
    batch: list[int] = []
    for index in sorted(members, key=lambda member: prompts[member].question.length):
        length = prompts[index].question.length
        too_large = bool(batch) and (len(batch) + 1) * (prefix_tokens + length) > batch_tokens
        too_wide = len(batch) >= FEWEST_ROWS and length > WIDEST * prompts[batch[0]].question.length
        if too_large or too_wide:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _check_positions(model: Any, prompts: Sequence[Prompt]) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for prompt in prompts:
        if positions is not None and len(prompt.token_ids) > positions:
            raise ModelError(
                f"problem {prompt.problem_id}: its prompt has {len(prompt.token_ids)} tokens, the model has "
                f"{positions} positions; set data.prompt.max_tokens to {positions} or less"
            )
