"""Calls of actors end in time, whatever happens to the actor."""

import os
import time

import pytest
import ray

from gainrl_ray.actors.remote import Remote
from gainrl_ray.errors import ConfigError, DeadlineError, GainrlError


@ray.remote(num_cpus=0)
class Worker:
    def double(self, value: int) -> int:
        return 2 * value

    def refuse(self) -> None:
        raise ConfigError("received 1, accepted 2")

    def sleep(self) -> None:
        time.sleep(30)

    def die(self) -> None:
        os._exit(1)


def test_an_answer_an_error_a_silence_and_a_death(ray_session: None) -> None:
    handle = Worker.remote()
    remote = Remote(handle, "worker", 20.0)
    assert remote.double(4) == 8
    with pytest.raises(ConfigError, match=r"^received 1, accepted 2$"):
        remote.refuse()
    with pytest.raises(DeadlineError, match="the worker did not answer sleep within 0 s"):
        Remote(handle, "worker", 0.2).sleep()
    ray.kill(handle)
    other = Worker.remote()
    with pytest.raises(GainrlError, match="the worker died during die"):
        Remote(other, "worker", 20.0).die()
