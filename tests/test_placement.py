"""Where settings go that ask for no GPU, by what the nodes tell; and the whole way from nvidia-smi to the decision."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_nvidia_smi
import pytest
from fake_nvidia_smi import BUSY, H100, OLD_DRIVER, T4, V100, gpu

from gainrl_ray import placement
from gainrl_ray.actors.gpu_nodes import GpuNode
from gainrl_ray.cli import diff_configs, load_config, named_settings
from gainrl_ray.comparing.command import Comparison
from gainrl_ray.comparing.grid import Arm, Grid, arms_text
from gainrl_ray.comparison import ARMS_FILE, placed
from gainrl_ray.config import Config
from gainrl_ray.devices import QUERY, read_gpus
from gainrl_ray.errors import ResourceError
from gainrl_ray.placement import ON_CPUS, PLACED, place
from gainrl_ray.planning import search
from gainrl_ray.report.comparison_data import COMPARISONS

ROOT = Path(__file__).parents[1]
PRESETS = ROOT / "jobs" / "configs"
SHARED = {
    "learner.gpus_per_worker": 1.0,
    "rollout.gpus_per_engine": 1.0,
    "scoring.gpus_per_actor": 1.0,
    "rollout.colocated": True,
    "rollout.gpu_memory_utilization": 0.6,
    "model.dtype": "bfloat16",
}
ALONE = SHARED | {"rollout.colocated": False, "rollout.gpu_memory_utilization": 0.85}
ON_CPU = {
    "learner.gpus_per_worker": 0.0,
    "rollout.gpus_per_engine": 0.0,
    "scoring.gpus_per_actor": 0.0,
    "rollout.colocated": False,
    "rollout.gpu_memory_utilization": 0.85,
    "model.dtype": "float32",
}
Place = Callable[..., tuple[Config, list[str]]]


def node(*described: str, build: Any = "cuda", headers: bool = True, count: int | None = None) -> GpuNode:
    """A node with these GPUs; `count` without any: nvidia-smi is not there."""
    rows = [[str(index), *line.split(",")] for index, line in enumerate(described)]
    gpus = read_gpus("\n".join(", ".join(row) for row in rows), QUERY)
    return GpuNode(address="node", count=count or len(gpus), build=build, has_headers=headers, gpus=gpus)


def where(config: Config) -> dict[str, Any]:
    """The settings that say where a run goes."""
    tree = config.model_dump()
    return {key: tree[key.partition(".")[0]][key.partition(".")[2]] for key in PLACED}


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Place:
    """Places a command line on nodes, gives config and lines."""

    def run(nodes: list[GpuNode], *argv: str, free: float | None = None, **options: Any) -> tuple[Config, list[str]]:
        total = float(sum(node.count for node in nodes))
        monkeypatch.setattr(placement, "gpu_nodes", lambda say: nodes)
        monkeypatch.setattr(placement, "cluster_supply", lambda: {"CPU": 8.0, "GPU": total})
        monkeypatch.setattr(placement, "free_supply", lambda: {"CPU": 8.0, "GPU": total if free is None else free})
        lines: list[str] = []
        config, named = load_config(argv, presets=PRESETS), named_settings(argv, presets=PRESETS)
        return place(config, named, say=lines.append, **options), lines

    return run


@pytest.mark.parametrize(
    ("nodes", "argv", "expected", "said"),
    [
        ([node(H100)], (), SHARED, "on NVIDIA H100: learner and engine take turns on the GPU, bfloat16"),
        ([node(*[H100] * 8)], (), ALONE, "2 of 8 GPUs for learners and engines, each its own, bfloat16"),
        ([node(H100), node(H100)], (), ALONE, "2 of 2 GPUs"),
        ([node(BUSY, H100)], (), SHARED, "take turns on the GPU"),
        (
            [node(T4)],
            (),
            SHARED | {"model.dtype": "float32"},
            "Tesla T4: learner and engine take turns on the GPU, float32",
        ),
        ([node(gpu(memory="81920,40960"))], (), SHARED | {"rollout.gpu_memory_utilization": 0.4}, "take turns"),
        ([node(gpu(memory="[N/A],[N/A]"))], (), SHARED, "take turns"),
        ([node(count=1)], (), SHARED, "on GPUs: learner and engine take turns"),
        ([node(H100, H100)], ("--rollout.engines=2", "--learner.workers=2"), SHARED, "take turns on 2 GPUs"),
        (
            [node(*[H100] * 4)],
            ("--rollout.tensor_parallel_size=2",),
            ALONE | {"rollout.gpus_per_engine": 2.0},
            "3 of 4",
        ),
        ([node(H100)], ("--model.dtype=float32",), SHARED | {"model.dtype": "float32"}, "the GPU, float32"),
        ([node(H100)], ("--config", "ladder"), SHARED, "take turns on the GPU"),
        ([node(H100, build="cpu")], (), ON_CPU, "on CPUs: the packages for CPUs are installed"),
        ([], (), ON_CPU, ""),
    ],
)
def test_settings_without_gpus_get_those_of_the_cluster(
    on: Place, nodes: list[GpuNode], argv: tuple[str, ...], expected: dict[str, Any], said: str
) -> None:
    config, lines = on(nodes, *argv)
    assert where(config) == expected
    assert len(lines) == bool(said) and said in "".join(lines)
    assert not said.startswith("on NVIDIA") or (
        "to choose: --learner.gpus_per_worker" in lines[0] and ON_CPUS in lines[0]
    )
    changed = {line.partition(":")[0] for line in diff_configs(load_config(argv, presets=PRESETS), config)}
    assert changed <= {*PLACED}, "nothing else is touched"


@pytest.mark.parametrize(
    ("nodes", "argv", "message"),
    [
        ([node(BUSY)], (), r"no GPU is free: GPU 0 \(NVIDIA H100\) has 0\.9 of 80 GiB free, .*nvidia-smi.*EXTRA=cpu"),
        ([node(OLD_DRIVER)], (), r"GPU 0 \(NVIDIA A100\): its driver 550.54.15 is older than 580.*update.*EXTRA=cpu"),
        ([node(V100)], (), r"GPU 0 \(Tesla V100\): its compute capability 7.0 is below 7.5.*EXTRA=cpu"),
        ([node(H100, headers=False)], (), r"no Python.h: apt install python3-dev.*EXTRA=cpu"),
        ([node(H100)], ("--rollout.max_staleness=1",), r"need 2 GPUs of their own, free: 1;.*max_staleness 0"),
        ([node(H100)], ("--rollout.engines=2",), r"need 3 GPUs of their own, free: 1;.*at most learner.workers"),
        ([node(H100)], ("--learner.workers=2",), r"need 3 GPUs of their own, free: 1; they cannot share: they need 2"),
        (
            [node(T4)],
            ("--model.dtype=bfloat16",),
            r"bfloat16 needs GPUs of compute capability 8.0 or more, GPU 0 \(Tesla",
        ),
        ([node(T4)], ("--config", "qwen2.5-0.5b-math"), r"bfloat16 needs GPUs .* use --model.dtype=float32"),
        ([node(V100)], ("--config", "qwen2.5-0.5b-math"), r"compute capability 7.0 is below 7.5"),
        (
            [node(H100, build="cpu")],
            ("--config", "qwen2.5-0.5b-math"),
            r"packages for CPUs are installed: GAINRL_EXTRA=gpu",
        ),
    ],
)
def test_what_cannot_run_is_refused_with_the_remedy(
    on: Place, nodes: list[GpuNode], argv: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ResourceError, match=message):
        on(nodes, *argv)


def test_an_engine_that_shares_gets_the_same_part_everywhere() -> None:
    preset = load_config(["--config", "one-gpu"], presets=PRESETS).rollout.gpu_memory_utilization
    assert preset == placement.SHARED_PART == search.SHARED_PART


def test_gpus_of_ray_s_other_jobs_are_not_free(on: Place) -> None:
    config, _ = on([node(*[H100] * 8)], free=1.0)
    assert where(config) == SHARED
    with pytest.raises(ResourceError, match="no GPU is free: Ray's other jobs have all of them"):
        on([node(*[H100] * 8)], free=0.0)


@pytest.mark.parametrize(
    "choice", ["--rollout.gpus_per_engine=0", "--learner={gpus_per_worker: 0}", "--config=own.yaml"]
)
def test_whoever_chooses_is_left_alone(on: Place, choice: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("scoring: {gpus_per_actor: 0}\n")
    config, lines = on([node(H100, build="cpu")], choice.replace("own", f"{tmp_path}/own"))
    assert (where(config)["rollout.gpus_per_engine"], lines) == (0.0, [])


def test_a_preset_s_gpus_stay_as_they_are(on: Place) -> None:
    for argv in (("--config", "qwen2.5-0.5b-gsm8k"), ("--config", "demo", "--config", "one-gpu")):
        config, lines = on([node(*[H100] * 8)], *argv)
        assert (config, lines) == (load_config(argv, presets=PRESETS), [])


def test_a_file_of_the_user_s_own_keeps_its_dtype(on: Place, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("model: {dtype: float32}\n")
    config, _ = on([node(H100)], "--config", str(tmp_path / "own.yaml"))
    assert where(config) == SHARED | {"model.dtype": "float32"}


def test_a_continued_run_stays_where_it_was(on: Place) -> None:
    shared, _ = on([node(H100)])
    again, lines = on([node(*[H100] * 8)], stored=shared)
    assert (where(again), lines) == (SHARED, [])
    chosen, _ = on([node(H100)], "--learner.gpus_per_worker=1", "--rollout.gpus_per_engine=1", stored=shared)
    assert not chosen.rollout.colocated, "a choice is not undone: the run tells that its settings have changed"
    on_cpu, _ = on([])
    assert where(on([node(H100, build="cpu")], stored=on_cpu)[0]) == ON_CPU
    assert where(on([node(H100)], stored=on_cpu)[0]) == ON_CPU, "whose packages the preflight refuses"


def test_arms_are_placed_alike_and_stay_where_they_were(
    on: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on([node(H100)])  # the machine
    base = load_config([f"--run.storage={tmp_path}"], presets=PRESETS)
    own = base.model_copy(update={"learner": base.learner.model_copy(update={"gpus_per_worker": 1.0})})
    arms = tuple(Arm(name=name, seeds=(0,), config=config) for name, config in (("plain", base), ("own", own)))
    grid = Grid(name="few", arms=arms, target_accuracy=None)
    comparison = Comparison(grid=grid, base=base, parallel=None, diagnose=False)
    named, lines = named_settings([], presets=PRESETS), list[str]()
    found = placed(comparison, named, lines.append)
    assert where(found.base) == where(found.grid.arms[0].config) == SHARED
    assert found.grid.arms[1].config == own, "an arm that chooses is left alone"
    assert len(lines) == 1
    folder = tmp_path / COMPARISONS / "few"
    folder.mkdir(parents=True)
    (folder / ARMS_FILE).write_text(arms_text(found.grid))
    monkeypatch.setattr(placement, "gpu_nodes", lambda say: [node(*[H100] * 8)])
    monkeypatch.setattr(placement, "free_supply", lambda: {"GPU": 8.0})
    assert placed(comparison, named, lines.append) == found


def test_the_first_command_tells_of_a_busy_gpu(tmp_path: Path) -> None:
    """By a real Ray that counts a GPU, on a machine whose packages say that they are those for GPUs."""
    fake_nvidia_smi.install(tmp_path)
    (tmp_path / "vllm-0.32.0.dist-info").mkdir()
    (tmp_path / "vllm-0.32.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}  # of the tests
    environment = inherited | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
        "GPUS": BUSY,
        "RAY_OVERRIDE_RESOURCES": '{"GPU": 1}',
    }
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), f"--run.storage={tmp_path}/runs"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "error: no GPU is free: GPU 0 (NVIDIA H100) has 0.9 of 80 GiB free" in done.stderr
    assert not (tmp_path / "runs").exists()
