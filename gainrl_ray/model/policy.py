"""Micro-batches through a causal language model: log-probabilities of the responses, angles of the prompts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gainrl_ray.algo.angles import angle_concentration, without_diagonal
from gainrl_ray.data.vocabulary import UNUSED_IDS
from gainrl_ray.model.layout import Layout, lay_out, mask_dtype, model_inputs
from gainrl_ray.model.prefill import signal_module
from gainrl_ray.model.trials import head_is_plain, line_kind
from gainrl_ray.types import MicroBatch

LOGITS_OF_A_CHUNK = 1 << 26
"""Logits held at a time, numbers: 256 MiB in float32."""


@dataclass(frozen=True, slots=True)
class Angles:
    """Angle concentration of the rows of a micro-batch whose slot is wanted, each [rows] float64 on the CPU."""

    slots: Tensor  # int64
    c_intra: Tensor
    c_inter: Tensor
    question_tokens: Tensor  # int64

    def by_slot(self, *, diagonal: bool) -> dict[int, float]:
        """The sum of both parts by slot; `diagonal`: with the angles of tokens with themselves (scoring.diagonal)."""
        c_intra = self.c_intra.numpy()
        if not diagonal:
            c_intra = without_diagonal(c_intra, self.question_tokens.numpy())
        return dict(zip(self.slots.tolist(), (c_intra + self.c_inter.numpy()).tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """What one forward pass gives."""

    logprobs: Tensor  # [batch, seq] float32, 0 where the response mask is False; carries the gradient
    entropy: Tensor  # [batch, seq] float32 nats, of the distribution that token was drawn from; detached, 0 likewise
    angles: Angles | None  # when asked for


class PolicyModel(nn.Module):
    """A transformers causal language model whose forward gives log-probabilities instead of logits.

    Where the logits are a linear head on the base model's last hidden states, the head is applied to response
    positions alone, in chunks that are recomputed in the backward pass, so that no more than a chunk of logits
    exists. That is tried out at construction (`model.trials`), not looked up by class name: models that scale or cap
    their logits (Gemma 2, Cohere, Granite) or have another head go through their own forward, with the logits of all
    positions.
    Ids that stand for no token (see `load_model`) have probability 0.
    """

    def __init__(self, model: Any, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.language_model = model
        _without_dropout(model)
        model.config.use_cache = False
        if gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.response_head = ResponseHead(model.get_output_embeddings()) if head_is_plain(model) else None
        self.lines = line_kind(model)
        """How rows go through the model."""

    def forward(
        self, predecessors: Tensor, targets: Tensor | None, temperature: float, **inputs: Any
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of `targets` and the entropies of their distributions, each [tokens] float32.

        predecessors: [tokens] int64, places in lines * width of the tokens that predict them; inputs: as
        `model_inputs` gives them, or with a cache and use_cache=True. Without targets the base model alone runs, and
        zeros are returned.
        """
        model, inputs = self.language_model, {"use_cache": False} | inputs
        unused_ids = getattr(model, UNUSED_IDS, None)
        if targets is None:
            model.base_model(**inputs)
            zeros = torch.zeros(predecessors.shape, device=predecessors.device)
            return zeros, zeros
        if self.response_head is not None:
            hidden = model.base_model(**inputs).last_hidden_state
            return self.response_head(hidden.flatten(0, 1)[predecessors], targets, temperature, unused_ids)
        logits = model(**inputs).logits
        return _logprobs(logits.flatten(0, 1)[predecessors], targets, temperature, unused_ids)


class ResponseHead(nn.Module):
    """The output embedding applied in chunks; a module of its own so that ZeRO-3 gathers its weight once a pass."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # In a tuple, so that the weight stays a parameter of the language model alone.
        self._linear = (linear,)
        self.logits = nn.Identity()
        """What all logits pass through, for those who want to see or change them."""

    @property
    def linear(self) -> nn.Linear:
        """The language model's output embedding."""
        return self._linear[0]

    def forward(
        self, hidden: Tensor, targets: Tensor, temperature: float, unused_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of targets and entropies, each [tokens] float32, from hidden [tokens, hidden_size]."""

        def of_chunk(states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            # Not by a call of the module, which would gather its weight for each chunk anew.
            return _logprobs(self.logits(self.linear.forward(states)), ids, temperature, unused_ids)

        size = max(1, LOGITS_OF_A_CHUNK // self.linear.out_features)
        chunks = list(zip(hidden.split(size), targets.split(size), strict=True))
        recompute = torch.is_grad_enabled() and len(chunks) > 1
        values = [
            checkpoint(of_chunk, states, ids, use_reentrant=False) if recompute else of_chunk(states, ids)
            for states, ids in chunks
        ]
        return torch.cat([value[0] for value in values]), torch.cat([value[1] for value in values])


def forward_micro_batch(
    forward: Callable[..., tuple[Tensor, Tensor]],
    policy: PolicyModel,
    batch: MicroBatch,
    *,
    temperature: float,
    measure: bool,
    prompt_only: bool = False,
) -> PolicyOutput:
    """The output for one micro-batch, on the policy's device; the gradient flows through `logprobs` only.

    `forward` is `policy` itself or the DeepSpeed engine around it. `temperature` is the sampling temperature and
    divides the logits, so that log-probabilities are those of the distribution that was sampled from.
    `measure` gives the angles of rows with a slot, from the signal layer of this very pass: attention is causal, so
    they are those of the prompt alone. `prompt_only` skips the head; logprobs and entropy are 0 then.
    """
    device = next(policy.parameters()).device
    mask = _never_empty(batch.response_mask)
    layout = lay_out(batch, mask, policy.lines).to(device)
    inputs = model_inputs(layout, additive=mask_dtype(policy.language_model))
    with _measured(policy, batch, layout) if measure else _nothing() as measured:
        values = forward(layout.predecessors, None if prompt_only else layout.targets, temperature, **inputs)
    wanted, real = torch.from_numpy(mask).to(device), torch.from_numpy(batch.response_mask).to(device)
    zeros = torch.zeros(mask.shape, device=device)
    logprobs, entropy = (torch.where(real, zeros.masked_scatter(wanted, value), 0.0) for value in values)
    return PolicyOutput(logprobs=logprobs, entropy=entropy.detach(), angles=measured[0] if measured else None)


def _logprobs(
    logits: Tensor, targets: Tensor, temperature: float, unused_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, [tokens] float32; logits: [tokens, vocab]."""
    scaled = logits.float() / temperature
    if unused_ids is not None:
        scaled.index_fill_(-1, unused_ids, float("-inf"))
    log_normaliser = scaled.logsumexp(dim=-1)
    logprobs = scaled.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - log_normaliser
    with torch.no_grad():
        log_probabilities = scaled - log_normaliser.unsqueeze(-1)
        # A probability of 0 has a log of -inf and no part in the entropy.
        entropy = -(log_probabilities.exp() * log_probabilities.clamp(min=torch.finfo(torch.float32).min)).sum(dim=-1)
    return logprobs, entropy


def _never_empty(mask: np.ndarray) -> np.ndarray:
    """The mask, with one position more for a dummy: its loss of 0 must reach every weight, as ZeRO-3 expects."""
    if mask.any():
        return mask
    mask = mask.copy()
    mask[0, 1] = True
    return mask


@contextmanager
def _measured(policy: PolicyModel, batch: MicroBatch, layout: Layout) -> Iterator[list[Angles]]:
    """A list that holds the batch's angles once the signal layer has run within the context."""
    rows = torch.from_numpy(batch.slots >= 0).nonzero().squeeze(1)
    prefix_stop, question_stop, slots = (
        torch.from_numpy(array)[rows] for array in (batch.prefix_stop, batch.question_stop, batch.slots)
    )
    device = layout.token_ids.device
    lines, starts = (of_row[rows.to(device)].unsqueeze(1) for of_row in (layout.line_of_row, layout.start_of_row))
    # What a row's place after the line's end stands for is after the question, where it has no effect.
    reach = torch.arange(int(question_stop.max()) if len(rows) else 0, device=device)
    places = (starts + reach).clamp(max=layout.token_ids.shape[1] - 1)
    found: list[Angles] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            states = inputs[0].detach()[lines, places]
            c_intra, c_inter = angle_concentration(states, prefix_stop, question_stop)
        found.append(Angles(slots, c_intra.cpu(), c_inter.cpu(), question_stop - prefix_stop))

    handle = signal_module(policy.language_model).register_forward_pre_hook(keep) if len(rows) else None
    try:
        yield found
    finally:
        if handle is not None:
            handle.remove()


@contextmanager
def _nothing() -> Iterator[list[Angles]]:
    """An empty list."""
    yield []


def _without_dropout(model: Any) -> None:
    """Dropout rates become 0: the ratio of two passes over the same weights must be 1."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
