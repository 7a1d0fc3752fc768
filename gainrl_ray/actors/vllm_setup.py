"""How vLLM is set up in an engine's process: its environment, its log file and its arguments."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from gainrl_ray.actors.devices import check_vllm, device_environment
from gainrl_ray.actors.vllm_adapter import lora_arguments
from gainrl_ray.actors.vllm_plugin import BACKEND, MARK, register
from gainrl_ray.config import LoraConfig, ModelConfig, RolloutConfig
from gainrl_ray.model.loading import model_folder
from gainrl_ray.processor import this_processor


def environment(rollout: RolloutConfig, *, in_process: bool) -> dict[str, str]:
    """The environment of an engine's processes; vLLM and OpenMP read it when they are first imported."""
    variables = device_environment(rollout.gpus_per_engine) | {
        MARK: "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if in_process else "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if rollout.gpus_per_engine == 0:
        variables |= {
            "OMP_NUM_THREADS": str(rollout.threads_per_engine),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(rollout.kv_cache_gib))),
        }
        if rollout.enforce_eager is not False:
            # One small function of the sampler is compiled otherwise, which holds up the first step for seconds.
            variables["TORCH_COMPILE_DISABLE"] = "1"
    else:
        variables["TRITON_F32_DEFAULT"] = "ieee"  # attention in float32 is Triton's, which multiplies in TF32 otherwise
    return variables


def runs_in_process(rollout: RolloutConfig) -> bool:
    """Whether the engine lives in its actor's process: on CPU, where this makes its start ten times as fast."""
    return rollout.gpus_per_engine == 0 and rollout.tensor_parallel_size == 1


def build_engine(
    model: ModelConfig, rollout: RolloutConfig, lora: LoraConfig, max_model_len: int, in_process: bool
) -> Any:
    """vLLM's LLMEngine with the model folder's own weights, the object-store weight transfer and prefix caching.

    Raises ResourceError when the vLLM of this environment cannot run on the engine's devices or processor.
    """
    check_vllm(rollout.gpus_per_engine)
    on_cpu = rollout.gpus_per_engine == 0
    if on_cpu:
        this_processor().check_engine()
    from vllm import EngineArgs, LLMEngine
    from vllm.config import WeightTransferConfig

    register()
    arguments = EngineArgs(
        model=model_folder(model),
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        dtype=model.dtype,
        hf_overrides={"head_dtype": "float32"} if model.head_dtype == "float32" else {},
        seed=0,
        max_model_len=max_model_len,
        max_num_seqs=rollout.max_num_seqs,
        tensor_parallel_size=rollout.tensor_parallel_size,
        distributed_executor_backend="mp" if rollout.tensor_parallel_size > 1 else "uni",
        enforce_eager=on_cpu if rollout.enforce_eager is None else rollout.enforce_eager,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        enable_sleep_mode=rollout.colocated and not on_cpu,  # vLLM refuses it on CPU
        kv_cache_memory_bytes=int(rollout.kv_cache_gib * 2**30) if on_cpu else None,
        enable_prefix_caching=True,
        # The smallest that the CPU kernels know. A prefix is cached by whole blocks: of the default 128 the part that
        # all prompts of a dataset have in common rarely fills one.
        block_size=32 if on_cpu else None,
        **(_whole_prompts(max_model_len, rollout.max_num_seqs) if on_cpu else {}),
        logprobs_mode="processed_logprobs",
        **lora_arguments(lora),
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )
    return LLMEngine.from_engine_args(arguments, enable_multiprocessing=not in_process)


def _whole_prompts(max_model_len: int, max_num_seqs: int) -> dict[str, Any]:
    """Arguments by which no prompt is prefilled in pieces: for a request with a seed that fails on CPU.

    After a piece vLLM winds the request's random generator back by an offset, which CPU generators do not have
    (`gpu_model_runner.py`, `_bookkeeping_sync`). A whole prompt fits beside a full batch of decoding sequences.
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, max_model_len + max_num_seqs)}


def log_to(log_file: Path) -> None:
    """Make vLLM log into a file instead of the standard output; without effect once vLLM is imported."""
    if "vllm" in sys.modules:
        return
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = {"class": "logging.FileHandler", "formatter": "plain", "filename": str(log_file), "delay": True}
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logger = {"handlers": ["file"], "level": os.environ.get("VLLM_LOGGING_LEVEL", "INFO"), "propagate": False}
    settings = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": form}},
        "handlers": {"file": handler},
        "loggers": {"vllm": logger},
    }
    path = log_file.with_suffix(".logging.json")
    path.write_text(json.dumps(settings))
    os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(path)
