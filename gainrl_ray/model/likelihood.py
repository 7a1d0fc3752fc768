"""Prompts with their reference answers to the likelihood of the answers, teacher-forced in one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gainrl_ray.model.policy import PolicyModel
from gainrl_ray.model.prefill import PrefixBatch, check_positions_of, prefix_batches
from gainrl_ray.types import Prompt


@dataclass(frozen=True, slots=True)
class GoldSequence:
    """A prompt, what follows it, and how many tokens of that, the last, are the reference answer."""

    prompt: Prompt
    token_ids: tuple[int, ...]  # after the prompt
    gold_tokens: int  # 1 or more


def gold_likelihoods(policy: PolicyModel, sequences: Sequence[GoldSequence], batch_tokens: int) -> list[float]:
    """exp(mean log-probability of the answer's tokens) of each sequence, in [0, 1].

    policy: in evaluation mode; batch_tokens: bound on rows * (prefix + longest rest) of a forward pass. The common
    prefix of prompts is run once. Log-probabilities are those of temperature 1.

    Raises: ModelError when the model has fewer positions than a sequence has tokens.

    Source: UFO-RL, arXiv 2505.12457. Departure: the answer's tokens stand after the prompt of training and a text of
    the caller's, there after "<answer> ".
    """
    model = policy.language_model
    prompts = [sequence.prompt for sequence in sequences]
    prefixes = [prompt.token_ids[: prompt.prefix.stop] for prompt in prompts]
    rests = [(*item.prompt.token_ids[item.prompt.prefix.stop :], *item.token_ids) for item in sequences]
    check_positions_of(model, prompts, [len(a) + len(b) for a, b in zip(prefixes, rests, strict=True)])
    order: list[int] = []
    found: list[Tensor] = []
    for batch in prefix_batches(model, prefixes, rests, 0, batch_tokens):
        gold = torch.tensor([sequences[place].gold_tokens for place in batch.members])
        found.append(_mean_logprobs(policy, batch, gold))
        order += batch.members
    values = dict(zip(order, torch.cat(found).exp().tolist() if found else [], strict=True))
    return [values[place] for place in range(len(sequences))]


@torch.no_grad()
def _mean_logprobs(policy: PolicyModel, batch: PrefixBatch, gold_tokens: Tensor) -> Tensor:
    """[rows] float64, of the last `gold_tokens` of each row."""
    places = torch.arange(batch.token_ids.shape[1])
    is_gold = (places < batch.lengths[:, None]) & (places >= (batch.lengths - gold_tokens)[:, None])
    # The question stands before, so that no answer begins a row.
    targets, predecessors = batch.token_ids[is_gold], is_gold.flatten().nonzero().squeeze(1) - 1
    device = policy.language_model.device
    logprobs, _ = policy(
        predecessors.to(device), targets.to(device), 1.0, input_ids=batch.token_ids.to(device), **batch.inputs
    )
    return torch.segment_reduce(logprobs.double(), "mean", lengths=gold_tokens.to(device), axis=0)
