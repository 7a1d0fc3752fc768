"""Other projects' packages in an environment of their own, made when a benchmark first needs it."""

import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

from gainrl_ray.environment import Environment
from gainrl_ray.errors import BenchmarkError

INSTALL_S = 1800.0
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def peer_python(name: str, *requirements: str) -> Path:
    """The interpreter of an environment that holds `requirements` and this environment's version of torch.

    It stands under the user's cache folder, is made by venv and pip (with pip's own settings), and is used again.
    Raises BenchmarkError with pip's last lines when that does not work.
    """
    wanted = [f"torch=={version('torch')}", *requirements]
    folder = Environment().cache_dir / "peers" / name
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    if stamp.exists() and stamp.read_text().split() == wanted:
        return python
    print(f"installing {', '.join(wanted)} into {folder}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        venv.create(folder, with_pip=True)
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(
            f"{sys.executable} -m venv cannot make {folder} ({error}): install the package python3-venv"
        ) from error
    command = [str(python), "-m", "pip", "install", "--quiet", *wanted]
    done = _run(command)
    if done.returncode and wanted[0].endswith("+cpu"):  # not where pip is configured to look
        done = _run([*command, "--extra-index-url", TORCH_CPU_INDEX])
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise BenchmarkError(f"pip cannot install {', '.join(wanted)}: check the network and pip's settings\n{last}")
    stamp.write_text("\n".join(wanted))
    return python


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"installing took longer than {INSTALL_S:.0f} s: {' '.join(command)}") from error
