"""Rounds of requests, with real grading and a pool that answers from memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gainrl_ray.actors.generation import Ask, Generator
from gainrl_ray.config import Config
from gainrl_ray.errors import ConfigError
from gainrl_ray.types import Completion, Outcome, Problem, Prompt, SampleRequest, Span


class Table:
    """Problems whose answer is their row."""

    def problem(self, row: int) -> Problem:
        return Problem(id=f"p{row}", question=f"{row}?", answer=str(row), source="memory")

    def prompt(self, row: int) -> Prompt:
        return Prompt(problem_id=f"p{row}", token_ids=(row,), prefix=Span(0, 0), question=Span(0, 1), suffix=Span(1, 1))


class Pool:
    """Completions in the reverse of the order asked: samples of an even number are right."""

    def __init__(self) -> None:
        self.calls: list[list[SampleRequest]] = []

    def generate(self, requests: Sequence[SampleRequest], version: int, deadline_s: float) -> Iterator:
        self.calls.append(list(requests))
        for request in reversed(requests):
            sample = int(request.request_id.split("/")[1])
            text = f"\\boxed{{{request.token_ids[0] + sample % 2}}}"
            completion = Completion(token_ids=(sample,), logprobs=(-0.5,), finish_reason="stop", text=text)
            yield request.request_id, completion

    def invalidate(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def parts() -> Iterator[tuple[Generator, Pool]]:
    pool = Pool()
    generator = Generator(Config.model_validate({"run": {"seed": 5}}), pool)  # type: ignore[arg-type]
    yield generator, pool
    generator.close()


def test_a_round_holds_rests_and_screenings_and_keeps_every_seed(parts: tuple[Generator, Pool]) -> None:
    generator, pool = parts

    def ask(step: int, *asks: Ask):
        answer = generator.round(step, asks, Table(), 2, deadline_s=9.0)  # type: ignore[arg-type]
        assert answer is not None
        return answer.groups, {(r.token_ids[0], int(r.request_id.split("/")[1])): r.seed for r in pool.calls[-1]}

    (rest, screened), seeds = ask(3, Ask(slot=4, row=30, samples=range(2, 4)), Ask(slot=9, row=70, samples=range(2)))
    assert len(pool.calls) == 1
    assert [(graded.group.slot, graded.group.row, graded.group.policy_version) for graded in (rest, screened)] == [
        (4, 30, 2),
        (9, 70, 2),
    ]
    assert [c.token_ids for c in rest.group.completions] == [(2,), (3,)]
    assert [c.token_ids for c in screened.group.completions] == [(0,), (1,)]
    for graded in (rest, screened):
        assert [grade.outcome for grade in graded.grades] == [Outcome.CORRECT, Outcome.WRONG]
    _, whole = ask(3, Ask(slot=0, row=70, samples=range(4)), Ask(slot=1, row=30, samples=range(4)))
    assert {key: whole[key] for key in seeds} == seeds and len(set(whole.values())) == 8
    _, later = ask(4, Ask(slot=0, row=70, samples=range(4)))
    assert not set(later.values()) & set(whole.values())


def test_a_reward_function_that_never_works_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_reward.py").write_text("def reward(completion, answer):\n    return [1.0]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = Config.model_validate({"reward": {"function": "broken_reward:reward"}})
    generator = Generator(config, Pool())  # type: ignore[arg-type]
    try:
        with pytest.raises(ConfigError, match=r"broken_reward:reward' failed on all of the first 4 completions"):
            generator.round(0, [Ask(slot=0, row=3, samples=range(4))], Table(), 0, deadline_s=60.0)  # type: ignore[arg-type]
    finally:
        generator.close()
