"""Groups stay together, go to whoever has the least to do, and wait where there is no room."""

from gainrl_ray.actors.dispatch import Seat, deal, grouped, token_count
from gainrl_ray.types import SampleRequest, Sampling


def request(name: str, prompt: tuple[int, ...], new_tokens: int = 10) -> SampleRequest:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=new_tokens)
    return SampleRequest(request_id=name, token_ids=prompt, seed=0, sampling=sampling)


def names(dealt: dict[int, list[SampleRequest]]) -> dict[int, list[str]]:
    return {index: [r.request_id for r in requests] for index, requests in dealt.items()}


def test_equal_prompts_form_a_group_and_the_longest_come_first() -> None:
    asked = [request("a0", (1, 2)), request("b0", (3, 4, 5)), request("a1", (1, 2)), request("b1", (3, 4, 5))]
    asked += [request("c0", (6, 7)), request("d0", (8,), new_tokens=12)]
    found = [[r.request_id for r in group] for group in grouped(asked)]
    assert found == [["b0", "b1"], ["d0"], ["a0", "a1"], ["c0"]]
    assert token_count(asked[:4]) == (2 + 10) * 2 + (3 + 10) * 2


def test_groups_go_to_the_engine_with_the_fewest_tokens() -> None:
    waiting = grouped([request("long", (1,), 100), *(request(f"s{i}", (2, i), 10) for i in range(4))])
    seats = [Seat(index=0, requests=0, tokens=0), Seat(index=1, requests=0, tokens=0)]
    # "long" holds 101 tokens on engine 0; the four short ones of 12 tokens all go to engine 1
    assert names(deal(waiting, seats, 100)) == {0: ["long"], 1: ["s0", "s1", "s2", "s3"]}
    assert not waiting
    assert [(seat.requests, seat.tokens) for seat in seats] == [(1, 101), (4, 48)]


def test_what_finds_no_room_waits_for_an_engine_that_comes_later() -> None:
    waiting = grouped([request(f"{group}{i}", (group,)) for group in range(4) for i in range(3)])
    first = [Seat(index=0, requests=0, tokens=0)]
    assert names(deal(waiting, first, 7)) == {0: ["00", "01", "02", "10", "11", "12"]}
    assert len(waiting) == 2
    late = [*first, Seat(index=1, requests=0, tokens=0)]
    assert names(deal(waiting, late, 7)) == {1: ["20", "21", "22", "30", "31", "32"]}


def test_an_idle_engine_takes_a_group_larger_than_the_limit() -> None:
    waiting = grouped([request(str(i), (1,)) for i in range(5)])
    busy, idle = Seat(index=0, requests=1, tokens=1), Seat(index=1, requests=0, tokens=900)
    assert names(deal(waiting, [busy, idle], 4)) == {1: ["0", "1", "2", "3", "4"]}


def test_without_engines_everything_waits() -> None:
    waiting = grouped([request("a", (1,))])
    assert deal(waiting, [], 10) == {}
    assert len(waiting) == 1
