"""Which engine gets which requests: groups of equal prompts to whoever has the fewest tokens to do."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from gainrl_ray.errors import EngineError
from gainrl_ray.types import Completion, SampleRequest


@dataclass(slots=True)
class GenerationFigures:
    """What one call of the pool's `generate` did."""

    completions: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    resent: int = 0  # requests sent again after their engine was lost
    seconds: float = 0.0

    def count(self, request: SampleRequest, completion: Completion) -> None:
        """Add a request that was answered."""
        self.completions += 1
        self.prompt_tokens += len(request.token_ids)
        self.completion_tokens += len(completion.token_ids)


@dataclass(slots=True)
class Seat:
    """What an engine holds already."""

    index: int
    requests: int
    tokens: int  # prompts and completions at their longest


def token_count(requests: Sequence[SampleRequest]) -> int:
    """Tokens of prompts and completions together, every completion at its longest."""
    return sum(len(request.token_ids) + request.sampling.max_new_tokens for request in requests)


def grouped(requests: Sequence[SampleRequest]) -> deque[list[SampleRequest]]:
    """The requests in lists of equal prompts, the longest first, so that none of them is begun last.

    Of a completion's length only the limit is known beforehand; equal ones stay in the order of the first of each.
    """
    groups: dict[tuple[int, ...], list[SampleRequest]] = {}
    for request in requests:
        groups.setdefault(request.token_ids, []).append(request)
    return deque(sorted(groups.values(), key=lambda group: -token_count(group[:1])))


def check_requests(requests: Sequence[SampleRequest], limit: int, asked: int, served: int | None) -> None:
    """Raise EngineError for ids that are not unique, for a request of no or more than `limit` tokens, and when the
    version `asked` for is not the one `served`."""
    if asked != served:
        raise EngineError(f"completions of version {asked} were asked, the engines serve {served}: sync first")
    if len({request.request_id for request in requests}) != len(requests):
        raise EngineError(f"received {len(requests)} requests whose ids are not unique")
    for request in requests:
        size = len(request.token_ids) + request.sampling.max_new_tokens
        if size > limit or not request.token_ids:
            raise EngineError(
                f"request {request.request_id!r}: prompt of {len(request.token_ids)} tokens and up to "
                f"{request.sampling.max_new_tokens} new ones; accepted are 1 to {limit} together"
            )


def deal(waiting: deque[list[SampleRequest]], seats: Sequence[Seat], limit: int) -> dict[int, list[SampleRequest]]:
    """Engine index -> its new requests; dealt groups leave `waiting`, and `seats` are brought up to date.

    The first group goes to the engine with the fewest tokens among those that stay within `limit` requests; an
    engine that holds nothing takes a group of any size. What finds no room waits, so that an engine that comes
    later finds work.
    """
    dealt: dict[int, list[SampleRequest]] = {}
    while waiting:
        size = len(waiting[0])
        roomy = [seat for seat in seats if seat.requests == 0 or seat.requests + size <= limit]
        if not roomy:
            break
        group = waiting.popleft()
        seat = min(roomy, key=lambda seat: (seat.tokens, seat.requests, seat.index))
        seat.requests += size
        seat.tokens += token_count(group)
        dealt.setdefault(seat.index, []).extend(group)
    return dealt
