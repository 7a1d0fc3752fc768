"""The simulation of a call of the pool against closed forms."""

import pytest

from gainrl_ray.planning.rollouts import DecodeCost, EngineLimits, simulate_call

WIDE = EngineLimits(sequences=256, longest=100, cached_tokens=10**9)


def run(groups, *, engines=1, cost, limits=WIDE, shared=0.0):
    return simulate_call(groups, engines=engines, cost=cost, limits=limits, shared=shared)


def test_one_engine_without_a_tail_is_exact() -> None:
    cost = DecodeCost(fixed_s=0.5, sequence_s=0.25)
    (engine,) = run([(10, [20, 20])] * 3, cost=cost)
    assert engine.seconds == pytest.approx(20 * (0.5 + 0.25 * 6))
    assert (engine.steps, engine.tokens) == (20, 120)
    assert engine.prefilled == 3 * (10 + 8)  # the second of a group computes half a block


def test_a_tail_decodes_in_ever_smaller_batches() -> None:
    (engine,) = run([(10, [1, 3, 7])], cost=DecodeCost(fixed_s=1.0, sequence_s=0.1))
    assert engine.seconds == pytest.approx(7 * 1.0 + 0.1 * (1 + 3 + 7))


def test_decoding_is_bound_by_memory_or_by_products() -> None:
    cost = DecodeCost(fixed_s=0.0, weights_s=2.0, context_s=0.01, compute_s=1.0)
    (one,) = run([(10, [3])], cost=cost)
    assert one.seconds == pytest.approx(sum(2.0 + 0.01 * (10 + step) for step in range(3)))
    (many,) = run([(0, [3] * 8)], cost=cost)
    assert many.seconds == pytest.approx(3 * 8 * 1.0)


def test_a_full_batch_refills_as_sequences_end() -> None:
    limits = EngineLimits(sequences=2, longest=100, cached_tokens=10**9)
    (engine,) = run([(1, [4]), (1, [2]), (1, [2])], cost=DecodeCost(fixed_s=1.0), limits=limits)
    assert (engine.steps, engine.tokens, engine.seconds) == (4, 8, 4.0)


def test_a_small_cache_bounds_the_batch() -> None:
    limits = EngineLimits(sequences=9, longest=100, cached_tokens=25)
    (engine,) = run([(5, [5])] * 4, cost=DecodeCost(fixed_s=1.0), limits=limits)
    assert engine.steps == 10  # two at a time


def test_prompts_share_their_beginning() -> None:
    (engine,) = run([(30, [1, 1, 1])], cost=DecodeCost(fixed_s=0.0, prefill_s=1.0), shared=20)
    assert engine.seconds == 10 + 8 + 8


@pytest.mark.parametrize("engines", [1, 2, 3, 8])
def test_every_token_is_decoded_once(engines: int) -> None:
    lengths = [[1 + (7 * slot + 3 * sample) % 50 for sample in range(4)] for slot in range(100)]
    done = run(
        [(5, group) for group in lengths],
        engines=engines,
        cost=DecodeCost(fixed_s=0.1),
        limits=EngineLimits(sequences=16, longest=50, cached_tokens=10**9),
    )
    assert sum(engine.tokens for engine in done) == sum(map(sum, lengths))
    assert len(done) == engines


def test_more_engines_never_take_longer() -> None:
    groups = [(5, [1 + (13 * slot + sample) % 40 for sample in range(4)]) for slot in range(64)]
    cost = DecodeCost(fixed_s=0.01, sequence_s=0.001)
    seconds = [max(engine.seconds for engine in run(groups, engines=count, cost=cost)) for count in (1, 2, 4, 8, 16)]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > 2 * seconds[-1]
