"""How Ray is started, by a job for itself and by local.sh for a checkout: a short folder, three attempts, one message.

python -m gainrl_ray.actors.ray_start STATE TEMP    a Ray head in a session of its own, noted in STATE/head
"""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from gainrl_ray.console import told
from gainrl_ray.errors import GainrlError, ResourceError

Started = TypeVar("Started")
Say = Callable[[str], None]

ATTEMPTS = 3
HEAD_S = 300.0
"""How long an attempt may take until the head's dashboard answers."""
PATIENCE = {"RAY_gcs_server_port_wait_time_s": "90", "RAY_agent_register_timeout_ms": "120000"}
"""How long Ray waits for its control service and for its agents; 30 s by default."""
SOCKET_PATH_BYTES = 107
"""The longest path of a Unix socket."""
_RAY_SOCKET = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"


def in_attempts(start: Callable[[], Started], say: Say) -> Started:
    """What `start` returns, at the third attempt at the latest; what a failed one started is killed.

    Raises:
        ResourceError: Ray did not start three times, or refuses its arguments.
    """
    for attempt in range(1, ATTEMPTS + 1):
        running = set(_offspring(os.getpid()))
        try:
            return start()
        except BaseException as error:
            for process in set(_offspring(os.getpid())) - running:
                _kill(process)
            if isinstance(error, ValueError | TypeError):
                raise ResourceError(f"Ray does not start with these settings: {error}") from error
            if not isinstance(error, Exception):
                raise
            say(f"Ray did not start (attempt {attempt} of {ATTEMPTS}): {_reason(error)}")
    raise ResourceError(
        f"Ray did not start in {ATTEMPTS} attempts, see above: free processors or memory and run again, "
        "or join a running cluster (RAY_ADDRESS)"
    )


@contextmanager
def known_ports() -> Iterator[None]:
    """Within the block a node that Ray starts has chosen ports for its agents, which its node manager knows.

    Otherwise the node manager waits for the ports that its agents choose, and dies when those, Python programs with
    much to import, take more than 15 s on a busy machine (ray#65983). The file that it waits for in any case, whoever
    chose the port, is written here.
    """
    from ray._private.node import Node
    from ray._raylet import DASHBOARD_AGENT_LISTEN_PORT_NAME, persist_port  # pyright: ignore[reportAttributeAccessIssue]

    original = Node.start_ray_processes
    names = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")

    def start(self: Any) -> None:
        ports = dict(zip(names, free_ports(4), strict=True))
        self._ray_params.update(**ports)
        persist_port(self._session_dir, self._node_id, DASHBOARD_AGENT_LISTEN_PORT_NAME, ports[names[-1]])
        original(self)

    Node.start_ray_processes = start
    try:
        yield
    finally:
        Node.start_ray_processes = original


def run_ray() -> None:
    """Ray's command line with that difference, and without the Ray Client server.

    Nobody here uses one, and it ends a head whose node manager takes more than 30 s.
    """
    from ray._private.node import Node
    from ray.scripts.scripts import main

    Node.start_ray_client_server = lambda self: None
    with known_ports():
        main()


def shorten_temp(say: Say) -> None:
    """TMPDIR and RAY_TMPDIR become short links to themselves where their sockets' paths would be too long.

    Ray's sockets have the longest names; those of vLLM and of Python's multiprocessing are there as well.

    Raises:
        ResourceError: /tmp, where the links are, cannot be used.
    """
    for name in ("TMPDIR", "RAY_TMPDIR"):
        folder = os.environ.get(name, "")
        if len(os.fsencode(f"{folder}/ray{_RAY_SOCKET}")) > SOCKET_PATH_BYTES:
            os.environ[name] = _link(name, folder)
            say(f"{name}={folder} is too long for the paths of Unix sockets: {os.environ[name]} leads there")
    tempfile.tempdir = None  # what Python found before


def start_head(state: Path, temp: str, say: Say) -> None:
    """A Ray head on the loopback interface that outlives this process; "pid birth dashboard-port" is in STATE/head."""
    ports = free_ports(4)
    say(f"starting Ray on 127.0.0.1 (dashboard http://127.0.0.1:{ports[0]}, log .local/ray.log)")
    shutil.rmtree(temp, ignore_errors=True)
    log, begin = state / "ray.log", time.monotonic()
    with log.open("wb") as output:
        head = subprocess.Popen(
            _head_command(ports, temp),
            env={**PATIENCE, **os.environ, **_head_environment(ports)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    (state / "head").write_text(f"{head.pid} {_birth(head.pid)} {ports[0]}\n")
    while head.poll() is None and time.monotonic() < begin + HEAD_S:
        if b"Ray runtime started" in log.read_bytes() and _answers(ports[0]):
            return
        time.sleep(0.5)
    (state / "head").unlink()
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    ended = "no dashboard" if head.poll() is None else f"`ray start` ended with status {head.returncode}"
    raise RuntimeError(": ".join([f"{ended} after {time.monotonic() - begin:.0f} s", *said[-1:]]))


def main(state: str, temp: str) -> int:
    """The exit status for local.sh: 1 after a message when there is no head."""

    def say(line: str) -> None:
        print(f"[local.sh] {line}", flush=True)

    try:
        shorten_temp(say)
        with told("waiting for Ray", say):
            in_attempts(lambda: start_head(Path(state), temp, say), say)
    except GainrlError as error:
        print(f"[local.sh] error: {error} (log: .local/ray.log)", file=sys.stderr)
        return 1
    return 0


def _head_command(ports: list[int], temp: str) -> list[str]:
    dashboard, _, _, gcs = map(str, ports)
    return [
        *(sys.executable, "-c", "from gainrl_ray.actors.ray_start import run_ray; run_ray()"),
        *("start", "--head", "--block", "--disable-usage-stats", "--temp-dir", temp),
        *("--node-ip-address", "127.0.0.1", "--port", gcs),
        *("--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard),
    ]


def _head_environment(ports: list[int]) -> dict[str, str]:
    """Ray rewrites 127.0.0.1 to the machine's address unless told that there is no cluster of machines.

    A stopped job gets two minutes to commit its work.
    """
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "120",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # whatever asks for no GPU sees none
        "DASHBOARD_METRIC_PORT": str(ports[1]),
        "AUTOSCALER_METRIC_PORT": str(ports[2]),
    }


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports


def _answers(port: int) -> bool:
    """True when Ray's dashboard does."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=5)
    except OSError:
        return False
    return True


def _stat(process: int | str) -> list[str]:
    """The fields of /proc/PID/stat from the third on; none when it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _birth(process: int) -> str:
    """Start time in clock ticks, so that a recycled pid is not mistaken for the head."""
    return (_stat(process) or [""] * 20)[19]


def _offspring(process: int) -> list[int]:
    """The processes that one started, those that these started, and so on; zombies left out."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        if (fields := _stat(name)) and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(name))
    found = list(children.get(process, []))
    for each in found:
        found += children.get(each, [])
    return found


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _link(name: str, folder: str) -> str:
    """A link of this user in /tmp to `folder`, which is made."""
    path = f"/tmp/gainrl-tmp-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}"
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.path.islink(path):
            os.symlink(folder, path)
        if os.readlink(path) != folder or os.lstat(path).st_uid != os.getuid():
            raise FileExistsError(f"{path} is something else")
    except OSError as error:
        most = SOCKET_PATH_BYTES - len(f"/ray{_RAY_SOCKET}")
        raise ResourceError(
            f"{name}={folder} is too long for the paths of Unix sockets, and {path} cannot lead there ({error}): "
            f"set {name} to a folder of at most {most} characters"
        ) from error
    return path


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
