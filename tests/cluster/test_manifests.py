"""The KubeRay manifests and the Dockerfile: valid against the custom resources' schemas, and in step with the code."""

import copy
import gzip
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from gainrl_ray.actors.resources import budget, scoring_share
from gainrl_ray.cli import load_config
from gainrl_ray.config import Config
from gainrl_ray.planning.shape import model_shape

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT.parent / "shared" / "schemas"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "cluster" / "Dockerfile").read_text()
IMAGE_ROOT = "/opt/gainrl-ray"
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster" / "kuberay" / name).read_text())


RAY_JOB, RAY_CLUSTER, STORAGE = (manifest(f"{name}.yaml") for name in ("rayjob", "raycluster", "storage"))
CLUSTERS = {"rayjob": RAY_JOB["spec"]["rayClusterSpec"], "raycluster": RAY_CLUSTER["spec"]}


def complaints(value: Any, schema: dict[str, Any], path: str) -> list[str]:
    """What a strict API server would refuse: unknown fields, missing ones, wrong types, values, patterns."""
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, int | str):
            return [f"{path}: {value!r} is neither a number nor a string"]
        pattern = schema.get("pattern")
        return [] if pattern is None or re.search(pattern, str(value)) else [f"{path}: {value!r} is no quantity"]
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [f"{path}: {value!r} is not of type {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path}: {value!r} is not one of {schema['enum']}"]
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        return [f"{path}: {value!r} does not match {schema['pattern']}"]
    if isinstance(value, list):
        return [line for i, item in enumerate(value) for line in complaints(item, schema["items"], f"{path}[{i}]")]
    if isinstance(value, dict):
        return _object_complaints(value, schema, path)
    return []


def _object_complaints(value: dict[str, Any], schema: dict[str, Any], path: str) -> list[str]:
    known, other = schema.get("properties", {}), schema.get("additionalProperties")
    found = [f"{path}.{key}: missing" for key in schema.get("required", ()) if key not in value]
    for key, item in value.items():
        if key in known:
            found += complaints(item, known[key], f"{path}.{key}")
        elif isinstance(other, dict):
            found += complaints(item, other, f"{path}.{key}")
        elif not (other or schema.get("x-kubernetes-preserve-unknown-fields")):
            found.append(f"{path}.{key}: unknown field")
    return found


def custom_resource_complaints(document: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """As `complaints`; a resource's own metadata is the API server's business and not in its schema."""
    assert set(document["metadata"]) <= {"name", "labels", "annotations"}
    return complaints({key: value for key, value in document.items() if key != "metadata"}, schema, document["kind"])


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason="the schemas of the custom resources are not in ../shared/schemas")
def test_manifests_are_valid_and_the_check_is_strict() -> None:
    for document, name in ((RAY_JOB, "rayjobs"), (RAY_CLUSTER, "rayclusters")):
        schema = json.loads(gzip.decompress((SCHEMAS / f"kuberay-{name}.v1.schema.json.gz").read_bytes()))
        assert document["apiVersion"] == "ray.io/v1"
        assert custom_resource_complaints(document, schema) == []
        wrong = copy.deepcopy(document)
        cluster = wrong["spec"].get("rayClusterSpec", wrong["spec"])
        group = cluster["workerGroupSpecs"][0]
        del group["groupName"]
        group["minReplica"] = 1
        group["maxReplicas"] = "2"
        cluster["authOptions"]["mode"] = "off"
        group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "much"
        found = "\n".join(custom_resource_complaints(wrong, schema))
        assert len(found.splitlines()) == 5
        for expected in ("groupName: missing", "minReplica: unknown", "not of type int", "'off'", "no quantity"):
            assert expected in found


def pods(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod spec of the head and of every worker group, by name."""
    groups = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"]["spec"], **groups}


def offer(cluster: dict[str, Any], group: str) -> tuple[float, float, int]:
    """CPUs and GPUs of one node of a group, and its most nodes."""
    spec = next(spec for spec in cluster["workerGroupSpecs"] if spec["groupName"] == group)
    limits = spec["template"]["spec"]["containers"][0]["resources"]["limits"]
    return float(limits["cpu"]), float(limits.get("nvidia.com/gpu", 0)), spec["maxReplicas"]


def entrypoint_config(monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Config]:
    """The job file of the RayJob's entrypoint in this checkout, and the settings its arguments give."""
    monkeypatch.delenv("GAINRL_CALLER_DIR", raising=False)
    interpreter, job, *arguments = shlex.split(RAY_JOB["spec"]["entrypoint"])
    assert interpreter == "python"
    return ROOT / Path(job).relative_to(IMAGE_ROOT), load_config(arguments, presets=ROOT / "jobs" / "configs")


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
class TestCluster:
    def test_versions_are_those_of_the_project(self, cluster: dict[str, Any]) -> None:
        assert f"ray[train,data,default]=={cluster['rayVersion']}" in PROJECT["dependencies"]
        for pod in pods(cluster).values():
            assert pod["containers"][0]["image"] == f"gainrl-ray:{PROJECT['version']}-cuda"

    def test_grows_and_shrinks_by_worker_groups(self, cluster: dict[str, Any]) -> None:
        assert cluster["enableInTreeAutoscaling"] is True
        assert cluster["autoscalerOptions"]["version"] == "v2"
        groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
        assert set(groups) == {"learners", "rollouts", "scorers"}
        for group in groups.values():
            assert group["minReplicas"] < group["maxReplicas"]
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]

    def test_head_runs_no_tasks_and_access_needs_a_token(self, cluster: dict[str, Any]) -> None:
        assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
        assert cluster["authOptions"] == {"mode": "token"}

    def test_containers_are_unique_and_without_rights(self, cluster: dict[str, Any]) -> None:
        user = re.search(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)
        assert user is not None
        for pod in [*pods(cluster).values(), RAY_JOB["spec"]["submitterPodTemplate"]["spec"]]:
            names = [container["name"] for container in pod["containers"]]
            assert len(names) == len(set(names)) == 1
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] == int(user[1])
            assert pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False

    def test_every_node_sees_the_storage_and_the_tokens(self, cluster: dict[str, Any]) -> None:
        assert STORAGE["kind"] == "PersistentVolumeClaim"
        assert STORAGE["spec"]["accessModes"] == ["ReadWriteMany"]
        for pod in pods(cluster).values():
            container, claim = pod["containers"][0], STORAGE["metadata"]["name"]
            assert {"name": "shared", "persistentVolumeClaim": {"claimName": claim}} in pod["volumes"]
            assert {"name": "shared", "mountPath": "/mnt/gainrl"} in container["volumeMounts"]
            assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
            secrets = {e["name"]: e["valueFrom"]["secretKeyRef"] for e in container["env"] if "valueFrom" in e}
            assert set(secrets) == {"HF_TOKEN", "WANDB_API_KEY"}
            assert all(s["optional"] and s["name"] == "gainrl-tokens" for s in secrets.values())

    def test_each_group_can_hold_its_part(self, cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        _, config = entrypoint_config(monkeypatch)
        shares = dict(zip(("learners", "rollouts"), budget(config), strict=True)) | {"scorers": scoring_share(config)}
        for group, share in shares.items():
            cpus, gpus, nodes = offer(cluster, group)
            per_node = min(int(have / need) for have, need in ((cpus, share.cpus), (gpus, share.gpus)) if need > 0)
            assert per_node >= 1
            wanted = max(share.count, config.scoring.max_actors) if group == "scorers" else share.count
            assert per_node * nodes >= wanted, f"{group}: {nodes} nodes x {per_node} < {wanted}"

    def test_every_worker_can_hold_the_weight_store(self, cluster: dict[str, Any]) -> None:
        """Where its first learner rank is, a run keeps max_staleness + 2 versions of the weights."""
        for group in cluster["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            store = int(group["rayStartParams"]["object-store-memory"])
            shm = next(gib(volume["emptyDir"]["sizeLimit"]) for volume in pod["volumes"] if volume["name"] == "shm")
            memory = gib(pod["containers"][0]["resources"]["limits"]["memory"])
            assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
            assert store >= 1.1 * max(map(kept_weights, PRESETS)), "and a tenth for rollouts and tables"
            assert store <= 0.95 * shm * 2**30, "Ray leaves 5 % of /dev/shm free, NCCL needs some"
            assert memory - shm >= 24, "for the processes beside what lies in /dev/shm, GiB"


def gib(quantity: str) -> int:
    """GiB of a Kubernetes quantity such as 36Gi."""
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi"))


PRESETS = sorted(path.stem for path in (ROOT / "jobs" / "configs").glob("*-*b-*.yaml"))


def kept_weights(preset: str) -> int:
    """Bytes of the versions that a preset's weight store keeps."""
    config = load_config(["--config", preset], presets=ROOT / "jobs" / "configs")
    width = {"bfloat16": 2, "float32": 4}[config.model.dtype]
    return width * model_shape(config.model).parameters * (config.rollout.max_staleness + 2)


def test_the_largest_preset_keeps_two_versions_of_seven_billion_weights() -> None:
    assert max(map(kept_weights, PRESETS)) == 2 * 2 * 7_615_616_512


def test_job_runs_a_job_file_with_settings_that_load(monkeypatch: pytest.MonkeyPatch) -> None:
    job, config = entrypoint_config(monkeypatch)
    assert job.is_file()
    assert config.run.name is not None
    assert Path(config.run.storage).is_relative_to("/mnt/gainrl")


def test_job_is_retried_under_the_same_name_and_cleaned_up() -> None:
    spec = RAY_JOB["spec"]
    assert spec["backoffLimit"] >= 1 and "--run.name=" in spec["entrypoint"] and "--run.storage=" in spec["entrypoint"]
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] > 0
    assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert spec["submissionMode"] in {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}


def test_both_manifests_describe_the_same_cluster() -> None:
    assert CLUSTERS["rayjob"] == CLUSTERS["raycluster"]


def test_image_is_built_from_the_project_and_pinned() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    names = [name for _, name in stages]
    assert {"cpu", "cuda"} <= set(names)
    for base in {image for image, _ in stages} - set(names):
        assert re.search(r":.*\d+\.\d+\.\d+", base), f"{base} is not pinned by tag"
    for extra, name in (("cpu", "cpu"), ("gpu", "cuda")):
        stage = DOCKERFILE.split(f"AS {name}-build\n")[1].split("\nFROM ")[0]
        assert f"uv pip install -r pyproject.toml --extra {extra}" in stage
        assert "python3.11" in stage or "--python 3.11" in stage
        assert extra in PROJECT["optional-dependencies"]
        final = DOCKERFILE.split(f"AS {name}\n")[1].split("\nFROM ")[0]
        assert f"COPY jobs {IMAGE_ROOT}/jobs" in final and "USER 10001:10001" in final
        assert f"-t gainrl-ray:{PROJECT['version']}-{name} " in DOCKERFILE
