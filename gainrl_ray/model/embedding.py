"""Prompts to embeddings of their questions: mean states at the signal layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gainrl_ray.model.prefill import check_positions_of, prefix_batches, signal_states
from gainrl_ray.types import Prompt


def question_means(model: Any, prompts: Sequence[Prompt], batch_tokens: int) -> Tensor:
    """The mean over question tokens of the signal layer's states, [prompts, hidden_size] float32 on the CPU.

    model, batch_tokens: as `prefill_angles` takes them; the states are those whose angles it measures.

    Raises: ModelError when the model has no signal layer or fewer positions than a prompt has tokens.
    """
    prefixes = [prompt.token_ids[: prompt.prefix.stop] for prompt in prompts]
    questions = [prompt.token_ids[prompt.question.start : prompt.question.stop] for prompt in prompts]
    check_positions_of(model, prompts, [len(prompt.token_ids) for prompt in prompts])
    order: list[int] = []
    found: list[Tensor] = []
    for batch in prefix_batches(model, prefixes, questions, 0, batch_tokens):
        states = batch.real(signal_states(model, batch.token_ids, **batch.inputs)).float()
        found.append(torch.segment_reduce(states, "mean", lengths=batch.lengths.to(states.device), axis=0))
        order += batch.members
    means = torch.cat(found).cpu()
    return means[torch.argsort(torch.tensor(order))]
