"""What an engine that disagrees with the learner suffers from: damaged weights, or another idea of the model."""

from collections.abc import Callable, Sequence

from gainrl_ray.actors.weights import Probe

CLEAR = 10.0
"""How many times nearer something is when it is the explanation; a mismatch is far above rounding anyway."""


class FirstLook:
    """What an engine makes of its first probe with the model folder's own weights, as vLLM itself loads them."""

    def __init__(self) -> None:
        self._is_over = False
        self._logprobs: tuple[float, ...] | None = None

    def take(self, score: Callable[[Sequence[int]], tuple[float, ...]], probe: Probe | None) -> None:
        """To be called before each sync, of which the first replaces those weights; without a probe none is taken."""
        self._logprobs = score(probe.token_ids) if probe is not None and not self._is_over else None
        self._is_over = True

    def explanation(self, found: Sequence[float], expected: Sequence[float]) -> str:
        """A sentence on the cause of a mismatch after this sync, and what to do.

        found: log-probabilities of the probe after the sync; expected: the learner's.
        """
        if self._logprobs is not None:
            synced = _apart(found, expected)
            if CLEAR * (started := _apart(self._logprobs, expected)) < synced:
                return (
                    f"With the weights as vLLM itself loads them it agreed up to {started:.2g} nats: the sync damages "
                    "this model's weights, which is a fault of gainrl_ray; please report it with the config.json"
                )
            if CLEAR * _apart(self._logprobs, found) < synced:
                return (
                    "It did so with the weights as vLLM itself loads them: vLLM and transformers compute this model "
                    "differently. See gainrl_ray/model/README.md; try model.attention=eager, model.dtype=float32 or "
                    "shorter sequences (rollout.max_new_tokens)"
                )
        return "The engine does not hold the learner's weights, or vLLM and transformers compute this model differently"


def _apart(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest difference, nats; nan counts as infinitely far."""
    differences = [abs(x - y) for x, y in zip(a, b, strict=True)]
    return max(float("inf") if difference != difference else difference for difference in differences)
