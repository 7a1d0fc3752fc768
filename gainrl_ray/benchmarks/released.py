"""The released GAIN-RL scoring procedure, told in our own words, as the peer that scoring is measured against.

What it costs is kept: one prompt a forward pass, the whole model with its head, the states of all prompts held until
the end, a T x T matrix of cosines each. What it gets wrong is not (spans, masks, weights): the score is the paper's.

Source: `wangqinsi1/GAINRL`, data_processor.py; arXiv 2506.02281, section 3.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gainrl_ray.model.prefill import signal_module
from gainrl_ray.types import Prompt


def released_scores(model: Any, prompts: Sequence[Prompt]) -> list[float]:
    """C_intra + C_inter of every prompt."""
    held: list[Tensor] = []
    hook = signal_module(model).register_forward_pre_hook(lambda _, inputs: held.append(inputs[0][0].detach()))
    try:
        with torch.no_grad():
            for prompt in prompts:
                model(input_ids=torch.tensor([prompt.token_ids], device=model.device), use_cache=False)
    finally:
        hook.remove()
    return [_score(states, prompt) for states, prompt in zip(held, prompts, strict=True)]


def _score(states: Tensor, prompt: Prompt) -> float:
    """The mean cosines within the question and between question and prefix, from the full matrix."""
    unit = torch.nn.functional.normalize(states.float(), dim=1)
    cosines = unit @ unit.T
    question, prefix = (slice(span.start, span.stop) for span in (prompt.question, prompt.prefix))
    return float(cosines[question, question].mean() + cosines[question, prefix].mean())
