"""Batches of completions to grades, in persistent processes that are killed when a completion takes too long."""

import logging
import queue
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

from gainrl_ray.config import RewardConfig
from gainrl_ray.environment import Environment
from gainrl_ray.errors import ConfigError, GainrlError
from gainrl_ray.rewards.math import grade_math_quickly
from gainrl_ray.rewards.process import WorkerDied, WorkerLate, WorkerProcess
from gainrl_ray.types import Grade, Outcome

logger = logging.getLogger(__name__)

REMEMBERED_TRACEBACKS = 256


class RewardRunner:
    """Grades completions; every method may be called from any thread, `grade` from several at once."""

    def __init__(self, config: RewardConfig) -> None:
        """Start `config.workers` processes; math graders load in the background, custom functions are awaited.

        Raises ConfigError when a custom function cannot be imported or its name has not the form module:function.
        """
        module, colon, name = config.function.partition(":")
        if config.function != "math" and not (module and colon and name):
            raise ConfigError(f"reward.function: received {config.function!r}; accepted: math, or module:function")
        self._config = config
        self._counts: Counter[Outcome] = Counter()
        self._lock = threading.Lock()
        self._closed = False
        self._tracebacks: set[str] = set()
        self._first_crash = ""
        memory = None if config.memory_gib is None else int(config.memory_gib * 2**30)
        folders = [str(Environment().caller_dir)]
        self._workers = [
            WorkerProcess(config.function, deadline_s=config.deadline_s, memory_bytes=memory, folders=folders)
            for _ in range(config.workers)
        ]
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(max_workers=config.workers, thread_name_prefix="grade")
        if config.function != "math":
            try:
                self._workers[0].wait_ready()
            except GainrlError:
                self.close()
                raise

    @property
    def counts(self) -> dict[Outcome, int]:
        """How many completions had each outcome so far; every outcome is a key."""
        with self._lock:
            return {outcome: self._counts[outcome] for outcome in Outcome}

    def grade(self, items: Sequence[tuple[str, str]]) -> list[Grade]:
        """One grade for each (completion text, reference answer), in order, whatever their neighbours do.

        Each takes at most `deadline_s` once a process is free. A custom function's number is the reward (correct
        from `config.correct` on); every other outcome has `config.correct` or `config.wrong`.
        Raises GainrlError after `close`, DeadlineError when no process can be started.
        """
        quick = [self._quick(completion, answer) for completion, answer in items]
        waiting: dict[int, Future[Grade]] = {}
        try:
            for index, (completion, answer) in enumerate(items):
                if quick[index] is None:
                    waiting[index] = self._threads.submit(self._grade_in_process, completion, answer)
            grades = [grade or waiting[index].result() for index, grade in enumerate(quick)]
        except (CancelledError, RuntimeError) as error:
            if not self._closed:
                raise
            raise GainrlError("this RewardRunner is closed: make a new one") from error
        finally:
            for future in waiting.values():
                future.cancel()
        with self._lock:
            self._counts.update(grade.outcome for grade in grades)
        return grades

    def check(self) -> None:
        """Nothing; raises ConfigError, with the first crash in full, when every grade so far was a crash."""
        with self._lock:
            count, crashes, first = self._counts.total(), self._counts[Outcome.CRASH], self._first_crash
        if crashes and crashes == count:
            raise ConfigError(
                f"reward.function {self._config.function!r} failed on all of the first {count} completions, so nothing "
                f"could be learned. The first time:\n{first.strip()}"
            )

    def close(self) -> None:
        """Kill the processes; a `grade` under way raises GainrlError. Calling it again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _quick(self, completion: str, answer: str) -> Grade | None:
        outcome = grade_math_quickly(completion, answer) if self._config.function == "math" else None
        return self._from_outcome(outcome) if outcome is not None else None

    def _grade_in_process(self, completion: str, answer: str) -> Grade:
        worker = self._idle.get_nowait()  # there are as many threads as processes
        try:
            return self._from_reply(worker.grade(completion, answer))
        except WorkerLate:
            logger.warning(
                "not graded within %g s: a completion ending in %r", self._config.deadline_s, completion[-200:]
            )
            return self._from_outcome(Outcome.TIMEOUT)
        except WorkerDied as event:
            if self._closed:
                raise GainrlError("this RewardRunner is closed: make a new one") from event
            logger.error("the grader crashed: %s; the completion ends in %r", event, completion[-200:])
            self._first_crash = self._first_crash or f"{event}; the completion ends in {completion[-200:]!r}"
            return self._from_outcome(Outcome.CRASH)
        finally:
            self._idle.put(worker)

    def _from_reply(self, reply: dict[str, Any]) -> Grade:
        if "error" in reply:
            self._log_traceback(str(reply["error"]))
            return self._from_outcome(Outcome.CRASH)
        if "outcome" in reply:
            return self._from_outcome(Outcome(reply["outcome"]))
        reward = float(reply["reward"])
        return Grade(outcome=Outcome.CORRECT if reward >= self._config.correct else Outcome.WRONG, reward=reward)

    def _from_outcome(self, outcome: Outcome) -> Grade:
        reward = self._config.correct if outcome is Outcome.CORRECT else self._config.wrong
        return Grade(outcome=outcome, reward=reward)

    def _log_traceback(self, text: str) -> None:
        """Log a grader's traceback in full when it is new, as one line when it was logged before."""
        with self._lock:
            known = text in self._tracebacks
            self._first_crash = self._first_crash or text
            if len(self._tracebacks) < REMEMBERED_TRACEBACKS:
                self._tracebacks.add(text)
        if known:
            logger.error("the grader raised again: %s", text.strip().rpartition("\n")[2])
        else:
            logger.error("the grader raised:\n%s", text)
