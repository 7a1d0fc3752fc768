"""The demo on a cluster of two nodes: the learner on one, the engine on the other, the job's own way in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from gainrl_ray.metrics import read_metrics
from gainrl_ray.storage import Storage

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster():
    """A head without task CPUs and two nodes too small to hold both parts."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def test_a_run_spreads_over_two_nodes(cluster: Cluster, tmp_path: Path) -> None:
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "GAINRL_CALLER_DIR": str(tmp_path)}
    arguments = [
        "--run.storage=runs",
        "--run.name=two",
        "--run.steps=2",
        "--curriculum.name=uniform",
        "--data.train.limit=32",
        "--data.train.max_level=2",
        "--data.heldout.limit=4",
        "--rollout.problems_per_step=4",
        "--rollout.group_size=4",
        "--rollout.max_new_tokens=48",
        "--rollout.cpus_per_engine=1",
        "--learner.cpus_per_worker=1",
        "--evaluation.every=0",
    ]
    command = [sys.executable, str(ROOT / "jobs/train.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resources: 1 learner x {CPU: 1}, 1 engine x {CPU: 1}; cluster: {CPU: 2}" in done.stdout
    assert [record["step"] for record in read_metrics(Storage(str(tmp_path / "runs/two")))] == [0, 1, 2]
    assert (tmp_path / "runs/two/model/model.safetensors").exists()
