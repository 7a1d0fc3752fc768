"""A run on a cluster of two nodes, through the job's own way in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster
from tolerances import rounding
from whole_runs import Finished, settings

from gainrl_ray.actors.ray_start import known_ports
from gainrl_ray.cli import to_yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster():
    """A head without task CPUs and two nodes that hold two learners and two engines together only."""
    with known_ports():
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def test_two_learners_and_two_engines_on_two_nodes_do_the_same_first_step(
    whole: Finished, cluster: Cluster, tmp_path: Path
) -> None:
    config = settings(
        whole.folder.parent,
        run={"steps": 1},
        learner={"workers": 2, "zero_stage": 3},
        rollout={"engines": 2},
        evaluation={"every": 0},
    )
    (tmp_path / "wide.yaml").write_text(to_yaml(config))
    command = [sys.executable, str(ROOT / "jobs/train.py"), "--config", f"{tmp_path}/wide.yaml", "--run.name=wide"]
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resources: 2 learner x {CPU: 0.5}, 2 engine x {CPU: 0.5}; cluster: {CPU: 2}" in done.stdout
    wide = Finished(whole.folder.parent / "wide", done.stdout.splitlines())
    assert wide.history()[0] == whole.history()[0]
    rollouts = [pq.read_table(run.folder / "rollouts/step_000000.parquet") for run in (whole, wide)]
    assert rollouts[0]["completion"].to_pylist() == rollouts[1]["completion"].to_pylist()
    for key in ("loss", "grad_norm", "angle"):  # of sizes up to 1, after the built-in model's sums
        assert wide.path(key)[0] == pytest.approx(whole.path(key)[0], abs=rounding(8789)), key
    assert json.loads((wide.folder / "model/config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
