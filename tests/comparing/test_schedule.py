"""Which cell goes where and what is said, with lanes that answer from memory."""

from typing import Any

from gainrl_ray.actors.lanes import Ended
from gainrl_ray.comparing.grid import Cell
from gainrl_ray.comparing.schedule import Schedule
from gainrl_ray.config import Config
from gainrl_ray.training import RunSummary


class MemoryLanes:
    """Work ends in the order in which it was begun, one piece a call; `answers` by (arm, seed)."""

    def __init__(self, count: int, answers: dict[tuple[str, int], str] | None = None) -> None:
        self.count, self._answers = count, answers or {}
        self.begun: list[tuple[int, str, int]] = []
        self._under_way: list[tuple[int, Cell]] = []
        self.most, self.stopped, self.closed = 0, False, False

    def submit(self, lane: int, work: Any, cell: Cell) -> None:
        assert lane not in [busy for busy, _ in self._under_way]
        self._under_way.append((lane, cell))
        self.begun.append((lane, cell.arm, cell.seed))
        self.most = max(self.most, len(self._under_way))

    def ended(self, timeout_s: float) -> list[Ended]:
        lane, cell = self._under_way.pop(0)
        error = self._answers.get((cell.arm, cell.seed))
        return [Ended(lane=lane, result=None if error else summary(cell, self.stopped), error=error)]

    def request_stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed = True


def summary(cell: Cell, stopped: bool) -> RunSummary:
    records = ({"step": 0, "eval/accuracy": 0.25}, {"step": 9, "eval/accuracy": 0.5})
    return RunSummary(name=cell.arm, folder="", model="", records=records, seconds=1.0, stopped=stopped)


def cells(*names: str, seeds: int = 2, **sections: Any) -> list[Cell]:
    config = Config.model_validate(sections)
    return [Cell(arm=name, seed=seed, config=config) for seed in range(seeds) for name in names]


def test_all_cells_run_on_all_lanes_and_are_told_of() -> None:
    lanes, lines = MemoryLanes(2), []
    assert Schedule(cells("a", "b"), 6, lanes, lines.append).run() == []
    assert sorted(cell[1:] for cell in lanes.begun) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert lanes.most == 2 and lanes.closed
    assert lines[0] == "[3/6] a, seed 0: begins", "two of six were done before"
    assert "a, seed 0: held-out 0.250 -> 0.500, 9 steps in 0 s" in lines
    assert lines[-1] == "  6 of 6 runs done" and any("about 0 min left" in line for line in lines)


def test_a_failed_cell_stops_no_other() -> None:
    lanes, lines = MemoryLanes(1, {("a", 0): "its process died: killed"}), []
    failed = Schedule(cells("a", "b"), 4, lanes, lines.append).run()
    assert failed == [{"strategy": "a", "seed": 0, "error": "its process died: killed"}]
    assert len(lanes.begun) == 4 and any("a, seed 0: failed after" in line for line in lines)


def test_a_lane_keeps_its_engines_where_it_can() -> None:
    lanes = MemoryLanes(1)
    other = cells("c", rollout={"group_size": 4})
    Schedule([*cells("a", seeds=1), *other, *cells("b", seeds=1)], 4, lanes, lambda line: None).run()
    assert [arm for _, arm, _ in lanes.begun] == ["a", "b", "c", "c"]


def test_a_stop_begins_no_more_cells() -> None:
    lanes, lines = MemoryLanes(2), []
    schedule = Schedule(cells("a", "b", seeds=3), 6, lanes, lines.append)

    def submit(lane: int, work: Any, cell: Cell, begin: Any = lanes.submit) -> None:
        begin(lane, work, cell)
        schedule.request_stop()

    lanes.submit = submit
    assert schedule.run() == []
    assert len(lanes.begun) == 1 and lanes.stopped and lanes.closed
    assert "a, seed 0: stopped after step 9" in lines
