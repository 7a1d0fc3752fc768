"""Clusters to plan for: GPUs from their datasheets, how many, and what connects them."""

from dataclasses import dataclass

from gainrl_ray.errors import ConfigError

GIB = 2**30
USABLE = 0.985
"""Of a GPU's memory: what the driver leaves to programs (an H200 of 141 GiB gives 139)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU, or one core of a CPU machine, as its maker describes it."""

    name: str
    memory_gib: float  # of the GPU; of the whole machine for a CPU
    tflops: float  # dense bfloat16, per device
    memory_gbs: float  # GB/s to its memory, per device
    peer_gbs: float  # GB/s to another device of the node, one direction
    host_gbs: float  # GB/s to the host's memory, one direction
    node_gbs: float  # GB/s of a node to other nodes, all its adapters, one direction
    per_node: int
    source: str
    is_gpu: bool = True


DEVICES = {
    device.name: device
    for device in (
        Device(
            name="a100-80",
            memory_gib=80,
            tflops=312,
            memory_gbs=2039,
            peer_gbs=300,
            host_gbs=32,
            node_gbs=200,
            per_node=8,
            source="NVIDIA A100 80GB SXM and DGX datasheets: 312 TFLOP/s, 2,039 GB/s, "
            "NVLink 600 GB/s, PCIe 4 64 GB/s, both ways; 8 x 200 Gb/s",
        ),
        Device(
            name="h100-80",
            memory_gib=80,
            tflops=989,
            memory_gbs=3350,
            peer_gbs=450,
            host_gbs=64,
            node_gbs=400,
            per_node=8,
            source="NVIDIA H100 SXM and DGX datasheets: 1,979 TFLOP/s sparse, 3.35 TB/s, "
            "NVLink 900 GB/s, PCIe 5 128 GB/s, both ways; 8 x 400 Gb/s",
        ),
        Device(
            name="h200-141",
            memory_gib=141,
            tflops=989,
            memory_gbs=4800,
            peer_gbs=450,
            host_gbs=64,
            node_gbs=400,
            per_node=8,
            source="NVIDIA H200 SXM and DGX datasheets: 1,979 TFLOP/s sparse, 4.8 TB/s, "
            "NVLink 900 GB/s, PCIe 5 128 GB/s, both ways; 8 x 400 Gb/s",
        ),
        Device(
            name="cpu",
            memory_gib=16,
            tflops=0.05,
            memory_gbs=10,
            peer_gbs=2,
            host_gbs=5,
            node_gbs=1,
            per_node=1024,
            source="assumed: a core with AVX2 at 3 GHz; plan with --measured RUN instead",
            is_gpu=False,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """`count` equal devices in nodes of `device.per_node`."""

    device: Device
    count: int

    @property
    def node_gbs(self) -> float:
        """GB/s between nodes."""
        return self.device.node_gbs

    @property
    def memory(self) -> float:
        """Bytes of one device that programs can have."""
        return self.device.memory_gib * GIB * (USABLE if self.device.is_gpu else 1)

    @property
    def cores(self) -> float | None:
        """Cores that all parts share on a CPU machine; None on GPUs, where each part has its own."""
        return None if self.device.is_gpu else float(self.count)

    def link_gbs(self, devices: int) -> float:
        """GB/s of a ring of `devices`: within a node, else bounded by the node's adapters, which share the rings."""
        return self.device.peer_gbs if devices <= self.device.per_node else min(self.device.peer_gbs, self.node_gbs)


def device_named(name: str) -> Device:
    """The preset. Raises ConfigError naming those that exist."""
    if name not in DEVICES:
        raise ConfigError(f"--gpu {name}: accepted are {', '.join(DEVICES)}")
    return DEVICES[name]
