"""cluster/local.sh with stand-ins for uv, Ray and the new interpreter; the real ones are exercised by .ci/run."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fake_nvidia_smi
import pytest
from fake_nvidia_smi import BUSY, H100, OLD_DRIVER, T4, V100, gpu

from gainrl_ray import devices

ROOT = Path(__file__).parents[2]
Script = Callable[..., subprocess.CompletedProcess[str]]

# Makes a .venv whose interpreter is the real one, but which answers "how did the job end" with $RESULT.
FAKE_UV = """#!/bin/bash
if [[ "$*" == *--help* ]]; then echo --torch-backend; exit; fi
echo "$*" >> "$RECORD/uv"
env | grep ^UV_ > "$RECORD/uv.environment"
if [[ $1 == venv ]]; then
  folder=${!#}
  mkdir -p "$folder/bin"
  printf '#!/bin/bash\\n[[ $1 == - ]] && { echo "$RESULT"; exit; }\\n' > "$folder/bin/python"
  printf '[[ $1 == -m && $2 == gainrl_ray.* ]] && exec ray start\\n' >> "$folder/bin/python"
  printf 'exec %q "$@"\\n' "$PYTHON" >> "$folder/bin/python"
  cp "$(dirname "$0")/ray" "$folder/bin/ray"
  chmod +x "$folder/bin/"*
fi
if [[ $1 == pip && -n $INSTALL_FAILS ]]; then echo "no solution for torch==2.13.0+cpu"; exit 1; fi
exit 0
"""
# It ends at once, so that no head comes up.
FAKE_RAY = """#!/bin/bash
printf '%s\\n' "$@" >> "$RECORD/ray"
echo "${CUDA_VISIBLE_DEVICES-all} ${CUDA_DEVICE_ORDER-}" >> "$RECORD/visible"
echo "log of the job"
[[ $1 != start ]]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that holds the script alone, in a folder whose name needs quoting."""
    folder = tmp_path / 'a "checkout"'
    (folder / "cluster").mkdir(parents=True)
    shutil.copy(ROOT / "cluster" / "local.sh", folder / "cluster")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def script(checkout: Path, tmp_path: Path) -> Script:
    """Runs the checkout's local.sh with stand-ins first in PATH; they record their calls in tmp_path/record."""
    binaries = tmp_path / "bin"
    (tmp_path / "record").mkdir()
    binaries.mkdir()
    fake_nvidia_smi.install(binaries)
    for name, text in (("uv", FAKE_UV), ("ray", FAKE_RAY)):
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)

    def run(*arguments: str, cwd: Path = tmp_path, **environment: str) -> subprocess.CompletedProcess[str]:
        mine = ("UV_", "PIP_", "RAY_", "CUDA_", "GAINRL_")
        base = {key: value for key, value in os.environ.items() if not key.startswith(mine)}
        base |= {
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "RECORD": str(tmp_path / "record"),
            "PYTHON": sys.executable,
            "PIP_CONFIG_FILE": os.devnull,
            "RAY_ADDRESS": "http://192.0.2.1:8265",
            "RESULT": "0",
        }
        command = [str(checkout / "cluster" / "local.sh"), *arguments]
        return subprocess.run(
            command, cwd=cwd, env=base | environment, capture_output=True, text=True, timeout=180, check=False
        )

    return run


def calls(tmp_path: Path, name: str) -> list[str]:
    """The recorded lines of a stand-in, none when it was not called."""
    record = tmp_path / "record" / name
    return record.read_text().splitlines() if record.exists() else []


@pytest.mark.parametrize("path", ["cluster/local.sh", ".ci/run"])
def test_scripts_parse_and_are_executable(path: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / path)], check=True)
    assert os.access(ROOT / path, os.X_OK)


def test_wrong_usage_says_what_is_accepted(script: Script) -> None:
    missing, unknown, asked = script(), script("tarin"), script("--help")
    assert (missing.returncode, unknown.returncode, asked.returncode) == (2, 2, 0)
    assert "usage: cluster/local.sh train|score|evaluate|test|stop" in missing.stderr
    assert "unknown verb: tarin" in unknown.stderr
    assert "RAY_ADDRESS" in asked.stdout


def test_stop_without_a_head_is_harmless(script: Script, checkout: Path) -> None:
    for _ in range(2):
        stopped = script("stop")
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert "no Ray head of this checkout" in stopped.stdout
    assert not (checkout / ".venv").exists()


def test_stop_spares_a_process_that_got_the_recorded_pid(script: Script, checkout: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        (checkout / ".local").mkdir()
        (checkout / ".local" / "head").write_text(f"{other.pid} 12345 8265\n")
        assert script("stop").returncode == 0
        assert other.poll() is None
        other.kill()
    assert not (checkout / ".local" / "head").exists()


def test_sets_up_once_and_again_when_something_changed(script: Script, checkout: Path, tmp_path: Path) -> None:
    assert script("train").returncode == 0
    made, installed = calls(tmp_path, "uv")
    assert made.startswith("venv ") and "--editable .[cpu] --group dev" in installed
    assert script("train").returncode == 0
    assert len(calls(tmp_path, "uv")) == 2
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert script("train").returncode == 0
    assert [line.split()[0] for line in calls(tmp_path, "uv")] == ["venv", "pip", "pip"]
    assert script("train", GPUS=H100).returncode == 0
    fresh, gpu = calls(tmp_path, "uv")[3:]
    assert "--clear" in fresh and ".[gpu]" in gpu


def chosen(checkout: Path) -> str:
    """The packages that are installed."""
    return (checkout / ".venv" / ".gainrl-setup").read_text().split()[0]


def test_the_packages_are_those_for_what_the_driver_tells(script: Script, checkout: Path, tmp_path: Path) -> None:
    for gpus, said in (
        ("", "no GPU is used, the packages are those for CPUs: nvidia-smi fails: NVIDIA-SMI has failed"),
        (OLD_DRIVER, "driver 550.54.15 is older than 580, which CUDA 13 needs: update the driver"),
        (gpu(driver="470.1", capability="-"), "driver 470.1 is older than 580"),
        (V100, "Tesla V100 has compute capability 7.0, CUDA 13 needs 7.5 or more"),
    ):
        tried = script("train", "--help", GPUS=gpus)
        assert chosen(checkout) == "cpu" and said in tried.stdout, tried.stderr
    on_unified_memory = gpu(capability="12.1", memory="[N/A],[N/A]")
    for gpus in (T4, H100, BUSY, on_unified_memory, ";".join([V100, H100]), ";".join([H100] * 8)):
        tried = script("train", "--help", GPUS=gpus)
        assert chosen(checkout) == "gpu" and "no GPU" not in tried.stdout, tried.stderr
    assert len(calls(tmp_path, "uv")) == 4, "made anew once, when the packages changed"


def test_without_a_driver_nothing_is_said_of_gpus(script: Script, checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / "nvidia-smi").unlink()
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has an nvidia-smi of its own")
    assert "GPU" not in script("train", "--help").stdout
    assert chosen(checkout) == "cpu"


def test_the_choice_can_be_made_for_it(script: Script, checkout: Path, tmp_path: Path) -> None:
    assert "GPU" not in script("train", "--help", GPUS=H100, GAINRL_EXTRA="cpu").stdout
    assert chosen(checkout) == "cpu"
    hidden = script("train", "--help", GPUS=H100, CUDA_VISIBLE_DEVICES="")
    assert "CUDA_VISIBLE_DEVICES hides all GPUs" in hidden.stdout and len(calls(tmp_path, "uv")) == 2
    for gpus, expected in ((V100, "needs 7.5 or more; GAINRL_EXTRA=cpu"), (OLD_DRIVER, "update the driver; GAINRL")):
        insisted = script("train", "--help", GPUS=gpus, GAINRL_EXTRA="gpu")
        assert insisted.returncode == 1 and expected in insisted.stderr
    assert "accepted are cpu and gpu" in script("train", GAINRL_EXTRA="cuda").stderr


def test_without_python_headers_a_gpu_is_not_promised(script: Script, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.write_text(
        "#!/bin/bash\n"
        'if [[ $2 == *"print(sys.executable)"* ]]; then echo "$0"; exit; fi\n'
        f"no_headers=$'import sysconfig\\nsysconfig.get_paths = lambda scheme: dict(include=\"{tmp_path}\")\\n'\n"
        'if [[ $2 == *Python.h* ]]; then set -- -c "$no_headers$2"; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    bare.chmod(0o755)
    failed = script("train", GPUS=H100, PYTHON=str(bare))
    assert failed.returncode == 1
    assert re.search(
        r"has no Python\.h: apt install python3\.\d+-dev, or set PYTHON .* GAINRL_EXTRA=cpu", failed.stderr
    )
    assert calls(tmp_path, "uv") == []
    script("train", "--help", PYTHON=str(bare))
    assert len(calls(tmp_path, "uv")) == 2, "on CPUs nothing is compiled against it"


@pytest.mark.parametrize(
    ("environment", "visible", "said"),
    [
        ({"GPUS": H100}, "all ", ""),
        ({"GPUS": H100, "GAINRL_EXTRA": "cpu"}, " ", ""),
        ({"GPUS": BUSY}, "all ", "GPU 0 has 920 of 81920 MiB free; 0 left to use"),
        ({"GPUS": ";".join([V100, H100])}, "1 PCI_BUS_ID", "GPU 0 (Tesla V100) is too old; 1 left to use"),
        ({"GPUS": ";".join([BUSY, *[H100] * 7])}, "1,2,3,4,5,6,7 PCI_BUS_ID", "; 7 left to use"),
        ({"GPUS": ";".join([BUSY, H100]), "CUDA_VISIBLE_DEVICES": "0"}, "0 ", ""),
    ],
)
def test_ray_starts_with_the_gpus_that_can_be_used(
    script: Script, tmp_path: Path, environment: dict[str, str], visible: str, said: str
) -> None:
    started = script("train", RAY_ADDRESS="", **environment)
    assert started.returncode == 1, "the stand-in of Ray ends at once"
    assert calls(tmp_path, "visible")[0] == visible
    assert said in started.stdout and bool(said) == ("left to use" in started.stdout)


def test_the_suite_runs_on_cpus_beside_an_environment_for_gpus(script: Script, checkout: Path, tmp_path: Path) -> None:
    assert script("train", GPUS=H100).returncode == 0
    script("test", GPUS=H100)  # there is no suite in this checkout
    made, installed = calls(tmp_path, "uv")[2:]
    environment = checkout / ".local" / "venv-cpu"
    assert made.endswith(str(environment)) and ".[cpu]" in installed and f"{environment}/bin/python" in installed
    script("test")
    assert len(calls(tmp_path, "uv")) == 6, "without GPUs .venv serves, which was for GPUs"
    assert calls(tmp_path, "uv")[-2].endswith(str(checkout / ".venv"))


def test_both_languages_have_the_same_limits() -> None:
    text = (ROOT / "cluster" / "local.sh").read_text()
    limits = dict(re.findall(r"(oldest_driver|least_capability|free_memory)=([\d.]+)", text))
    capability = ".".join(map(str, devices.LEAST_CAPABILITY))
    assert limits == {
        "oldest_driver": str(devices.OLDEST_DRIVER),
        "least_capability": capability,
        "free_memory": str(devices.FREE_MIB),
    }


def test_uv_gets_what_pip_is_configured_with(script: Script, tmp_path: Path) -> None:
    pip = {"PIP_FIND_LINKS": "/wheels  /more", "PIP_EXTRA_INDEX_URL": "https://one.example/simple"}
    assert script("train", **pip, UV_INDEX="https://mine.example/simple").returncode == 0
    settings = calls(tmp_path, "uv.environment")
    assert "UV_FIND_LINKS=/wheels,/more" in settings
    assert "UV_INDEX=https://mine.example/simple" in settings
    assert "UV_INDEX_STRATEGY=unsafe-best-match" in settings


def test_failed_installation_says_what_to_do(script: Script) -> None:
    offline = "http://127.0.0.1:9"
    failed = script("train", INSTALL_FAILS="1", https_proxy=offline, HTTPS_PROXY=offline)
    assert failed.returncode == 1
    assert "no solution for torch==2.13.0+cpu" in failed.stderr
    assert "check the network and pip's settings, then run again" in failed.stderr


def test_missing_python_and_compiler_are_named(script: Script, checkout: Path, tmp_path: Path) -> None:
    assert "Python 3.11 to 3.13 is needed" in script("train", PYTHON="no-such-python").stderr
    tools = tmp_path / "few"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "sha256sum", "cut", "mkdir", "flock", "cat"):
        (tools / name).symlink_to(shutil.which(name) or name)
    failed = script("train", PATH=str(tools), CXX="no-such-compiler")
    assert failed.returncode == 1
    assert "a C++ compiler is needed" in failed.stderr
    assert not (checkout / ".venv").exists()


def test_submits_with_the_callers_folder_and_joins_the_named_cluster(script: Script, tmp_path: Path) -> None:
    caller = tmp_path / "my data"
    caller.mkdir()
    finished = script("train", "--data.train.path=rows.jsonl", "--run.name=a 'b'", cwd=caller)
    assert finished.returncode == 0
    assert "using the Ray cluster at http://192.0.2.1:8265" in finished.stdout
    submitted = calls(tmp_path, "ray")
    assert submitted[:2] == ["job", "submit"]
    assert not {"start", "stop", "--address"} & set(submitted)
    assert submitted[-5:] == ["--", "python", "jobs/train.py", "--data.train.path=rows.jsonl", "--run.name=a 'b'"]
    environment = json.loads(submitted[submitted.index("--runtime-env-json") + 1])
    assert environment["env_vars"]["GAINRL_CALLER_DIR"] == str(caller)


@pytest.mark.parametrize("result", ["0", "7", "143"])
def test_ends_with_the_status_of_the_job(script: Script, result: str) -> None:
    assert script("evaluate", RESULT=result).returncode == int(result)
