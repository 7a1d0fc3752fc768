"""Prompts to embeddings of their questions: mean states at the signal layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gainrl_ray.model.prefill import PrefixBatch, of_questions, signal_states
from gainrl_ray.types import Prompt


def question_means(model: Any, prompts: Sequence[Prompt], batch_tokens: int) -> Tensor:
    """The mean over question tokens of the signal layer's states, [prompts, hidden_size] float32 on the CPU.

    model, batch_tokens: as `prefill_angles` takes them; the states are those whose angles it measures.

    Raises: ModelError when the model has no signal layer or fewer positions than a prompt has tokens.
    """

    def means(model: Any, batch: PrefixBatch) -> Tensor:
        states = batch.real(signal_states(model, batch.token_ids, **batch.inputs)).float()
        return torch.segment_reduce(states, "mean", lengths=batch.lengths.to(states.device), axis=0)

    return of_questions(model, prompts, 0, batch_tokens, means)
