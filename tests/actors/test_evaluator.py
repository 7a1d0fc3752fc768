"""Sampling block by block, against an in-memory generator: no engine, no Ray. With engines: tests/test_signals.py."""

from contextlib import contextmanager

import pytest

from gainrl_ray.actors import evaluator
from gainrl_ray.actors.evaluator import sample_problems
from gainrl_ray.config import Config
from gainrl_ray.errors import DeadlineError, EngineError
from gainrl_ray.storage import Storage
from gainrl_ray.types import Completion, Grade, Outcome, Problem

PROBE = (5, 6, 7, 8)


class MemoryTable:
    """Problems that exist by their row number."""

    def problem(self, row):
        return Problem(id=f"p{row}", question=f"q{row}", answer=str(row), source="memory")


class MemoryGenerator:
    """Completions as a function of the row; sample s of row r is correct where s < r. Dies at a row when told to."""

    def __init__(self):
        self.asked, self.dies_at, self.started = [], None, 0

    @contextmanager
    def serving(self, config, table):
        self.started += 1
        yield self

    def sample(self, table, rows, samples, version):
        self.asked.append(list(rows))
        if self.dies_at in rows:
            raise EngineError("engine 0 died")
        return [
            (
                tuple(
                    Completion(
                        token_ids=(row, s), logprobs=(0.0, 0.0), finish_reason="stop" if s else "length", text=""
                    )
                    for s in range(samples)
                ),
                [Grade(outcome=Outcome.CORRECT if s < row else Outcome.WRONG, reward=float(s)) for s in range(samples)],
            )
            for row in rows
        ]


@pytest.fixture
def generator(monkeypatch):
    generator = MemoryGenerator()
    monkeypatch.setattr(evaluator, "_serving", generator.serving)
    return generator


def config(**signals):
    return Config.model_validate({"signals": {"samples": 2, "block_problems": 3} | signals})


def sample(config, rows, folder, told):
    return sample_problems(
        config,
        MemoryTable(),
        rows,
        Storage(str(folder)),
        begin=lambda count: told.append(f"{count} to sample"),
        tell=told.append,
    )


def test_the_probe_of_a_model_with_flash_attention_is_computed_without_it(monkeypatch):
    sent = []

    class MemorySender:
        def __init__(self, store, **_):
            assert store == "store"

        def send(self, version, attempt, weights, probe):
            sent.append((version, dict(weights), probe))

    monkeypatch.setattr(evaluator, "StoreSender", MemorySender)
    for attention in ("flash_attention_2", "sdpa"):
        evaluator._publish(Config.model_validate({"model": {"attention": attention}}), "store", PROBE)
    (version, weights, probe), (_, _, wanted) = sent
    assert version == 0 and "model.embed_tokens.weight" in weights
    assert probe == wanted and probe.token_ids == PROBE


def test_blocks_hold_what_was_sampled_by_rising_row(generator, tmp_path):
    told = []
    found = sample(config(), [7, 0, 1, 5], tmp_path, told)
    assert found["row"].to_pylist() == [0, 1, 5, 7]
    assert found["problem_id"].to_pylist() == ["p0", "p1", "p5", "p7"]
    assert found["completions"].to_pylist()[1] == [[1, 0], [1, 1]]
    assert found["is_whole"].to_pylist()[0] == [False, True]
    assert found["rewards"].to_pylist()[0] == [0.0, 1.0]
    assert found["accuracy"].to_pylist() == [0.0, 0.5, 1.0, 1.0]
    assert told == ["4 to sample", 3, 4]


def test_what_is_finished_is_not_sampled_again(generator, tmp_path):
    generator.dies_at = 4
    with pytest.raises(EngineError):
        sample(config(), range(8), tmp_path, [])
    generator.dies_at, generator.asked = None, []
    told = []
    whole = sample(config(), range(8), tmp_path, told)
    assert generator.asked == [[3, 4, 5], [6, 7]]
    assert told == ["5 to sample", 3, 5]
    assert whole["row"].to_pylist() == list(range(8))
    assert sample(config(), range(8), tmp_path, told) == whole
    assert (generator.started, len(told)) == (2, 3)


def test_the_deadline_ends_a_sampling(generator, tmp_path):
    with pytest.raises(DeadlineError, match=r"signals.deadline_s = 1e-09 s: 3 of 3 blocks of 3 .*command continues"):
        sample(config(deadline_s=1e-9), range(8), tmp_path, [])
