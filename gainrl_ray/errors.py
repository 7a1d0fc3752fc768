"""The exceptions that users meet: one root, each picklable, each saying what was received and what to do."""

import functools
import sys
from collections.abc import Callable


class GainrlError(Exception):
    """Root of every error raised on purpose; `args` is the whole state, so it crosses processes unchanged."""


class ConfigError(GainrlError, ValueError):
    """A configuration key or value that cannot be used."""


class DataError(GainrlError, ValueError):
    """A dataset, row or prompt that cannot be used."""


class IndexMismatchError(GainrlError, ValueError):
    """A scored index that was made from other inputs than the run's."""


class ModelError(GainrlError, ValueError):
    """A model folder or hub name that cannot be loaded as a causal language model."""


class ResourceError(GainrlError, RuntimeError):
    """A cluster that does not offer what the run asks for."""


class DeadlineError(GainrlError, TimeoutError):
    """A wait that ended: names what was awaited, from whom, since when, and what is missing."""


class EngineError(GainrlError, RuntimeError):
    """A rollout engine that died, serves the wrong weights or cannot be restarted."""


class EngineStartError(EngineError):
    """An engine that vLLM refused to start."""


class WeightSyncError(EngineError):
    """Weights in an engine that differ from the learner's."""


class StaleAttemptError(GainrlError, RuntimeError):
    """A call from a learner gang that has been replaced by a newer one."""


class DivergenceError(GainrlError, RuntimeError):
    """A run that stopped itself: non-finite updates in a row, or KL above the limit."""


class BenchmarkError(GainrlError, RuntimeError):
    """A measurement that did not come about: a peer cannot be installed, or a measured command failed."""


def exit_status(kept: str) -> Callable[[Callable[[list[str]], int | None]], Callable[[list[str]], int]]:
    """Makes of a job's `main` its exit status: 0 for None, 2 after one line of an error raised on purpose, 130 after
    one line for Ctrl-C, which tells what is `kept`."""

    def of(main: Callable[[list[str]], int | None]) -> Callable[[list[str]], int]:
        @functools.wraps(main)
        def status(argv: list[str]) -> int:
            try:
                return main(argv) or 0
            except GainrlError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            except KeyboardInterrupt:
                print(f"interrupted: {kept}", file=sys.stderr)
                return 130

        return status

    return of
