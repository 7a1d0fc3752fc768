"""Lanes: what their work returns, raises or dies of."""

import os
import time

import pytest

from gainrl_ray.actors.lanes import Ended, Lanes
from gainrl_ray.actors.run import Pipelines
from gainrl_ray.errors import ConfigError


def _all_ended(lanes: Lanes, count: int) -> dict[int, Ended]:
    found: dict[int, Ended] = {}
    end = time.monotonic() + 60
    while len(found) < count and time.monotonic() < end:
        found |= {ended.lane: ended for ended in lanes.ended(1.0)}
    return found


def test_work_that_fails_or_kills_its_lane_leaves_the_others_alone(ray_session: None) -> None:
    def process(pipelines: Pipelines) -> int:
        return os.getpid()

    def refuse(pipelines: Pipelines) -> None:
        raise ConfigError("received 3")

    def die(pipelines: Pipelines) -> None:
        os._exit(1)

    lanes = Lanes(3)
    try:
        for lane, work in enumerate((process, refuse, die)):
            lanes.submit(lane, work)
        with pytest.raises(AssertionError):
            lanes.submit(0, process)
        first = _all_ended(lanes, 3)
        assert first[0].error is None and first[0].result != os.getpid()
        assert first[1].error == "ConfigError: received 3"
        assert first[2].error is not None and first[2].error.startswith("its process died: ")
        for lane in range(3):
            lanes.submit(lane, process)
        second = _all_ended(lanes, 3)
        processes = [second[lane].result for lane in range(3)]
        assert processes[0] == first[0].result, "a lane is one process"
        assert len({*processes}) == 3, "the dead one has a new process"
    finally:
        lanes.close()
