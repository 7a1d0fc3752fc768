"""The cause that is given for a mismatch, from what an engine made of a probe before and after its first sync."""

import re
from collections.abc import Sequence

import pytest

from gainrl_ray.actors.mismatch import FirstLook
from gainrl_ray.actors.weights import Probe

LEARNER = (0.0, -1.0, -2.0)
WRONG = (0.0, -1.5, -2.0)
PROBE = Probe(token_ids=(5, 6, 7), logprobs=LEARNER)


def engine(logprobs: tuple[float, ...]) -> tuple[list[Sequence[int]], FirstLook]:
    """What the engine was asked, and the look at it."""
    asked: list[Sequence[int]] = []

    def score(token_ids: Sequence[int]) -> tuple[float, ...]:
        asked.append(token_ids)
        return logprobs

    look = FirstLook()
    look.take(score, PROBE)
    return asked, look


@pytest.mark.parametrize(
    ("as_loaded", "cause"),
    [
        ((0.0, -1.001, -2.0), r"agreed up to 0.001 nats: the sync damages this model's weights"),
        ((0.0, -1.5001, -2.0), r"vLLM and transformers compute this model differently. See .* model.attention=eager"),
        ((0.0, float("nan"), -2.0), r"does not hold the learner's weights, or vLLM and transformers"),
        ((0.0, -1.25, -2.0), r"does not hold the learner's weights, or vLLM and transformers"),
    ],
)
def test_the_cause_is_what_is_clearly_nearer(as_loaded: tuple[float, ...], cause: str) -> None:
    _, look = engine(as_loaded)
    assert re.search(cause, look.explanation(WRONG, LEARNER))


def test_only_an_engine_that_has_loaded_nothing_tells() -> None:
    asked, look = engine(LEARNER)
    assert asked == [PROBE.token_ids]
    look.take(lambda ids: pytest.fail("its own weights are gone"), PROBE)
    assert look.explanation(WRONG, LEARNER).startswith("The engine does not hold")
    asleep = FirstLook()
    asleep.take(lambda ids: pytest.fail("it has no weights"), None)
    assert asleep.explanation(WRONG, LEARNER).startswith("The engine does not hold")
