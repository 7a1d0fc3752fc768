"""Where Ray comes from: an own local one, a named cluster, or the cluster of the submitted job."""

import importlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from gainrl_ray.config import RayConfig
from gainrl_ray.devices import choose_visible
from gainrl_ray.environment import Environment
from gainrl_ray.errors import ResourceError

SLOW_IMPORTS = ("torch", "transformers.models.auto.tokenization_auto")
"""What every verb needs next; imported beside the start of Ray's processes, which is mostly waiting."""
IMPORTS_S = 120.0


@contextmanager
def session(config: RayConfig) -> Iterator[None]:
    """Ray for the length of the block; a Ray that was running before the block is left running.

    Inside a submitted job `RAY_ADDRESS` names the job's cluster, and that is joined. Otherwise `config.address`
    decides: `local` starts an own Ray on the loopback interface, never whatever happens to run on the machine.

    Raises:
        ResourceError: the named cluster cannot be reached.
    """
    address = Environment().ray_address or config.address
    if address == "local":
        # Both are read when ray is imported. Without the second, Ray rewrites 127.0.0.1 to the machine's address and
        # listens on it; on loopback alone nobody outside can reach a cluster without tokens.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Read by each of Ray's processes: actors and tasks that ask for no GPU see none.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        choose_visible()
    import ray

    if ray.is_initialized():
        yield
        return
    imports = threading.Thread(target=lambda: [*map(importlib.import_module, SLOW_IMPORTS)], daemon=True)
    imports.start()
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address == "local":
        ray.init(
            address="local",
            num_cpus=config.num_cpus,
            object_store_memory=int(config.object_store_gib * 2**30) if config.object_store_gib else None,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
    else:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError) as error:
            raise ResourceError(
                f"no Ray cluster answers at {address!r} ({error}): start one (`ray start --head`), correct the "
                "address, or use --ray.address=local"
            ) from error
    imports.join(IMPORTS_S)  # a module that another thread is importing can look half empty
    try:
        yield
    finally:
        ray.shutdown()


def free_supply() -> Mapping[str, float]:
    """What of the connected cluster's resources nobody has, by name."""
    import ray

    return ray.available_resources()


def cluster_supply() -> Mapping[str, float]:
    """The resources that the connected cluster has in all, by name."""
    import ray

    return ray.cluster_resources()
