"""What nvidia-smi tells, and what follows from it, with a stand-in for nvidia-smi."""

import os
from collections.abc import Callable
from pathlib import Path

import fake_nvidia_smi
import pytest
from fake_nvidia_smi import BUSY, H100, OLD_DRIVER, T4, V100, gpu

from gainrl_ray import devices
from gainrl_ray.devices import choose_visible, machine_gpus, numbers_to_use

Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Gives the machine GPUs, and the packages for them."""
    fake_nvidia_smi.install(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")  # so that what the code sets is undone
        monkeypatch.delenv(name)

    def give(*gpus: str, build: str = "cuda") -> None:
        monkeypatch.setenv("GPUS", ";".join(gpus))
        monkeypatch.setattr(devices, "installed_build", lambda: build)

    return give


def test_a_gpu_is_read_with_all_that_matters(machine: Machine) -> None:
    machine(H100, T4)
    first, second = machine_gpus(None)
    assert (first.index, first.name, first.driver, first.capability) == (0, "NVIDIA H100", "580.82.07", (9, 0))
    assert (first.total_mib, first.used_mib, first.free_mib) == (81920, 600, 81320)
    assert (first.trouble, first.is_busy, first.takes_bfloat16) == ("", False, True)
    assert (second.index, second.takes_bfloat16, second.trouble) == (1, False, "")
    assert str(first) == "GPU 0 (NVIDIA H100)" and first.memory == "79.4 of 80 GiB free"


def test_no_driver_is_no_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine()
    assert machine_gpus(None) == ()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert machine_gpus(None) == ()


@pytest.mark.parametrize(
    ("described", "trouble"),
    [
        (OLD_DRIVER, "its driver 550.54.15 is older than 580, which CUDA 13 needs: update the driver"),
        (gpu(driver="470.1", capability="-"), "its driver 470.1 is older than 580"),
        (V100, "its compute capability 7.0 is below 7.5 of CUDA 13"),
    ],
)
def test_what_cannot_be_used_says_why(machine: Machine, described: str, trouble: str) -> None:
    machine(described)
    (found,) = machine_gpus(None)
    assert trouble in found.trouble


def test_memory_in_use_makes_a_gpu_busy(machine: Machine) -> None:
    limits = ("8192,4097", "8192,4096", "81920,61441", "81920,61440", "[N/A],[N/A]")
    machine(*(gpu(memory=memory) for memory in limits))
    assert [found.is_busy for found in machine_gpus(None)] == [True, False, True, False, False]
    assert machine_gpus(None)[-1].memory == ""


@pytest.mark.parametrize(
    ("visible", "indices"), [(None, [0, 1, 2]), ("2,0", [0, 2]), ("", []), ("-1", []), ("GPU-1f2e,MIG-3", [0, 1, 2])]
)
def test_visible_devices_are_respected(machine: Machine, visible: str | None, indices: list[int]) -> None:
    machine(H100, H100, H100)
    assert [found.index for found in machine_gpus(visible)] == indices


def test_what_cannot_be_used_or_is_busy_is_left_out_where_others_remain(machine: Machine) -> None:
    for gpus, expected in (
        ([BUSY, V100, H100, H100], "2,3"),
        ([H100, H100], None),
        ([BUSY, BUSY], None),
    ):
        machine(*gpus)
        assert numbers_to_use(machine_gpus(None)) == expected


@pytest.mark.parametrize(
    ("gpus", "build", "given", "visible"),
    [
        ([BUSY, H100], "cuda", None, "1"),
        ([H100, H100], "cuda", None, None),
        ([H100], "cpu", None, ""),
        ([H100], "cpu", "0", "0"),
        ([], "cpu", None, None),
    ],
)
def test_ray_is_left_what_can_be_used(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    gpus: list[str],
    build: str,
    given: str | None,
    visible: str | None,
) -> None:
    machine(*gpus, build=build)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    choose_visible()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    assert os.environ.get("CUDA_DEVICE_ORDER") == ("PCI_BUS_ID" if visible == "1" else None)


def test_here_the_packages_are_those_for_cpus() -> None:
    import torch

    assert devices.installed_build() == ("cuda" if torch.version.cuda else "cpu")
