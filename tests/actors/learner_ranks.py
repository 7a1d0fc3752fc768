"""Learner ranks as processes of their own, and the small model that they train."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from gainrl_ray.model.loading import TINY_FOLDER

DEADLINE_S = 800


def save_small_model(folder: Path) -> str:
    """The folder, with a random two-layer Qwen2 with tied embeddings and the built-in tokenizer in it."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY_FOLDER)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def run_ranks(program: str, ranks: int, model: str, folder: Path) -> list[dict[str, Any]]:
    """What every rank of a program beside this file wrote down, with the folder and what it printed ("log")."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    path = str(Path(__file__).with_name(program))
    processes = [
        subprocess.Popen(
            [sys.executable, path, str(rank), str(ranks), port, model, str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    end = time.monotonic() + DEADLINE_S
    try:
        logs = [process.communicate(timeout=max(1.0, end - time.monotonic()))[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(log[-4000:] for log in logs)
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(ranks)]
    return [{**values, "folder": folder, "log": log} for values, log in zip(found, logs, strict=True)]
