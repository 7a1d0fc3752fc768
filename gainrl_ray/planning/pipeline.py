"""Discrete-event simulation of a run: learners and generation side by side, sharing cores where they have to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

DONE = 1e-9  # seconds of work that count as none


@dataclass(slots=True)
class Work:
    """Something under way: seconds left when nothing else wants its cores, and the cores that it keeps busy."""

    left_s: float
    cores: float = 1.0


Wait = list[Work] | Callable[[], bool]
"""What a process waits for: all of its work done, or a condition that another process makes true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """Seconds of the parts of one step, each when it runs alone."""

    generate: tuple[float, ...]  # one per engine
    grade: float  # grading and batching after the last completion
    train: float
    publish: float  # learner: weights into the object store
    load: float  # engines: weights out of it
    close: float  # books, curriculum, metrics
    evaluate: float = 0.0  # of the version after this step; 0 = not due
    commit: float = 0.0  # checkpoint after this step


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Cores that one process of a part keeps busy."""

    engine: float
    learner: float
    learners: int  # ranks


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of a step as metrics.jsonl has them: `total` since the step before; parts overlap when staleness > 0."""

    total: float
    generate: float
    train: float
    sync: float
    evaluate: float
    wait: float  # of the learners for their batch, at staleness 0 what no other part explains


@dataclass(slots=True)
class _State:
    published: int = -1
    batches: set[int] = field(default_factory=set)
    windows: set[int] = field(default_factory=set)
    evaluated: set[int] = field(default_factory=set)
    now: float = 0.0
    started: float | None = None
    closed: list[float] = field(default_factory=list)
    spans: dict[tuple[str, int], float] = field(default_factory=dict)


def simulate_run(steps: list[StepCosts], *, max_staleness: int, demand: Demand, cores: float | None) -> list[StepTimes]:
    """The seconds of every step, as the protocol of actors/{learner,pipeline,generation_loop}.py orders them.

    `cores` are shared by everything that runs at a time (None = each part has its own): when more are wanted than
    there are, all are slowed alike.
    """
    state = _State()
    state.windows.update(range(max_staleness + 1))
    _drive([_learn(steps, max_staleness, demand, state), _generate(steps, max_staleness, demand, state)], state, cores)
    assert state.started is not None and len(state.closed) == len(steps), "the run did not end"
    found = []
    for step, end in enumerate(state.closed):
        total = end - (state.closed[step - 1] if step else state.started)
        span = {name: state.spans.get((name, step), 0.0) for name in ("generate", "train", "publish", "evaluate")}
        load = state.spans.get(("load", max(0, step - max_staleness)), 0.0) if step > max_staleness else 0.0
        sync = load + span["publish"]
        parts = span["generate"] + span["train"] + sync + span["evaluate"]
        wait = max(0.0, total - parts) if max_staleness == 0 else state.spans.get(("take", step), 0.0)
        found.append(StepTimes(total, span["generate"], span["train"], sync, span["evaluate"], wait))
    return found


def _learn(steps: list[StepCosts], staleness: int, demand: Demand, state: _State) -> Iterator[Wait]:
    """What the learner gang does; its ranks keep in step."""

    def gang(seconds: float) -> list[Work]:
        return [Work(seconds, demand.learner) for _ in range(demand.learners)]

    yield [Work(steps[0].publish)]
    state.published = 0
    for number, step in enumerate(steps):
        asked = state.now
        yield lambda number=number: number in state.batches
        state.spans["take", number] = state.now - asked
        yield from _timed(state, ("train", number), gang(step.train))
        yield from _timed(state, ("publish", number), [Work(step.publish)])
        state.published = number + 1
        state.windows.add(number + 1 + staleness)
        if step.evaluate:
            yield lambda number=number: number + 1 in state.evaluated
        yield [Work(step.close)]
        state.closed.append(state.now)
        if step.commit:
            yield gang(step.commit)


def _generate(steps: list[StepCosts], staleness: int, demand: Demand, state: _State) -> Iterator[Wait]:
    """What the generation thread does: versions in order, each step by the version that staleness asks for."""
    version = -1
    for number in range(len(steps) + 1):
        needed = number if number == len(steps) else max(0, number - staleness)
        while version < needed:
            version += 1
            yield lambda version=version: state.published >= version
            before = steps[version - 1] if version else steps[0]
            yield from _timed(state, ("load", version), [Work(before.load)])
            if version == 0:
                state.started = state.now
            elif before.evaluate:
                yield from _timed(state, ("evaluate", version - 1), [Work(before.evaluate, demand.engine)])
                state.evaluated.add(version)
        if number < len(steps):
            yield lambda number=number: number in state.windows
            parts = [Work(seconds, demand.engine) for seconds in steps[number].generate]
            yield from _timed(state, ("generate", number), parts)
            yield [Work(steps[number].grade)]
            state.batches.add(number)


def _timed(state: _State, key: tuple[str, int], work: list[Work]) -> Iterator[Wait]:
    begun = state.now
    yield work
    state.spans[key] = state.now - begun


def _drive(processes: list[Iterator[Wait]], state: _State, cores: float | None) -> None:
    """Run the processes to their ends, time standing still where nothing has to be waited for."""
    waits: dict[Iterator[Wait], Wait] = {process: [] for process in processes}
    while waits:
        moved = True
        while moved:
            moved = False
            for process, wait in list(waits.items()):
                ready = all(work.left_s <= DONE for work in wait) if isinstance(wait, list) else wait()
                if ready:
                    moved = True
                    following = next(process, None)
                    if following is None:
                        del waits[process]
                    else:
                        waits[process] = following
        active = [work for wait in waits.values() if isinstance(wait, list) for work in wait if work.left_s > DONE]
        if not active:
            assert not waits, "every process waits for another"
            return
        wanted = sum(work.cores for work in active)
        speed = 1.0 if cores is None else min(1.0, cores / wanted)
        span = min(work.left_s for work in active) / speed
        state.now += span
        for work in active:
            work.left_s -= span * speed
