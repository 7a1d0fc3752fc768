"""TRL's GRPOTrainer on a given amount of work; run by the Python of its own environment, without gainrl_ray.

`python trl_peer.py SPEC.json` prints one JSON object per step: seconds, and tokens of its completions.
"""

import json
import sys
import tempfile
import time
import zlib
from typing import Any


def main(path: str) -> None:
    """Train as the spec says (gainrl_ray.benchmarks.stepping.StepWork), printing each step as it ends."""
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(spec["threads"])
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    completion_tokens: list[int] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        completion_tokens.extend(map(len, completion_ids))
        return [spread(text) for text in completions]

    class Clock(TrainerCallback):
        started = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()
            completion_tokens.clear()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = time.perf_counter() - self.started
            print(json.dumps({"seconds": seconds, "completion_tokens": sum(completion_tokens)}), flush=True)

    completions = spec["problems"] * spec["group_size"]
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            max_steps=spec["steps"],
            per_device_train_batch_size=spec["rows"],
            gradient_accumulation_steps=completions // spec["rows"],
            num_generations=spec["group_size"],
            max_completion_length=spec["max_new_tokens"],
            temperature=spec["temperature"],
            learning_rate=spec["lr"],
            lr_scheduler_type="constant",
            beta=0.0,
            gradient_checkpointing=False,  # its default; without, a step of a small model is shorter
            seed=spec["seed"],
            bf16=False,
            use_cpu=True,  # like the work that it is compared with
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(spec["model"], dtype=getattr(torch, spec["dtype"])),
            processing_class=tokenizer,
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": spec["prompts"]}),
            callbacks=[Clock()],
        )
        trainer.train()


def spread(text: str, answer: str = "") -> float:
    """A reward in [0, 1) that hardly ever is equal within a group, so that every completion is trained."""
    return zlib.crc32(text.encode()) % 997 / 997


if __name__ == "__main__":
    main(sys.argv[1])
