"""The restart protocol of the pipeline, against an in-memory generator: no engine, no Ray."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gainrl_ray.actors.broadcast import Broadcast, Receivers
from gainrl_ray.actors.curriculum import Curriculum
from gainrl_ray.actors.generation import Ask, Round
from gainrl_ray.actors.generation_loop import Parts
from gainrl_ray.actors.pipeline import RolloutPipeline
from gainrl_ray.checkpoint import RunState, commit_due
from gainrl_ray.config import Config
from gainrl_ray.config_curricula import DpsConfig, GainConfig
from gainrl_ray.data.problem_table import RowReport
from gainrl_ray.errors import DeadlineError, DivergenceError, EngineError, StaleAttemptError
from gainrl_ray.metrics import read_metrics
from gainrl_ray.run_record import RunRecord, read_ledger
from gainrl_ray.storage import Storage
from gainrl_ray.types import (
    Completion,
    Grade,
    GradedGroup,
    Outcome,
    Problem,
    Prompt,
    RolloutGroup,
    Span,
    UpdateReport,
)

PROBLEMS, STEPS = 40, 6
WAIT_S = 120.0  # an engine that is not there needs milliseconds; the machine may be busy


REPORT = RowReport(path="memory", rows_read=PROBLEMS, kept=PROBLEMS, bad={}, examples=(), bad_rows="")


class MemoryTable:
    """Problems that exist by their row number."""

    report = REPORT

    def __len__(self) -> int:
        return PROBLEMS

    def problem(self, row: int) -> Problem:
        return Problem(id=f"p{row}", question=f"q{row}", answer=str(row), source="memory")

    def prompt(self, row: int) -> Prompt:
        return Prompt(
            problem_id=f"p{row}", token_ids=(1, 2, row), prefix=Span(0, 1), question=Span(1, 2), suffix=Span(2, 3)
        )


class OneAtATime:
    """An object whose methods are called one at a time, as an actor's are."""

    def __init__(self, inner: object) -> None:
        self._inner, self._lock = inner, threading.Lock()

    def __getattr__(self, name: str) -> Callable:
        def call(*arguments, **named):
            with self._lock:
                return getattr(self._inner, name)(*arguments, **named)

        return call


class MemoryGenerator:
    """Graded groups as a pure function of (version, row); remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.rows: list[tuple[int, ...]] = []  # of each round
        self.synced: list[int] = []
        self.fail_at: int | None = None
        self.block_at: int | None = None
        self.block_round = 0  # of that step

    def start(self) -> None: ...

    def invalidate(self) -> None: ...

    def stored(self, version: int) -> None: ...

    def close(self) -> None: ...

    def engines(self) -> list[dict]:
        return []

    def sync(self, version: int) -> None:
        self.synced.append(version)

    def evaluate(self, table: MemoryTable, version: int) -> dict[str, float]:
        return {"eval/accuracy": version / 10, "eval/seconds": 0.0}

    def round(
        self,
        step: int,
        asks: Sequence[Ask],
        table: MemoryTable,
        version: int,
        *,
        deadline_s: float,
        cancelled: Callable[[], bool],
    ) -> Round | None:
        if step == self.fail_at:
            raise EngineError("engine 0 died")
        while step == self.block_at and [step for step, _ in self.asked].count(step) >= self.block_round:
            if cancelled():
                return None
        self.asked.append((step, version))
        self.rows.append(tuple(ask.row for ask in asks))
        groups = tuple(
            GradedGroup(
                group=self._group(table, ask, version),
                grades=self._grades(ask, version),
            )
            for ask in asks
        )
        return Round(groups=groups, generate_s=0.0, grade_s=0.0)

    def _group(self, table: MemoryTable, ask: Ask, version: int) -> RolloutGroup:
        completions = tuple(
            Completion(token_ids=(ask.row, sample), logprobs=(-0.5, -version), finish_reason="stop", text=f"{version}")
            for sample in ask.samples
        )
        return RolloutGroup(
            slot=ask.slot,
            row=ask.row,
            problem=table.problem(ask.row),
            prompt=table.prompt(ask.row),
            completions=completions,
            policy_version=version,
        )

    def _grades(self, ask: Ask, version: int) -> tuple[Grade, ...]:
        """All wrong, every other one right, or all right."""
        right = Grade(outcome=Outcome.CORRECT, reward=1.0)
        wrong = Grade(outcome=Outcome.WRONG, reward=0.0)
        pattern = ((wrong, wrong), (wrong, right), (right, right))[(ask.row + version) % 3]
        return tuple(pattern[sample % 2] for sample in ask.samples)


class Receiver(MemoryGenerator):
    """A generator whose engines take broadcasts, or miss them."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[int] = []
        self.stored_versions: list[int] = []
        self.reaches = True

    def receive(self, version: int, broadcast: Broadcast, announce: Callable[[Receivers | None], None]) -> bool:
        announce(Receivers("group", 2))
        self.received.append(version)
        return self.reaches

    def stored(self, version: int) -> None:
        self.stored_versions.append(version)


class TurnTaker(MemoryGenerator):
    """A generator whose engines are on the learner's device; notes who holds it, and when both do."""

    def __init__(self) -> None:
        super().__init__()
        self.awake = False
        self.learner_holds = True
        self.clashes: list[str] = []

    def _use(self, what: str) -> None:
        self.awake = True
        if self.learner_holds:
            self.clashes.append(what)

    def start(self) -> None:
        self._use("start")

    def sync(self, version: int) -> None:
        self._use(f"sync {version}")
        super().sync(version)

    def evaluate(self, table: MemoryTable, version: int) -> dict[str, float]:
        self._use(f"evaluation {version}")
        return super().evaluate(table, version)

    def round(self, step, *arguments, **named):
        self._use(f"step {step}")
        return super().round(step, *arguments, **named)

    def sleep(self) -> None:
        self.awake = False


def report(rank: int = 0, **changes: float | None) -> UpdateReport:
    values = dict.fromkeys(
        ["loss", "kl", "clip_fraction", "entropy", "importance_mean", "mismatch_kl", "grad_norm", "learning_rate"], 0.1
    )
    values |= {"skipped_updates": 0, "trained_tokens": 4}
    return UpdateReport(**(values | changes), angles={rank: 0.25}, seconds={})  # type: ignore[arg-type]


def settings(staleness: int, workers: int = 1, sections: dict[str, dict] | None = None, **learner: float) -> Config:
    tree = {
        "run": {"steps": STEPS},
        "curriculum": {"name": "gain", "sigma": 5.0, "mu_step_scale": 8.0},
        "rollout": {"problems_per_step": 4, "group_size": 2, "max_staleness": staleness},
        "learner": {"workers": workers, **learner},
        "evaluation": {"every": 2},
        "checkpoint": {"every": 2},
        "tracking": {"tensorboard": False},
    }
    for name, section in (sections or {}).items():
        tree[name] = {**tree.get(name, {}), **section}
    return Config.model_validate(tree)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[RolloutPipeline, MemoryGenerator]]]:
    opened: list[RolloutPipeline] = []

    def build(
        config: Config, run: str = "run", kind: type[MemoryGenerator] = MemoryGenerator
    ) -> tuple[RolloutPipeline, MemoryGenerator]:
        generator = kind()
        parts = Parts(
            config=config,
            generator=generator,  # type: ignore[arg-type]
            record=RunRecord(config, run, Storage(str(tmp_path)).child(run)),
            train=MemoryTable(),  # type: ignore[arg-type]
            heldout=MemoryTable(),  # type: ignore[arg-type]
            pad_id=0,
        )
        pipeline = RolloutPipeline(parts)
        ids = [f"p{i}" for i in range(PROBLEMS)]
        folder = Storage(str(tmp_path)).child(run, "curriculum")
        curriculum = OneAtATime(Curriculum(config.curriculum, np.arange(PROBLEMS), ids, 3, folder))
        pipeline.use_curriculum(curriculum)  # type: ignore[arg-type]
        opened.append(pipeline)
        return pipeline, generator

    yield build
    for pipeline in opened:
        pipeline.close()


def drive(pipeline: RolloutPipeline, state: RunState | None, until: int, workers: int = 1) -> list[RunState]:
    """Play the learners until `until` trained steps; the state after every step."""
    state = pipeline.reset(state)
    pipeline.publish(state.step, state.attempt)
    states = [state]
    while state.step < until and not state.stopped:
        for rank in range(workers):
            assert pipeline.take(state.step, rank, state.attempt, WAIT_S).step == state.step
        pipeline.publish(state.step + 1, state.attempt)
        state = pipeline.complete(state.step, 0, report(), state.attempt, WAIT_S)
        states.append(state)
    return states


def trained(pipeline: RolloutPipeline, attempt: int, step: int) -> list:
    """What the step's batch holds: (token ids, generator_logprobs, slots) of every micro-batch."""
    batch = pipeline.take(step, 0, attempt, WAIT_S)
    return [
        (microbatch.token_ids.tolist(), microbatch.generator_logprobs.tolist(), microbatch.slots.tolist())
        for update in batch.updates
        for microbatch in update
    ]


def history(folder: Path, run: str) -> list[tuple]:
    """(step, problem ids, statuses, version) of the committed history, from the ledger on disk."""
    entries = read_ledger(Storage(str(folder / run)))
    return [
        (e["step"], tuple(e["problem_ids"]), tuple(e["statuses"]), e["policy_version"])
        for e in entries
        if not e["discarded"] and e["step"] < STEPS
    ]


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_step_s_is_generated_by_version_s_minus_staleness(start, staleness: int) -> None:
    pipeline, generator = start(settings(staleness))
    drive(pipeline, None, STEPS)
    assert generator.asked == [(step, max(0, step - staleness)) for step in range(STEPS)]
    assert generator.synced == sorted(generator.synced)


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_a_killed_gang_goes_on_as_if_nothing_had_happened(start, tmp_path: Path, staleness: int) -> None:
    config = settings(staleness)
    whole, generator = start(config, "whole")
    states = drive(whole, None, STEPS)
    broken, again = start(config, "broken")
    before = drive(broken, None, 5)
    committed = before[4]
    assert commit_due(committed, config) and not commit_due(before[5], config)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    committed.save(folder)
    after = drive(broken, RunState.load(folder), STEPS)
    assert after[0].step == 4 and after[0].attempt == 2
    assert [s.curriculum for s in after[1:]] == [s.curriculum for s in states[5:]]
    assert committed.curriculum and states[-1].curriculum
    assert history(tmp_path, "broken") == history(tmp_path, "whole")
    discarded = [e for e in read_ledger(Storage(str(tmp_path / "broken"))) if e["discarded"]]
    assert {e["step"] for e in discarded} >= {4} and {e["attempt"] for e in discarded} == {1}
    ledger = Storage(str(tmp_path / "broken/ledger"))
    parts = {name: min(entry["step"] for entry in json.loads(ledger.read_text(name))) for name in ledger.list()}
    names = [f"attempt_{attempt:04d}_step_{step:06d}.json" for attempt, step in ((1, 2), (1, 4), (2, 6))]
    assert parts == dict(zip(names, (0, 2, 4), strict=True)), "a commit writes the entries since the last one"
    tables = [
        [r["eval/accuracy"] for r in read_metrics(Storage(str(tmp_path / run))) if "eval/accuracy" in r]
        for run in ("whole", "broken")
    ]
    assert tables[0] == tables[1] == [0.0, 0.2, 0.4, 0.6]
    steps = [r["step"] for r in read_metrics(Storage(str(tmp_path / "broken")))]
    assert steps == list(range(STEPS + 1))
    assert generator.asked[-1] == (5, 5 - staleness) and again.asked[-1] == (5, 5 - staleness)


def test_another_process_continues_under_a_new_attempt(start, tmp_path: Path) -> None:
    first, _ = start(settings(0), "run")
    state = drive(first, None, 4)[4]
    first.close()
    second, _ = start(settings(0), "run")
    after = drive(second, state, STEPS)
    assert after[0].attempt == 2
    assert [entry[0] for entry in history(tmp_path, "run")] == list(range(STEPS))


def test_calls_of_an_older_attempt_are_refused(start) -> None:
    pipeline, _ = start(settings(0))
    old = drive(pipeline, None, 2)[2]
    new = pipeline.reset(old)
    for call in (
        lambda: pipeline.take(2, 0, old.attempt, 1.0),
        lambda: pipeline.publish(2, old.attempt),
        lambda: pipeline.complete(2, 0, report(), old.attempt, 1.0),
    ):
        with pytest.raises(StaleAttemptError, match="attempt 1: attempt 2 is running"):
            call()
    assert new.attempt == 2


def test_take_and_complete_answer_twice_alike(start) -> None:
    pipeline, _ = start(settings(0))
    state = drive(pipeline, None, 1)[1]
    assert pipeline.complete(0, 0, report(), state.attempt, 1.0) == state
    pipeline.take(1, 0, state.attempt, WAIT_S)
    assert pipeline.take(1, 0, state.attempt, WAIT_S) is pipeline.take(1, 0, state.attempt, 5.0)


def test_a_step_closes_when_all_ranks_are_in(start) -> None:
    pipeline, _ = start(settings(0, workers=2))
    state = pipeline.reset(None)
    pipeline.publish(0, state.attempt)
    for rank in range(2):
        pipeline.take(0, rank, state.attempt, WAIT_S)
    pipeline.publish(1, state.attempt)
    with pytest.raises(DeadlineError, match="all ranks of step 0"):
        pipeline.complete(0, 0, report(0), state.attempt, 0.2)
    assert pipeline.complete(0, 1, report(1), state.attempt, WAIT_S).step == 1


def test_an_engine_error_reaches_whoever_waits(start) -> None:
    pipeline, generator = start(settings(0))
    generator.fail_at = 1
    with pytest.raises(EngineError, match="engine 0 died"):
        drive(pipeline, None, STEPS)


def test_a_batch_that_does_not_come_is_a_deadline_error_with_the_state_of_things(start) -> None:
    pipeline, generator = start(settings(0))
    generator.block_at = 0
    state = pipeline.reset(None)
    pipeline.publish(0, state.attempt)
    with pytest.raises(DeadlineError, match="batch of step 0 did not come within 0 s: newest published version 0"):
        pipeline.take(0, 0, state.attempt, 0.2)


def test_a_reset_aborts_what_the_old_attempt_was_generating(start) -> None:
    pipeline, generator = start(settings(0))
    generator.block_at = 0
    pipeline.reset(None)
    pipeline.publish(0, 1)
    state = pipeline.reset(None)
    generator.block_at = None
    pipeline.publish(0, state.attempt)
    assert pipeline.take(0, 0, state.attempt, WAIT_S).step == 0


def test_a_stop_ends_after_the_step_under_way_with_a_commit(start) -> None:
    config = settings(0)
    pipeline, _ = start(config)
    state = drive(pipeline, None, 1)[1]
    pipeline.request_stop()
    pipeline.take(1, 0, state.attempt, WAIT_S)
    pipeline.publish(2, state.attempt)
    state = pipeline.complete(1, 0, report(), state.attempt, WAIT_S)
    assert state.stopped and commit_due(state, config)


def test_divergence_stops_the_run_before_its_state_is_committed(start, tmp_path: Path) -> None:
    pipeline, _ = start(settings(0, max_kl=0.5))
    state = drive(pipeline, None, 1)[1]
    pipeline.take(1, 0, state.attempt, WAIT_S)
    pipeline.publish(2, state.attempt)
    with pytest.raises(DivergenceError, match=r"KL 0.9 is above learner.max_kl 0.5"):
        pipeline.complete(1, 0, report(kl=None, mismatch_kl=-0.9), state.attempt, WAIT_S)
    assert not (tmp_path / "run/ledger").exists()


def test_skipped_updates_in_a_row_stop_the_run(start) -> None:
    pipeline, _ = start(settings(0, max_skipped_updates=2))
    state = pipeline.reset(None)
    pipeline.publish(0, state.attempt)
    for step, skipped in enumerate([1, 0, 1, 1]):
        pipeline.take(step, 0, state.attempt, WAIT_S)
        pipeline.publish(step + 1, state.attempt)
        if step == 3:
            with pytest.raises(DivergenceError, match="2 updates in a row"):
                pipeline.complete(step, 0, report(skipped_updates=skipped), state.attempt, WAIT_S)
        else:
            pipeline.complete(step, 0, report(skipped_updates=skipped), state.attempt, WAIT_S)


BROADCAST = Broadcast(group="", address="", port=0, way="gloo", layout=(), probe=None)


def test_engines_generate_after_a_broadcast_before_the_store_has_the_version(start) -> None:
    pipeline, generator = start(settings(0), kind=Receiver)
    state = drive(pipeline, None, 1)[1]
    pipeline.take(1, 0, state.attempt, WAIT_S)
    assert pipeline.offer(1, state.attempt, BROADCAST) is None, "engines have that version"
    deadline = time.monotonic() + WAIT_S
    while (receivers := pipeline.offer(2, state.attempt, BROADCAST)) is None:
        assert time.monotonic() < deadline, "the loop did not come to wait for version 2"
    assert receivers == Receivers("group", 2)
    state = pipeline.complete(1, 0, report(), state.attempt, WAIT_S)
    assert pipeline.take(2, 0, state.attempt, WAIT_S).step == 2
    assert (generator.received, generator.synced, generator.stored_versions) == ([2], [0, 1, 2], [0, 1])
    pipeline.publish(2, state.attempt)
    assert generator.stored_versions == [0, 1, 2]
    with pytest.raises(StaleAttemptError):
        pipeline.offer(3, state.attempt - 1, BROADCAST)


def test_engines_that_missed_a_broadcast_wait_for_the_store(start) -> None:
    pipeline, generator = start(settings(0), kind=Receiver)
    generator.reaches = False
    state = drive(pipeline, None, 0)[0]
    pipeline.take(0, 0, state.attempt, WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while pipeline.offer(1, state.attempt, BROADCAST) is None:
        assert time.monotonic() < deadline, "the loop did not come to wait for version 1"
    state = pipeline.complete(0, 0, report(), state.attempt, WAIT_S)
    with pytest.raises(DeadlineError, match="batch of step 1"):
        pipeline.take(1, 0, state.attempt, 0.2)
    assert (generator.received, generator.synced) == ([1], [0])
    pipeline.publish(1, state.attempt)
    assert pipeline.take(1, 0, state.attempt, WAIT_S).step == 1
    assert generator.synced == [0, 1]


GROUPS = {
    "dynamic_sampling": {"group_policy": {"name": "dynamic_sampling"}, "replay": {"fraction": 0.5, "capacity": 5}},
    "greso": {"group_policy": {"name": "greso", "max_drawn": 4.0}},
    "speed": {
        "group_policy": {"name": "speed", "screen": 2, "max_refills": 1},
        "replay": {"fraction": 0.25},
        "rollout": {"group_size": 4},
    },
}
GROUP_FIGURES = (
    *("generated_groups", "accepted_groups", "missing_groups", "refill_rounds", "skipped_problems", "replayed_groups"),
    *("group_policy/p_easy", "group_policy/p_hard", "replay_buffer", "total/problems", "total/rollouts"),
    *("informative_groups", "accuracy"),
)


def figures(folder: Path, run: str) -> list[list[float | None]]:
    """The figures of groups of every trained step."""
    records = read_metrics(Storage(str(folder / run)))
    return [[record.get(name) for name in GROUP_FIGURES] for record in records if record["step"] > 0]


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("curriculum", [GainConfig(sigma=5.0, mu_step_scale=8.0), DpsConfig()], ids=["gain", "dps"])
@pytest.mark.parametrize("name", GROUPS)
def test_a_killed_gang_goes_on_with_the_same_refills_and_replays(
    start, tmp_path: Path, name: str, curriculum: GainConfig | DpsConfig, staleness: int
) -> None:
    config = settings(staleness, sections=GROUPS[name]).model_copy(update={"curriculum": curriculum})
    whole, generator = start(config, "whole")
    states, batches = [whole.reset(None)], []
    whole.publish(0, 1)
    for step in range(STEPS):
        batches.append(trained(whole, 1, step))
        whole.publish(step + 1, 1)
        states.append(whole.complete(step, 0, report(), 1, WAIT_S))
    broken, again = start(config, "broken")
    committed = drive(broken, None, 5)[4]
    committed.save(tmp_path)
    state = broken.reset(RunState.load(tmp_path))
    rounds_before = len(again.rows)
    broken.publish(4, 2)
    for step in range(4, STEPS):
        assert trained(broken, 2, step) == batches[step]
        broken.publish(step + 1, 2)
        state = broken.complete(step, 0, report(), 2, WAIT_S)
        assert (state.curriculum, state.group_policy) == (states[step + 1].curriculum, states[step + 1].group_policy)
    redone = len(again.rows) - rounds_before
    assert 0 < redone < len(generator.rows) and again.rows[-redone:] == generator.rows[-redone:]
    assert history(tmp_path, "broken") == history(tmp_path, "whole")
    assert figures(tmp_path, "broken") == figures(tmp_path, "whole")
    if (buffer := states[-1].replay) is not None:
        assert state.replay is not None and state.replay.equals(buffer)


def test_a_gang_killed_between_refills_draws_them_again(start, tmp_path: Path) -> None:
    config = settings(0, sections={**GROUPS["dynamic_sampling"], "checkpoint": {"every": 1}})
    whole, undisturbed = start(config, "whole")
    drive(whole, None, STEPS)
    rounds = [step for step, _ in undisturbed.asked]
    step = next(step for step in range(1, STEPS) if rounds.count(step) > 2)
    broken, generator = start(config, "broken")
    generator.block_at, generator.block_round = step, 2
    state = drive(broken, None, step)[-1]
    deadline = time.monotonic() + WAIT_S
    while [step for step, _ in generator.asked].count(step) < 2:
        assert time.monotonic() < deadline, "the step's refills did not begin"
    broken.reset(state)  # ends the round under way
    generator.block_at = None
    drive(broken, state, STEPS)
    first = rounds.index(step)
    assert generator.rows[: first + 2] == undisturbed.rows[: first + 2]
    assert generator.rows[first + 2 :] == undisturbed.rows[first:]
    assert figures(tmp_path, "broken") == figures(tmp_path, "whole")


def test_ledger_rollouts_and_metrics_tell_of_every_group(start, tmp_path: Path) -> None:
    """Groups of row r and version v have spread where (r + v) % 3 is 1."""
    pipeline, _ = start(settings(0, sections=GROUPS["dynamic_sampling"]))
    drive(pipeline, None, STEPS)
    entries = history(tmp_path, "run")
    records = [record for record in read_metrics(Storage(str(tmp_path / "run"))) if record["step"] > 0]
    problems = 0
    for (step, ids, statuses, version), record in zip(entries, records, strict=True):
        generated = [int(id[1:]) for id, status in zip(ids, statuses, strict=True) if status != "replayed"]
        spread = [(row + version) % 3 == 1 for row in generated]
        assert list(statuses[: len(spread)]) == ["trained" if has else "left_out" for has in spread]
        table = pq.read_table(tmp_path / f"run/rollouts/step_{step:06d}.parquet")
        assert table["row"].to_pylist()[::2] == generated and len(set(generated)) == len(generated)
        replayed = statuses.count("replayed")
        problems += len(generated)
        assert sum(spread) + replayed == 4, "refills go on until the step has what it wants"
        assert [record[name] for name in GROUP_FIGURES[:2]] == [len(generated), sum(spread)]
        assert (record["missing_groups"], record["replayed_groups"]) == (0, replayed)
        assert record["informative_groups"] == pytest.approx(sum(spread) / len(spread))
        assert (record["total/problems"], record["total/rollouts"]) == (problems, 2 * problems)
    assert [entry[2].count("replayed") for entry in entries] == [0, 2, 2, 2, 2, 2]


def test_a_used_up_budget_is_told_and_what_there_is_is_trained(start, tmp_path: Path) -> None:
    pipeline, _ = start(settings(0, sections={"group_policy": {"name": "dynamic_sampling", "max_refills": 0}}))
    drive(pipeline, None, 2)
    (_, ids, statuses, _), record = history(tmp_path, "run")[0], read_metrics(Storage(str(tmp_path / "run")))[1]
    lacks = 4 - statuses.count("trained")
    assert lacks > 0 and record["missing_groups"] == lacks and len(ids) == 4
    line = next(line for line in pipeline.progress(0)[0] if line.startswith("step 1/"))
    assert f"| groups {4 - lacks} of 4, {lacks} missing when the budget was used up |" in line


def drive_in_turns(pipeline: RolloutPipeline, generator: TurnTaker, state: RunState | None, until: int) -> RunState:
    """Play a gang that shares its device with the engines, from its start."""
    pipeline.make_room()
    assert not generator.awake
    generator.learner_holds = True  # the model is loaded
    state = pipeline.reset(state)
    generator.learner_holds = False
    pipeline.publish(state.step, state.attempt)
    while state.step < until:
        pipeline.take(state.step, 0, state.attempt, WAIT_S)
        assert not generator.awake
        generator.learner_holds = True
        time.sleep(0.01)  # training: whoever does not wait for its turn is seen
        generator.learner_holds = False
        pipeline.publish(state.step + 1, state.attempt)
        state = pipeline.complete(state.step, 0, report(), state.attempt, WAIT_S)
    return state


def test_engines_on_the_learners_device_work_while_it_rests(start, tmp_path: Path) -> None:
    plain, _ = start(settings(0), "plain")
    drive(plain, None, STEPS)
    config = settings(0)
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"colocated": True})})
    pipeline, generator = start(config, "turns", TurnTaker)
    drive_in_turns(pipeline, generator, None, STEPS)
    assert generator.clashes == []
    assert generator.asked == [(step, step) for step in range(STEPS)]
    assert history(tmp_path, "turns") == history(tmp_path, "plain")


def test_a_new_gang_finds_the_device_free_whatever_the_engines_were_doing(start, tmp_path: Path) -> None:
    config = settings(0)
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"colocated": True})})
    pipeline, generator = start(config, "killed", TurnTaker)
    state = drive_in_turns(pipeline, generator, None, 2)
    generator.block_at = 3
    stale = drive_in_turns(pipeline, generator, state, 3)  # leaves the engines in the middle of step 3
    generator.learner_holds = True  # killed; its successor loads the model as soon as it may
    pipeline.make_room()
    assert not generator.awake
    with pytest.raises(StaleAttemptError):
        pipeline.take(3, 0, stale.attempt, WAIT_S)
    generator.block_at, generator.clashes = None, []
    drive_in_turns(pipeline, generator, state, STEPS)
    assert generator.clashes == []
    assert [entry[0] for entry in history(tmp_path, "killed")] == list(range(STEPS))
