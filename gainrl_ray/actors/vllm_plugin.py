"""The entry point by which every vLLM process learns of the object-store weight transfer."""

import multiprocessing
import os

from gainrl_ray.actors.process_control import die_with

BACKEND = "gainrl_object_store"
MARK = "GAINRL_ENGINE"
"""The environment variable that processes of our engines have."""


def register() -> None:
    """Make the weight transfer back end known to vLLM; calling it again changes nothing.

    vLLM calls it in each of its processes (entry point `vllm.general_plugins`); the class itself is imported when
    an engine asks for it. Those that vLLM started for one of our engines end with the process that started them: an
    actor that is killed would leave them behind, with the GPU's memory.
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    starter = multiprocessing.parent_process()
    if MARK in os.environ and starter is not None and starter.pid is not None:
        die_with(starter.pid)
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "gainrl_ray.actors.vllm_transfer", "ObjectStoreTransferEngine"
        )
