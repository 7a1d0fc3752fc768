"""Ray's start and what goes before what; each program runs in a process of its own, with real Ray."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gainrl_ray.actors import session as session_module
from gainrl_ray.actors.ray_start import ATTEMPTS, free_ports, shorten_temp, start_head
from gainrl_ray.actors.session import _address, _await_answer
from gainrl_ray.config import RayConfig
from gainrl_ray.errors import ConfigError, ResourceError

ROOT = Path(__file__).parents[2]
LIMIT_S = 300
BROKEN = {"RAY_gcs_server_port_wait_time_s": "0"}
"""Ray gives its control service no time to say where it listens, and gives up."""

FAILS_THEN_STARTS = """
import os
from gainrl_ray.actors.ray_start import _offspring
from gainrl_ray.actors.session import session
from gainrl_ray.config import RayConfig
from gainrl_ray.errors import ResourceError

def services():
    words = [open(f"/proc/{pid}/cmdline").read() for pid in _offspring(os.getpid())]
    return [sum(name in each.split("\\0")[0] for each in words) for name in ("gcs_server", "raylet")]

def mend(line):
    print(line)
    os.environ["RAY_gcs_server_port_wait_time_s"] = "200"

try:
    with session(RayConfig(address="local", num_cpus=1)):
        raise AssertionError("started")
except ResourceError as error:
    print(error)
print(services())
with session(RayConfig(address="local", num_cpus=1), mend):
    import ray
    print(services(), ray.get(ray.remote(lambda: 7).remote(), timeout=200))
"""

STARTS = """
import os
from gainrl_ray.actors.session import session
from gainrl_ray.config import RayConfig

with session(RayConfig(num_cpus=1)):
    import ray
    made = os.path.realpath(ray._private.worker._global_node.get_session_dir_path())
    print(ray.cluster_resources()["CPU"], os.environ.get("RAY_ADDRESS"), made.partition("ray/session")[0])
"""

SLOW_AGENTS = """
import sys, time
if any(word.endswith("agent.py") or word.endswith("agent/main.py") for word in sys.orig_argv):
    time.sleep(25)
"""


def run(program: str, **variables: str) -> list[str]:
    """What a program prints."""
    paths = os.pathsep.join([variables.pop("PYTHONPATH", ""), str(ROOT)])
    environment = {**os.environ, **variables, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("waiting for Ray")]


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_start_that_fails_is_tried_again_and_leaves_nothing_behind() -> None:
    *failures, error, left, again, running = run(FAILS_THEN_STARTS, **BROKEN)
    assert [line.partition(": ")[0] for line in failures] == [
        f"Ray did not start (attempt {attempt} of {ATTEMPTS})" for attempt in (1, 2, 3)
    ]
    assert "did not start in 3 attempts" in error and "free processors or memory and run again" in error
    assert left == "[0, 0]"
    assert again.startswith("Ray did not start (attempt 1 of 3): Timed out")
    assert running == "[1, 1] 7"


def test_slow_agents_and_a_long_temp_dir_do_not_matter(tmp_path: Path) -> None:
    """On a busy machine Ray's agents need more than the 15 s after which its node manager dies."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENTS)
    long = tmp_path / ("x" * 90)
    long.mkdir()
    said, found = run(STARTS, PYTHONPATH=str(tmp_path), TMPDIR=str(long))
    assert found == f"1.0 None {long}/"
    assert said.startswith(f"TMPDIR={long} is too long for the paths of Unix sockets: /tmp/gainrl-tmp-")


@pytest.mark.parametrize(("length", "short"), [(39, False), (40, True)])
def test_a_temp_dir_that_is_too_long_gets_a_short_name(
    length: int, short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """107 characters, less /ray and the longest session's "/session_.../sockets/plasma_store": 39."""
    said: list[str] = []
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        folder = f"{parent}/{'t' * (length - len(parent) - 1)}"
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv("TMPDIR", folder)
        for _ in range(2):
            shorten_temp(said.append)
        assert len(said) == short
        assert (os.environ["TMPDIR"] != folder) is short
        if short:
            assert len(os.environ["TMPDIR"]) < 39 and os.path.realpath(os.environ["TMPDIR"]) == folder
            with open(f"{tempfile.gettempdir()}/file", "w"):
                assert os.listdir(folder) == ["file"]
            link = os.environ["TMPDIR"]
            os.unlink(link)
            os.symlink(parent, link)
            monkeypatch.setenv("TMPDIR", folder)
            with pytest.raises(ResourceError, match=r"cannot lead there .*set TMPDIR to a folder of at most 39"):
                shorten_temp(said.append)
            os.unlink(link)
        monkeypatch.undo()
        tempfile.tempdir = None


def test_a_head_that_does_not_start_is_told_and_not_noted(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with status 1 after \d+ s: NotADirectoryError: "):
        start_head(tmp_path, "/dev/null/temp", lambda line: None)
    assert not (tmp_path / "head").exists()


@pytest.mark.parametrize(
    ("flag", "variable", "address"),
    [
        (None, None, "local"),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("local", None, "local"),
        ("local", "10.0.0.1:6379", "local"),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
        ("auto", "10.0.0.1:6379", "auto"),
    ],
)
def test_the_flag_goes_before_the_variable(
    flag: str | None, variable: str | None, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert _address(RayConfig(address=flag), said.append) == address
    overruled = variable is not None and flag not in (None, "auto")
    assert said == ([f"--ray.address={flag} is given: RAY_ADDRESS={variable} is set aside"] if overruled else [])


def test_addresses_of_other_services_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address in ("http://head:8265", "ray://head:10001"):
        with pytest.raises(ConfigError, match=rf"received '{address}', accepted are host:port.*ray job submit"):
            _address(RayConfig(address=address), print)


def test_a_cluster_that_does_not_answer_has_a_deadline(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    said: list[str] = []
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setattr(session_module, "JOIN_S", 1.0)
    with pytest.raises(ConnectionError):
        _await_answer(nowhere, said.append)
    assert said == [f"no answer yet from the Ray cluster at {nowhere}, waiting for up to 1 s"]
    _await_answer(ray.get_runtime_context().gcs_address, said.append)
    assert len(said) == 1, "one that is there is joined without a word"


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_job_that_waits_for_its_cluster_ends_at_a_signal(silent: str, sent: signal.Signals, status: int) -> None:
    job = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "jobs/train.py")],
        env={**os.environ, "RAY_ADDRESS": silent, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # in the background it is ignored
    )
    try:
        assert job.stdout is not None
        assert "no answer yet" in job.stdout.readline()
        job.send_signal(sent)
        _, errors = job.communicate(timeout=60)
    finally:
        job.kill()
    assert (job.returncode, "Traceback" in errors) == (status, False)
