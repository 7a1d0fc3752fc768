"""Makes the built-in start model from the built-in problems: `python jobs/pretrain_tiny.py [--output FOLDER]`."""

import argparse
import sys
from pathlib import Path

import torch

import gainrl_ray.model
from gainrl_ray.errors import exit_status
from gainrl_ray.model.pretraining import PROBLEM_SEED, Recipe, build_model, build_tokenizer, save, train
from gainrl_ray.model.pretraining_check import measure

PACKAGED = Path(gainrl_ray.model.__file__).parent / "tiny"


@exit_status("the folder is written at the end of the training")
def main(argv: list[str]) -> None:
    """Trains on the CPU, writes the folder, prints what the model can do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=PACKAGED, help="folder to write")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--part", type=float, default=1.0, help="part of the training steps, for a quick trial")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order")
    parser.add_argument("--check", type=int, default=50, help="held-out problems per level to measure on; 0 = none")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(seed=arguments.seed).shortened(arguments.part)
    tokenizer = build_tokenizer(PROBLEM_SEED)
    model = build_model(tokenizer, recipe.seed)
    train(model, tokenizer, recipe, report=lambda line: print(line, flush=True))
    save(arguments.output, model, tokenizer)
    print(f"{model.num_parameters()} parameters written to {arguments.output}")
    if arguments.check:
        for line in measure(model, tokenizer, arguments.check, recipe.seed):
            print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
