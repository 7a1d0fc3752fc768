"""The rollout actor: one thread owns a vLLM engine, other threads take requests in and hand completions out."""

import logging
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
from ray.actor import ActorHandle

from gainrl_ray.actors.broadcast import Broadcast, Place
from gainrl_ray.actors.buckets import WeightBucket
from gainrl_ray.actors.engine import EngineState, RolloutEngine
from gainrl_ray.actors.sync_figures import SyncFigures
from gainrl_ray.actors.weights import Published
from gainrl_ray.config import Config
from gainrl_ray.errors import DeadlineError, EngineError, EngineStartError, GainrlError
from gainrl_ray.types import Completion, SampleRequest

T = TypeVar("T")

IDLE_S = 1.0  # how often the owning thread looks up when nothing comes in
LINGER_S = 0.02  # completions that finish within this time of each other travel together
TAIL_LINES = 20
LINE_LENGTH = 200

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where an engine lives."""

    node_id: str
    node: str  # address
    pid: int
    log_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How an engine is; `age_s` is the time since its last decode step, 0.0 while it has no work."""

    state: EngineState
    version: int | None
    unfinished: int
    age_s: float
    generated_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """Completions since the last poll, with the engine's health."""

    finished: tuple[tuple[str, Completion], ...]
    health: Health


class RolloutServer:
    """The class behind `RolloutActor`.

    Every call on the engine goes through a queue to the owning thread, which works the queue off between two decode
    steps. An engine whose step fails is dead for good: all later calls raise what ended it.
    """

    def __init__(self, config: Config, index: int) -> None:
        """Returns at once; the engine starts in the owning thread."""
        self._index = index
        self._log_file = _log_folder() / f"gainrl-engine-{index}-{os.getpid()}.log"
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ready: Future[None] = Future()
        self._arrived = threading.Condition()
        self._finished: list[tuple[str, Completion]] = []
        self._error: Exception | None = None
        self._engine: RolloutEngine | None = None
        self._moved = time.monotonic()  # of the last decode step, or of the first request after idling
        self._tokens = 0
        threading.Thread(target=self._own, args=(config,), name="engine", daemon=True).start()

    # -- health --------------------------------------------------------------------------------------------------

    @ray.method(concurrency_group="health")
    def where(self) -> Whereabouts:
        """Where this engine lives."""
        return Whereabouts(
            node_id=ray.get_runtime_context().get_node_id(),
            node=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            log_file=str(self._log_file),
        )

    @ray.method(concurrency_group="health")
    def health(self) -> Health:
        """How the engine is; answers while it starts, generates or hangs."""
        return self._health()

    def _health(self) -> Health:
        engine = self._engine
        if engine is None or self._error is not None:
            state = EngineState.DEAD if self._error else EngineState.STARTING
            return Health(state=state, version=None, unfinished=0, age_s=0.0, generated_tokens=self._tokens)
        age_s = time.monotonic() - self._moved if engine.unfinished else 0.0
        return Health(
            state=engine.state,
            version=engine.version,
            unfinished=engine.unfinished,
            age_s=age_s,
            generated_tokens=self._tokens,
        )

    # -- work ----------------------------------------------------------------------------------------------------

    @ray.method(concurrency_group="work")
    def ready(self, deadline_s: float) -> None:
        """Wait until the engine has started. Raises EngineError when it did not, DeadlineError when not in time."""
        _result(self._ready, deadline_s, f"the start of engine {self._index}")

    @ray.method(concurrency_group="work")
    def sync(self, version: int, store: ActorHandle, deadline_s: float) -> SyncFigures:
        """Pull `version` from the weight store, load it and serve it. Raises as RolloutEngine.sync, DeadlineError."""
        deadline = time.monotonic() + deadline_s
        published = cast(Published, ray.get(store.published.remote(version), timeout=deadline_s))
        return self._do(
            lambda engine: engine.sync(version, _pull(published, deadline), published.probe),
            deadline_s,
            f"the update of engine {self._index} to version {version}",
        )

    @ray.method(concurrency_group="work")
    def receive(
        self, version: int, broadcast: Broadcast, place: Place | None, stall_s: float, deadline_s: float
    ) -> SyncFigures:
        """Take `version` as the learner broadcasts it, and serve it; joins the group first when it has a `place`.

        Every single wait ends after `stall_s`. Raises as RolloutEngine.sync, DeadlineError.
        """

        def take(engine: RolloutEngine) -> SyncFigures:
            if place is not None:
                engine.join(broadcast, place, stall_s)
            return engine.sync(version, broadcast.layout, broadcast.probe)

        return self._do(take, deadline_s, f"the broadcast of version {version} to engine {self._index}")

    @ray.method(concurrency_group="work")
    def sleep(self, deadline_s: float) -> None:
        """Give the engine's memory back until the next sync. Raises as RolloutEngine.sleep, DeadlineError."""
        self._do(lambda engine: engine.sleep(), deadline_s, f"engine {self._index} to fall asleep")

    @ray.method(concurrency_group="work")
    def submit(self, requests: Sequence[SampleRequest], version: int, deadline_s: float) -> None:
        """Queue requests; raises EngineError when the engine does not serve `version`."""

        def add(engine: RolloutEngine) -> None:
            if not engine.unfinished:
                self._moved = time.monotonic()
            engine.submit(requests, version)

        self._do(add, deadline_s, f"engine {self._index} to take {len(requests)} requests")

    @ray.method(concurrency_group="work")
    def abort(self, deadline_s: float) -> None:
        """Forget all requests and their completions."""

        def forget(engine: RolloutEngine) -> None:
            engine.abort()
            with self._arrived:
                self._finished = []

        self._do(forget, deadline_s, f"engine {self._index} to forget its requests")

    @ray.method(concurrency_group="results")
    def poll(self, timeout_s: float) -> Polled:
        """The completions since the last poll; waits up to `timeout_s` for the first. Raises what ended the engine."""
        with self._arrived:
            if self._arrived.wait_for(lambda: self._finished or self._error, timeout=timeout_s):
                self._arrived.wait_for(lambda: self._error, timeout=LINGER_S)
            if self._error is not None:
                raise self._error
            finished, self._finished = tuple(self._finished), []
        return Polled(finished=finished, health=self._health())

    # -- the owning thread ---------------------------------------------------------------------------------------

    def _own(self, config: Config) -> None:
        try:
            engine = self._engine = RolloutEngine(
                model=config.model,
                rollout=config.rollout,
                tolerance=config.sync.verify_tolerance,
                max_model_len=config.sequence_tokens,
                log_file=self._log_file,
                lora=config.lora,
            )
            self._ready.set_result(None)
            while True:
                self._work_off(block=engine.unfinished == 0)
                if engine.unfinished:
                    self._hand_out(engine.step())
        except BaseException as error:
            self._end(error)

    def _work_off(self, *, block: bool) -> None:
        """Run the waiting commands; with `block`, wait a moment for the first."""
        try:
            self._commands.get(block, IDLE_S)()
            while True:
                self._commands.get_nowait()()
        except queue.Empty:
            return

    def _hand_out(self, finished: list[tuple[str, Completion]]) -> None:
        self._moved = time.monotonic()
        if finished:
            with self._arrived:
                self._finished.extend(finished)
                self._tokens += sum(len(completion.token_ids) for _, completion in finished)
                self._arrived.notify_all()

    def _end(self, error: BaseException) -> None:
        """Make the error known to all who wait and all who come later."""
        print(f"engine {self._index} ended: {error!r}", file=sys.stderr)
        logger.exception("engine %d ended", self._index)
        kind = EngineError if self._ready.done() else EngineStartError
        told = error if isinstance(error, GainrlError) else kind(f"{type(error).__name__}: {error}")
        with self._arrived:
            self._error = told
            self._arrived.notify_all()
        if not self._ready.done():
            self._ready.set_exception(told)
        while True:
            self._work_off(block=True)

    def _do(self, act: Callable[[RolloutEngine], T], deadline_s: float, what: str) -> T:
        """The result of `act`, run by the owning thread."""
        done: Future[T] = Future()

        def command() -> None:
            try:
                if self._error is not None or self._engine is None:
                    raise self._error or EngineError("the engine has not started")
                done.set_result(act(self._engine))
            except BaseException as error:
                done.set_exception(error)
                if not isinstance(error, Exception):
                    raise

        self._commands.put(command)
        return _result(done, deadline_s, what)


RolloutActor = ray.remote(  # pyright: ignore[reportCallIssue]
    max_restarts=0, max_task_retries=0, concurrency_groups={"work": 1, "results": 1, "health": 1}
)(RolloutServer)


def _pull(published: Published, deadline: float) -> Iterator[WeightBucket]:
    """The buckets in order, the next one on its way to this node while one is loaded."""
    for index, ref in enumerate(published.buckets):
        ray.wait(list(published.buckets[index : index + 2]), num_returns=1, timeout=0, fetch_local=True)
        yield ray.get(ref, timeout=max(0.0, deadline - time.monotonic()))


def _result(future: "Future[Any]", deadline_s: float, what: str) -> Any:
    try:
        return future.result(timeout=deadline_s)
    except FutureTimeoutError as error:
        if future.done():
            raise
        raise DeadlineError(f"waited {deadline_s:.0f} s for {what}") from error


def _log_folder() -> Path:
    """The folder of this process's log files: where Ray sends its standard error, else the temporary folder."""
    try:
        target = Path(os.readlink("/proc/self/fd/2"))
    except OSError:
        target = Path("/")
    return target.parent if target.parent.name == "logs" else Path(tempfile.gettempdir())


def tail(log_file: str) -> str:
    """The last lines of a log file of this machine, long ones cut; empty when there is none."""
    try:
        lines = Path(log_file).read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        return ""
    return "\n".join(line if len(line) <= LINE_LENGTH else line[:LINE_LENGTH] + " ..." for line in lines)
