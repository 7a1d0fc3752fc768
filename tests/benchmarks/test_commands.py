"""Lines of a command with their times, and what is said of one that fails."""

import sys

import pytest

from gainrl_ray.benchmarks.commands import timed_lines
from gainrl_ray.errors import BenchmarkError


def test_lines_carry_the_seconds_since_the_start() -> None:
    program = "import time; print('one', flush=True); time.sleep(0.3); print('two')"
    first, second = timed_lines([sys.executable, "-c", program], deadline_s=60)
    assert (first.text, second.text) == ("one", "two")
    assert second.seconds - first.seconds >= 0.25 and first.seconds > 0


def test_a_failure_names_status_and_last_words() -> None:
    program = "import sys; print('working'); sys.exit('no such model')"
    with pytest.raises(BenchmarkError, match=r"(?s)status 1:.*working.*no such model"):
        timed_lines([sys.executable, "-c", program], deadline_s=60)


def test_a_command_is_ended_at_its_deadline() -> None:
    with pytest.raises(BenchmarkError, match="ended at its deadline"):
        timed_lines([sys.executable, "-c", "import time; time.sleep(60)"], deadline_s=0.3)
