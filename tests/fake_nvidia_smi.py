"""A stand-in for nvidia-smi that tells of the GPUs in its environment."""

from pathlib import Path

SCRIPT = """#!/bin/bash
if [[ -z $GPUS ]]; then
  echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
  exit 9
fi
fields=${1#--query-gpu=}
if [[ ,$fields, == *,compute_cap,* && $GPUS == *,-,* ]]; then
  echo 'Field "compute_cap" is not a valid field to query.'
  exit 2
fi
index=0
while IFS=, read -r driver_version compute_cap total used name; do
  line=''
  for field in ${fields//,/ }; do
    case $field in
      memory.total) value=$total ;;
      memory.used) value=$used ;;
      *) value=${!field} ;;
    esac
    line+="${line:+, }$value"
  done
  echo "$line"
  index=$((index + 1))
done <<<"${GPUS//;/$'\\n'}"
"""

FREE, FULL = "81920,600", "81920,81000"  # MiB in all and in use


def gpu(*, driver: str = "580.82.07", capability: str = "9.0", memory: str = FREE, name: str = "NVIDIA H100") -> str:
    """One GPU as $GPUS has them, with ";" between; capability "-": the driver is too old to tell."""
    return ",".join((driver, capability, memory, name))


H100, BUSY = gpu(), gpu(memory=FULL)
OLD_DRIVER = gpu(driver="550.54.15", capability="8.0", name="NVIDIA A100")
V100 = gpu(capability="7.0", name="Tesla V100")
T4 = gpu(capability="7.5", memory="15360,4", name="Tesla T4")


def install(folder: Path) -> None:
    """Put it into `folder`."""
    (folder / "nvidia-smi").write_text(SCRIPT)
    (folder / "nvidia-smi").chmod(0o755)
