"""Measured commands: what they print, with the time of each line."""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gainrl_ray.errors import BenchmarkError

LAST_LINES = 5


@dataclass(frozen=True, slots=True)
class Line:
    """A printed line, and when it came."""

    seconds: float  # since the command was started
    text: str


def timed_lines(
    command: Sequence[str], *, deadline_s: float, environment: Mapping[str, str] | None = None
) -> list[Line]:
    """Every line of the command's standard output.

    Raises BenchmarkError, with the command's last words, when it fails or runs for longer than `deadline_s`.
    """
    lines: list[Line] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **(environment or {})}
        )
        limit = threading.Timer(deadline_s, process.terminate)
        limit.start()
        try:
            assert process.stdout is not None
            for text in process.stdout:
                lines.append(Line(time.perf_counter() - started, text.rstrip("\n")))
            status = process.wait()
        finally:
            limit.cancel()
            process.kill()
        if status:
            errors.seek(0)
            words = [*(line.text for line in lines), *errors.read().splitlines()][-LAST_LINES:]
            late = " (ended at its deadline)" if time.perf_counter() - started >= deadline_s else ""
            raise BenchmarkError(f"{' '.join(command)} ended with status {status}{late}:\n" + "\n".join(words))
    return lines
