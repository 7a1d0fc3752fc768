"""Learner and engine beside each other in one process, on a small random model: whether they differ, what mends it."""

import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from gainrl_ray.actors.buckets import pack
from gainrl_ray.actors.contents import contents
from gainrl_ray.actors.engine import RolloutEngine
from gainrl_ray.actors.weights import Probe
from gainrl_ray.algo.agreement import Agreement, agreement
from gainrl_ray.config import Config, ModelConfig
from gainrl_ray.errors import WeightSyncError
from gainrl_ray.model.loading import (
    brief,
    embedding_rows,
    ids_without_token,
    load_model,
    weights_as_on_disk,
)
from gainrl_ray.model.policy import PolicyModel
from gainrl_ray.model.probing import probe
from gainrl_ray.model.small import save_small

MOST_TOKENS = 2048
MOST_LOGITS = 1 << 28
"""Of a probe: 1 GiB in float32, which vLLM on CPU computes in one piece."""
FEWEST_TOKENS = 8
"""Of a probe on which an agreement says something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a trial came to: one of these."""

    facts: str = ""  # they agree; on what, and how closely
    problem: str = ""  # they do not; a sentence, and what to do
    untried: str = ""  # why no small model could be made


class Trial:
    """The class behind `FunctionTrial`."""

    def run(self, config: Config) -> Found:
        """Whether learner and engine compute the same function for the architecture of `config.model`.

        In float32, where no rounding hides a difference; in the run's dtype where vLLM has no float32 for it.
        """
        found = Found()
        for dtype in dict.fromkeys(("float32", config.model.dtype)):
            attention = "sdpa" if config.model.attention == "flash_attention_2" else config.model.attention
            model = config.model.model_copy(update={"dtype": dtype, "attention": attention})
            with tempfile.TemporaryDirectory(prefix="gainrl-") as name:
                try:  # an architecture that nobody has foreseen may raise anything
                    small = save_small(model, Path(name) / "model")
                    learner = _Learner(config, small)
                except Exception as error:
                    return Found(untried=brief(error))
                try:
                    with _pair(config, learner) as pair:
                        return pair.compared()
                except Exception as error:
                    said = textwrap.shorten(f"{type(error).__name__}: {error}", 400)
                    found = Found(problem=f"vLLM does not run its architecture with these settings ({said})")
        return found


FunctionTrial: Any = ray.remote(num_cpus=0)(Trial)


class _Learner:
    """The learner's side: a small model's policy, where a run's learners compute."""

    def __init__(self, config: Config, small: ModelConfig) -> None:
        on_gpu = config.rollout.gpus_per_engine and config.learner.gpus_per_worker
        self.small, model = small, load_model(small, sequence_tokens=config.sequence_tokens)
        # vLLM runs some (OLMo 2) by their transformers class, which it changes for whoever shares its process.
        model.base_model.do_not_compile = True
        self.policy = PolicyModel(model.to("cuda" if on_gpu else "cpu")).eval()

    def probe(self, ids: Sequence[int]) -> Probe:
        """The log-probabilities of these tokens."""
        logprobs, rounded = probe(self.policy, self.policy, ids)
        return Probe(token_ids=tuple(ids), logprobs=logprobs, rounded=rounded)


class _Pair:
    """An engine beside the learner, both of one model."""

    def __init__(self, config: Config, learner: _Learner, log_file: Path) -> None:
        small, rows = learner.small, embedding_rows(learner.small)
        self._config, self._learner = config, learner
        tokens = max(2, min(config.sequence_tokens - 1, MOST_TOKENS, MOST_LOGITS // rows))
        usable = np.setdiff1d(np.arange(rows), ids_without_token(small))
        self._ids = np.random.default_rng(0).choice(usable, tokens).tolist()
        rollout = {"tensor_parallel_size": 1, "colocated": False, "enforce_eager": True}
        self.engine = RolloutEngine(
            model=small,
            rollout=config.rollout.model_copy(update=rollout),
            tolerance=None,
            max_model_len=config.sequence_tokens,
            log_file=log_file,
            in_process=True,
        )

    def compared(self) -> Found:
        """Whether they agree with the folder's weights as each loads them, and once the engine has the learner's."""
        ids, model = self._ids, self._learner.policy.language_model
        known = replace(self._learner.probe(ids), contents=contents(model.parameters()))
        loaded = self._agreement(known)
        if not loaded.holds:
            none = "No setting was found that mends it; gainrl_ray/model/README.md tells which families run"
            return Found(problem=f"{_difference(loaded, len(ids))}. {self._remedy() or none}")
        try:
            self.engine.sync(0, pack(weights_as_on_disk(model), int(self._config.sync.bucket_mib * 2**20)), known)
        except WeightSyncError as error:
            return Found(problem=f"its weights do not reach the engine as they are. {error}")
        blocks = model.config.get_text_config().num_hidden_layers
        return Found(
            facts=f"{blocks} blocks with random weights, {len(ids):,} tokens, {self._learner.small.dtype}: "
            f"{loaded.mean:.1e} nats in the mean, {loaded.largest:.1e} at most"
        )

    def _agreement(self, known: Probe) -> Agreement:
        """How far the engine is from a learner whose log-probabilities are `known`."""
        found, rounded = self.engine.score(known.token_ids), [values[1:] for values in known.rounded]
        return agreement(found[1:], known.logprobs[1:], rounded, dtype=self._learner.small.dtype)

    def _agrees(self, learner: _Learner, tokens: int) -> bool:
        """Whether the engine computes the same as `learner` over the first so many tokens of the probe."""
        return self._agreement(learner.probe(self._ids[:tokens])).holds

    def _remedy(self) -> str:
        """A sentence on the setting with which they agree; "" where none was found."""
        small = self._learner.small
        if small.attention != "eager":
            eager = _Learner(self._config, small.model_copy(update={"attention": "eager"}))
            if self._agrees(eager, len(self._ids)):
                return "With eager attention they agree: --model.attention=eager"
        agreed = longest(lambda tokens: self._agrees(self._learner, tokens), len(self._ids))
        if not agreed:
            return ""
        prompt, response = self._config.data.prompt.max_tokens, self._config.rollout.max_new_tokens
        return (
            f"On sequences of up to {agreed:,} tokens they agree: lower data.prompt.max_tokens ({prompt:,}) or "
            f"rollout.max_new_tokens ({response:,}), which together are the longest"
        )


@contextmanager
def _pair(config: Config, learner: _Learner) -> Iterator[_Pair]:
    """Both, of which the engine ends with the block, so that the process can have another."""
    pair = _Pair(config, learner, Path(learner.small.path).with_name("engine.log"))
    try:
        yield pair
    finally:
        from vllm.distributed import cleanup_dist_env_and_memory  # not before the engine has said where to log

        pair.engine.close()
        cleanup_dist_env_and_memory()


def _difference(found: Agreement, tokens: int) -> str:
    return (
        "the learner (transformers) and the engine (vLLM) compute different functions. Over "
        f"{tokens:,} tokens of a small random model of its architecture log-probabilities differ by {found.mean:.2g} "
        f"nats in the mean and {found.largest:.2g} at most; rounding explains {found.allowed_mean:.2g} and "
        f"{found.allowed_largest:.2g}"
    )


def longest(agrees: Callable[[int], bool], most: int) -> int:
    """The largest number of tokens, below `most`, up to which `agrees`; 0 where it does not with FEWEST_TOKENS."""
    low, high = FEWEST_TOKENS, most
    if low >= high or not agrees(low):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if agrees(middle) else (low, middle)
    return low
