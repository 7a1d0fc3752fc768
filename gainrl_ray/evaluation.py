"""The verb evaluate: accuracy of a model on the held-out problems, on the same engines as training."""

import json
import time
from collections.abc import Callable

from gainrl_ray.actors.evaluator import evaluate_model
from gainrl_ray.actors.resources import budget, preflight, tell_processor
from gainrl_ray.actors.session import cluster_supply
from gainrl_ray.config import Config
from gainrl_ray.console import table as console_table
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.model.loading import check_model, check_positions
from gainrl_ray.storage import Storage

EVALUATIONS = "evaluations"


def evaluate(config: Config, name: str, say: Callable[[str], None] = print) -> dict[str, float]:
    """The held-out figures of `config.model` (see Generator.evaluate), also stored as evaluations/<name>.json.

    Ray must be connected. The weights reach the engines by the way that training uses, and are verified.

    Raises:
        GainrlError: anything that the user can mend, with what was received and what to do.
    """
    storage = Storage(config.run.storage)
    prompts = PromptBuilder(check_model(config.model), config.data.prompt)
    check_positions(config)
    heldout = prepare_problems(config.data.heldout, prompts=prompts, on_bad_row=config.data.on_bad_row, storage=storage)
    say(f"held-out: {heldout.report}")
    say(preflight(budget(config)[1:], cluster_supply(), config.ray.autoscaling))
    tell_processor(config, budget(config)[1:], say)
    figures = evaluate_model(config, heldout)
    record = {"model": config.model.path, "data": config.data.heldout.path, "problems": len(heldout), **figures}
    storage.child(EVALUATIONS).write_text(f"{name}.json", json.dumps(record, indent=2))
    rows = [(key.removeprefix("eval/"), f"{value:.3f}") for key, value in figures.items()]
    say("\n" + console_table([("problems", str(len(heldout))), *rows], f"{config.model.path} on held-out problems"))
    say(f"\nwritten to {storage.child(EVALUATIONS, f'{name}.json').uri}")
    return figures


def evaluation_name() -> str:
    """A name for an evaluation: the time."""
    return time.strftime("%Y%m%d-%H%M%S")
