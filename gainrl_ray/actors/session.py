"""Where Ray comes from: an own local one, a named cluster, or the cluster of the submitted job."""

import importlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gainrl_ray.actors.ray_start import PATIENCE, Say, in_attempts, known_ports, shorten_temp
from gainrl_ray.config import RayConfig
from gainrl_ray.console import told
from gainrl_ray.devices import choose_visible
from gainrl_ray.environment import Environment
from gainrl_ray.errors import ConfigError, ResourceError

SLOW_IMPORTS = ("torch", "transformers.models.auto.tokenization_auto")
"""What every verb needs next; imported beside the start of Ray's processes, which is mostly waiting."""
IMPORTS_S = 120.0
JOIN_S = 30.0
"""How long a named cluster may take to answer."""
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}


@contextmanager
def session(config: RayConfig, say: Say = print) -> Iterator[None]:
    """Ray for the length of the block; a Ray that was running before the block is left running.

    `config.address` decides: `local` is an own Ray on the loopback interface, never whatever happens to run on the
    machine. Without it, RAY_ADDRESS names the cluster, as it does in every submitted job; without both, `local`.

    Raises:
        ConfigError: the address is not that of a cluster's control service.
        ResourceError: the named cluster does not answer, or no own Ray starts.
    """
    address = _address(config, say)
    if address == "local":
        _stand_alone()
        choose_visible()
    import ray

    if ray.is_initialized():
        yield
        return
    imports = threading.Thread(target=lambda: [*map(importlib.import_module, SLOW_IMPORTS)], daemon=True)
    imports.start()
    with told(f"waiting for Ray ({address})", say):
        _start(config, say) if address == "local" else _join(address, say)
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


def _address(config: RayConfig, say: Say) -> str:
    """`local`, `auto` or host:port."""
    named = Environment().ray_address
    address = config.address or named or "local"
    if named and config.address not in (None, "auto", named):
        say(f"--ray.address={config.address} is given: RAY_ADDRESS={named} is set aside")
    if "://" in address:
        raise ConfigError(
            f"ray.address or RAY_ADDRESS: received {address!r}, accepted are host:port of the cluster's control "
            "service (port 6379 unless chosen otherwise) on one of its nodes, `auto` and `local`; from elsewhere "
            "submit the job: `RAY_ADDRESS=http://HOST:8265 ray job submit --working-dir . -- python jobs/train.py`"
        )
    return address


def _stand_alone() -> None:
    """The environment of an own Ray."""
    # Both are read when ray is imported. Without the second, Ray rewrites 127.0.0.1 to the machine's address and
    # listens on it; on loopback alone nobody outside can reach a cluster without tokens.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # Read by each of Ray's processes: actors and tasks that ask for no GPU see none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    # What another cluster's job manager told this process, and its own workers would believe.
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        os.environ.pop(name, None)


def _start(config: RayConfig, say: Say) -> None:
    """An own Ray, at the third attempt at the latest."""
    import ray

    shorten_temp(say)

    def start() -> None:
        with known_ports():
            ray.init(
                address="local",
                num_cpus=config.num_cpus,
                object_store_memory=int(config.object_store_gib * 2**30) if config.object_store_gib else None,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                **_QUIET,
            )

    in_attempts(start, say)


def _join(address: str, say: Say) -> None:
    """The named cluster, once its control service answers: Ray's own joining hears no signal for minutes."""
    import ray
    from ray._private.services import canonicalize_bootstrap_address_or_die

    remedy = "start one (`ray start --head`), correct the address, or use --ray.address=local"
    try:
        _await_answer(canonicalize_bootstrap_address_or_die(address), say)
        ray.init(address=address, **_QUIET)
    except (ConnectionError, ValueError) as error:
        raise ResourceError(f"no Ray cluster answers at {address!r} ({error}): {remedy}") from error
    except RuntimeError as error:
        raise ResourceError(f"the Ray cluster at {address!r} cannot be joined from here ({error}): {remedy}") from error


def _await_answer(address: str, say: Say) -> None:
    """Returns when the control service at host:port answers. Raises ConnectionError after JOIN_S."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    end, is_said = time.monotonic() + JOIN_S, False
    while True:
        channel = init_grpc_channel(address)
        try:
            service = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            question = gcs_service_pb2.GetClusterIdRequest()  # pyright: ignore[reportAttributeAccessIssue]
            service.GetClusterId(question, timeout=5)
            return
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                return  # it is there; joining says what it wants
            if code == grpc.StatusCode.UNIMPLEMENTED or time.monotonic() > end:
                raise ConnectionError(details) from error
        finally:
            channel.close()
        if not is_said:
            say(f"no answer yet from the Ray cluster at {address}, waiting for up to {JOIN_S:.0f} s")
        is_said = True
        time.sleep(1.0)
