"""Discrete-event simulation of one call of the engine pool: dealing groups, continuous batches, the long tail."""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

BLOCK_TOKENS = 16
"""Tokens of a block of vLLM's cache: a prompt is shared by whole blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCost:
    """Seconds of an engine's parts.

    A decode step of n sequences that hold `context` tokens takes
    max(weights_s + context_s * context, compute_s * n) + fixed_s + sequence_s * n.
    """

    fixed_s: float
    sequence_s: float = 0.0
    weights_s: float = 0.0
    context_s: float = 0.0
    compute_s: float = 0.0
    prefill_s: float = 0.0  # of one prompt token

    def step_s(self, sequences: float, context: float) -> float:
        """Seconds of one decode step."""
        work = max(self.weights_s + self.context_s * context, self.compute_s * sequences)
        return work + self.fixed_s + self.sequence_s * sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What bounds an engine's batch."""

    sequences: int  # rollout.max_num_seqs
    longest: int  # max_new_tokens, by which groups are dealt
    cached_tokens: int  # tokens of keys and values that fit


@dataclass(slots=True)
class EngineRun:
    """What one engine did in a call."""

    seconds: float = 0.0
    steps: int = 0  # decode steps
    tokens: int = 0  # decoded
    prefilled: float = 0.0  # prompt tokens computed


@dataclass(slots=True)
class _Engine:
    cost: DecodeCost
    limits: EngineLimits
    done: EngineRun = field(default_factory=EngineRun)
    queue: deque[tuple[int, int, bool]] = field(default_factory=deque)  # (prompt, completion, first of its group)
    running: list[tuple[int, int]] = field(default_factory=list)  # heap of (step at which it ends, its tokens then)
    context: float = 0.0  # tokens held
    ahead: float = 0.0  # tokens held when all that run have ended
    outstanding: int = 0
    dealt: float = 0.0  # prompts and longest completions outstanding

    def admit(self, shared: float) -> None:
        """Fill the batch; every prompt is computed once, its group's others find it in the cache."""
        while self.queue and len(self.running) < self.limits.sequences:
            prompt, length, first = self.queue[0]
            if self.running and self.ahead + prompt + length > self.limits.cached_tokens:
                break
            self.queue.popleft()
            fresh = prompt - shared if first else min(prompt, BLOCK_TOKENS / 2)
            self.done.prefilled += fresh
            self.done.seconds += fresh * self.cost.prefill_s
            heapq.heappush(self.running, (self.done.steps + length, prompt + length))
            self.context += prompt
            self.ahead += prompt + length

    def advance(self) -> None:
        """Decode until the next sequence ends."""
        ends, tokens = heapq.heappop(self.running)
        count, steps = len(self.running) + 1, ends - self.done.steps
        self.done.seconds += steps * self.cost.step_s(count, self.context + count * (steps - 1) / 2)
        self.done.steps = ends
        self.done.tokens += steps * count
        self.context += steps * count - tokens
        self.ahead -= tokens
        self.outstanding -= 1


def simulate_call(
    groups: Sequence[tuple[int, Sequence[int]]], *, engines: int, cost: DecodeCost, limits: EngineLimits, shared: float
) -> list[EngineRun]:
    """What each engine did to complete `groups`, (prompt tokens, completion lengths) each.

    As actors/pool.py and actors/dispatch.py do it: whole groups go to the engine with the fewest tokens outstanding
    as long as it stays within 5/4 of max_num_seqs requests; the rest waits for room.
    """
    waiting = deque(groups)
    pool = [_Engine(cost, limits) for _ in range(engines)]
    most = limits.sequences + max(8, limits.sequences // 4)
    _deal(waiting, pool, most, limits.longest)
    clock = [(engine.done.seconds, index) for index, engine in enumerate(pool) if engine.outstanding]
    heapq.heapify(clock)
    while clock:
        _, index = heapq.heappop(clock)
        engine = pool[index]
        engine.admit(shared)
        if not engine.running:
            continue
        before = engine.outstanding
        engine.dealt *= (before - 1) / before
        engine.advance()
        idle = {number for number, other in enumerate(pool) if not other.outstanding}
        if waiting:
            _deal(waiting, pool, most, limits.longest)
        for number in idle:
            if pool[number].outstanding and number != index:
                pool[number].done.seconds = max(pool[number].done.seconds, engine.done.seconds)
                heapq.heappush(clock, (pool[number].done.seconds, number))
        if engine.outstanding:
            heapq.heappush(clock, (engine.done.seconds, index))
    return [engine.done for engine in pool]


def _deal(waiting: deque[tuple[int, Sequence[int]]], pool: Sequence[_Engine], most: int, longest: int) -> None:
    while waiting:
        prompt, lengths = waiting[0]
        roomy = [engine for engine in pool if not engine.outstanding or engine.outstanding + len(lengths) <= most]
        if not roomy:
            return
        waiting.popleft()
        engine = min(roomy, key=lambda engine: (engine.dealt, engine.outstanding))
        engine.queue.extend((prompt, length, number == 0) for number, length in enumerate(lengths))
        engine.outstanding += len(lengths)
        engine.dealt += len(lengths) * (prompt + longest)
