"""RewardRunner with real processes: every way in which a grader can fail, concurrency, and the end of processes."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gainrl_ray.config import RewardConfig
from gainrl_ray.errors import ConfigError, GainrlError
from gainrl_ray.rewards import process
from gainrl_ray.rewards.process import WorkerDied, WorkerProcess
from gainrl_ray.rewards.runner import RewardRunner
from gainrl_ray.types import Grade, Outcome

GRADERS = '''
import os, subprocess, sys, time
from gainrl_ray.types import Outcome

def reward(completion, answer):
    """What the completion says."""
    if completion == "hang":
        time.sleep(600)
    if completion == "exit":
        os._exit(3)
    if completion == "segfault":
        os.kill(os.getpid(), 11)
    if completion == "raise":
        raise KeyError("the grader is broken")
    if completion == "quit":
        sys.exit(0)
    if completion == "memory":
        return float(len(bytearray(8 << 30)))
    if completion == "print":
        print('{"id": 1, "reward": 5.0}', flush=True)
        os.write(1, b"noise\\n")
        return 0.25
    if completion == "input":
        return float(len(sys.stdin.read()))
    if completion == "child":
        child = subprocess.Popen(["sleep", "600"])
        with open(answer, "w") as file:
            file.write(str(child.pid))
        time.sleep(600)
    returned = {"yes": True, "no": False, "unparsable": Outcome.UNPARSABLE, "none": None, "text": "1.0",
                "nan": float("nan"), "inf": float("inf"), "list": []}
    return returned[completion] if completion in returned else float(completion)

def pid(completion, answer):
    return os.getpid()

def one_argument(completion):
    return 1.0

number = 5
'''

EXPECTED = {
    "1": Grade(outcome=Outcome.CORRECT, reward=1.0),
    "hang": Grade(outcome=Outcome.TIMEOUT, reward=-1.0),
    "0.5": Grade(outcome=Outcome.WRONG, reward=0.5),
    "exit": Grade(outcome=Outcome.CRASH, reward=-1.0),
    "2": Grade(outcome=Outcome.CORRECT, reward=2.0),
    "segfault": Grade(outcome=Outcome.CRASH, reward=-1.0),
    "raise": Grade(outcome=Outcome.CRASH, reward=-1.0),
    "quit": Grade(outcome=Outcome.CRASH, reward=-1.0),
    "memory": Grade(outcome=Outcome.CRASH, reward=-1.0),
    "print": Grade(outcome=Outcome.WRONG, reward=0.25),
    "input": Grade(outcome=Outcome.WRONG, reward=0.0),
    "yes": Grade(outcome=Outcome.CORRECT, reward=1.0),
    "no": Grade(outcome=Outcome.WRONG, reward=-1.0),
    "unparsable": Grade(outcome=Outcome.UNPARSABLE, reward=-1.0),
    "none": Grade(outcome=Outcome.CRASH, reward=-1.0),
    "text": Grade(outcome=Outcome.CRASH, reward=-1.0),
    "nan": Grade(outcome=Outcome.CRASH, reward=-1.0),
    "inf": Grade(outcome=Outcome.CRASH, reward=-1.0),
    "list": Grade(outcome=Outcome.CRASH, reward=-1.0),
}


@pytest.fixture(scope="module")
def graders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of an importable module of graders."""
    folder = tmp_path_factory.mktemp("graders")
    (folder / "user_graders.py").write_text(GRADERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield "user_graders"


@pytest.fixture(scope="module")
def runner(graders: str) -> Iterator[RewardRunner]:
    """Two processes with a short deadline, shared by the tests that do not close them."""
    runner = RewardRunner(RewardConfig(function=f"{graders}:reward", wrong=-1.0, deadline_s=0.5, workers=2))
    yield runner
    runner.close()


def _gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process ends (or is a zombie that nobody reaped) within the time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_every_item_gets_one_grade_whatever_its_neighbours_do(runner: RewardRunner, caplog) -> None:
    before = runner.counts
    with caplog.at_level(logging.INFO):
        grades = runner.grade([(completion, "") for completion in EXPECTED])
    assert dict(zip(EXPECTED, grades, strict=True)) == EXPECTED
    assert {outcome: count - before[outcome] for outcome, count in runner.counts.items()} == {
        Outcome.CORRECT: 3,
        Outcome.WRONG: 4,
        Outcome.UNPARSABLE: 1,
        Outcome.TIMEOUT: 1,
        Outcome.CRASH: 10,
    }
    assert "KeyError: 'the grader is broken'" in caplog.text
    assert "Traceback (most recent call last)" in caplog.text
    assert "exit status 3" in caplog.text
    assert "SIGSEGV" in caplog.text


@pytest.mark.parametrize(
    ("completion", "reason"), [("raise", "KeyError: 'the grader is broken'"), ("exit", "exit status 3; the completion")]
)
def test_a_function_that_never_works_is_told_with_its_first_failure(graders: str, completion: str, reason: str) -> None:
    runner = RewardRunner(RewardConfig(function=f"{graders}:reward"))
    try:
        runner.check()
        runner.grade([(completion, ""), ("segfault", "")])
        with pytest.raises(ConfigError, match=rf"failed on all of the first 2 completions(?s:.*){reason}"):
            runner.check()
        runner.grade([("0.5", "")])
        runner.check()
    finally:
        runner.close()


def test_a_repeated_traceback_is_logged_in_full_once(runner: RewardRunner, caplog) -> None:
    with caplog.at_level(logging.INFO):
        runner.grade([("number one", "")] * 3)
    assert caplog.text.count("Traceback (most recent call last)") == 1
    assert caplog.text.count("could not convert string to float: 'number one'") == 3


def test_threads_share_the_runner(runner: RewardRunner) -> None:
    before = sum(runner.counts.values())
    results: dict[int, list[float]] = {}

    def grade(number: int) -> None:
        items = [(str(number * 100 + index), "") for index in range(40)]
        if number == 0:
            items[5] = ("hang", "")
        results[number] = [grade.reward for grade in runner.grade(items)]

    threads = [threading.Thread(target=grade, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    expected = {number: [float(number * 100 + index) for index in range(40)] for number in range(4)}
    expected[0][5] = -1.0
    assert results == expected
    assert sum(runner.counts.values()) - before == 160


def test_processes_persist_between_batches(graders: str) -> None:
    runner = RewardRunner(RewardConfig(function=f"{graders}:pid"))
    try:
        first = runner.grade([("a", "")] * 3)
        second = runner.grade([("b", "")] * 3)
    finally:
        runner.close()
    assert len({grade.reward for grade in first + second}) == 1


def test_a_killed_grader_takes_its_children_along(runner: RewardRunner, tmp_path: Path) -> None:
    file = tmp_path / "child"
    assert runner.grade([("child", str(file))])[0].outcome is Outcome.TIMEOUT
    assert _gone(int(file.read_text()))


def test_close_ends_processes_and_is_idempotent(graders: str) -> None:
    runner = RewardRunner(RewardConfig(function=f"{graders}:pid"))
    pid = int(runner.grade([("a", "")])[0].reward)
    runner.close()
    runner.close()
    assert _gone(pid)
    with pytest.raises(GainrlError, match="closed"):
        runner.grade([("a", "")])


def test_close_frees_a_waiting_grade(graders: str) -> None:
    runner = RewardRunner(RewardConfig(function=f"{graders}:reward", deadline_s=60))
    errors: list[Exception] = []

    def grade() -> None:
        try:
            runner.grade([("hang", "")] * 3)
        except GainrlError as error:
            errors.append(error)

    thread = threading.Thread(target=grade)
    thread.start()
    time.sleep(0.3)
    runner.close()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert len(errors) == 1


def test_processes_end_with_their_parent(graders: str) -> None:
    program = (
        "import time; from gainrl_ray.config import RewardConfig; from gainrl_ray.rewards.runner import RewardRunner\n"
        f"runner = RewardRunner(RewardConfig(function='{graders}:pid'))\n"
        "print(int(runner.grade([('a', '')])[0].reward), flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=60)
    parent.stdout.close()
    assert _gone(pid)


def test_the_kernel_ends_a_grader_whose_owner_does_not(graders: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "BACKSTOP_EXTRA_S", -59.5)
    worker = WorkerProcess(f"{graders}:reward", deadline_s=60.0, memory_bytes=None)
    try:
        with pytest.raises(WorkerDied, match="SIGALRM"):
            worker.grade("hang", "")
        assert worker.grade("1", "") == {"id": 2, "reward": 1.0}
    finally:
        worker.close()


def test_a_module_in_the_callers_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "callers_module.py").write_text("def reward(completion, answer):\n    return completion == answer\n")
    monkeypatch.setenv("GAINRL_CALLER_DIR", str(tmp_path))
    runner = RewardRunner(RewardConfig(function="callers_module:reward"))
    try:
        grades = runner.grade([("a", "a"), ("a", "b")])
    finally:
        runner.close()
    assert [grade.outcome for grade in grades] == [Outcome.CORRECT, Outcome.WRONG]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("maths", r"received 'maths'; accepted: math, or module:function"),
        ("user_graders:", "module:function"),
        ("no_such_module:reward", "No module named 'no_such_module'"),
        ("user_graders:rewrad", "no attribute 'rewrad'"),
        ("user_graders:number", "of type int, not a function"),
        ("user_graders:one_argument", "too many positional arguments"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_at_once(graders: str, function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RewardRunner(RewardConfig(function=function))


def test_math_in_processes() -> None:
    """One start of math-verify: a hanging power, symbolic answers, and an empty reference that is not a silent zero."""
    runner = RewardRunner(RewardConfig(deadline_s=4.0, correct=2.0, wrong=-0.5))
    try:
        grades = runner.grade(
            [
                (r"\boxed{(x+1)^2}", "x^2+2x+1"),
                (r"\boxed{72}", "72"),
                (r"\boxed{71}", "72"),
                ("I do not know", "72"),
                (r"\boxed{5}", ""),
                (r"\boxed{9^{9^{9^{9^9}}}}", "5"),
            ]
        )
    finally:
        runner.close()
    assert [(grade.outcome.value, grade.reward) for grade in grades] == [
        ("correct", 2.0),
        ("correct", 2.0),
        ("wrong", -0.5),
        ("unparsable", -0.5),
        ("crash", -0.5),
        ("timeout", -0.5),
    ]
