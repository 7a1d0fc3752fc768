"""The entry point by which every vLLM process learns of the object-store weight transfer."""

BACKEND = "gainrl_object_store"


def register() -> None:
    """Make the weight transfer back end known to vLLM; calling it again changes nothing.

    vLLM calls it in each of its processes (entry point `vllm.general_plugins`); the class itself is imported when
    an engine asks for it.
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "gainrl_ray.actors.vllm_transfer", "ObjectStoreTransferEngine"
        )
