"""One grading process as its owner sees it: start, ask with a deadline, kill."""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from gainrl_ray.errors import ConfigError, DeadlineError

logger = logging.getLogger(__name__)

START_DEADLINE_S = 180.0
START_ATTEMPTS = 3
BACKSTOP_EXTRA_S = 5.0
REPLY_BYTES = 1 << 20


class WorkerDied(Exception):
    """The process ended, or answered nonsense, before it replied; the text says how."""


class WorkerLate(Exception):
    """The process did not reply within its deadline."""


class WorkerProcess:
    """A grading process; not thread-safe: one caller at a time, but `close` may come from any thread."""

    def __init__(
        self, function: str, *, deadline_s: float, memory_bytes: int | None, folders: Sequence[str] = ()
    ) -> None:
        """Start the process without waiting for it.

        deadline_s: seconds for one completion. folders: where modules are looked for after this process's own path.
        """
        self._deadline_s = deadline_s
        self._setup = {
            "function": function,
            "path": [*(entry or os.getcwd() for entry in sys.path), *folders],
            "memory_bytes": memory_bytes,
            "backstop_s": deadline_s + BACKSTOP_EXTRA_S,
        }
        self._function = function
        self._next_id = 0
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    def grade(self, completion: str, answer: str) -> dict[str, Any]:
        """The reply of the process (see worker.py). Raises WorkerLate or WorkerDied; the process is then killed.

        The deadline starts when the process is ready. Raises ConfigError when the grader cannot be imported and
        DeadlineError when the process does not get ready.
        """
        self.wait_ready()
        self._next_id += 1
        request = {"id": self._next_id, "completion": completion, "answer": answer}
        try:
            deadline = time.monotonic() + self._deadline_s
            self._transmit(request, deadline)
            reply = self._receive(deadline)
            if reply.get("id") != self._next_id:
                raise WorkerDied(f"the process answered {reply!r:.200}, not request {self._next_id}")
        except (WorkerLate, WorkerDied):
            self.kill()
            raise
        return reply

    def wait_ready(self) -> None:
        """Return once the process has loaded its grader, starting it when it is not running.

        Raises ConfigError when the grader cannot be imported, DeadlineError when no process gets ready.
        """
        reason = ""
        for _ in range(START_ATTEMPTS):
            if self._process.poll() is not None:
                self._start()
            if self._ready:
                return
            try:
                reply = self._receive(time.monotonic() + START_DEADLINE_S)
            except (WorkerLate, WorkerDied) as event:
                reason = str(event)
                self.kill()
                continue
            if "error" in reply:
                self.kill()
                logger.error("loading %s: %s", self._function, reply["traceback"])
                raise ConfigError(
                    f"reward.function: received {self._function!r}, which cannot be loaded: {reply['error']}; "
                    f"accepted: math, or module:function where the module can be imported"
                )
            self._ready = True
            return
        raise DeadlineError(f"no grading process for {self._function!r} in {START_ATTEMPTS} attempts: {reason}")

    def close(self) -> None:
        """Kill the process for good: a caller that waits for it gets WorkerDied."""
        with self._lock:
            self._closed = True
        self.kill()

    def kill(self) -> None:
        """Kill the process and whatever it started, at once; the next `grade` starts another."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=START_DEADLINE_S)
        self._ready = False

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(self._setup["path"])}
        environment.setdefault("OMP_NUM_THREADS", "1")
        with self._lock:
            if self._closed:
                raise WorkerDied("the process was closed")
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gainrl_ray.rewards.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        assert self._process.stdin and self._process.stdout
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)
        self._buffer = b""
        self._ready = False
        with contextlib.suppress(WorkerDied, WorkerLate):  # `wait_ready` meets the same end and tells of it
            self._transmit(self._setup, time.monotonic() + START_DEADLINE_S)

    def _transmit(self, message: dict[str, Any], deadline: float) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            self._wait(self._input, select.POLLOUT, deadline)
            try:
                data = data[os.write(self._input, data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise WorkerDied(self._ending()) from error

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self._wait(self._output, select.POLLIN, deadline)
            try:
                chunk = os.read(self._output, 1 << 16)
            except BlockingIOError:
                continue
            if not chunk:
                raise WorkerDied(self._ending())
            self._buffer += chunk
            if len(self._buffer) > REPLY_BYTES:
                raise WorkerDied(f"the process answered more than {REPLY_BYTES} bytes")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise WorkerDied(f"the process answered {line[:200]!r}, which is not a JSON object")
        return reply

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise WorkerLate("no reply within the deadline")

    def _ending(self) -> str:
        try:
            status = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            return "the process closed its pipe"
        if status < 0:
            return f"the process was ended by signal {signal.Signals(-status).name}"
        return f"the process ended with exit status {status}"
