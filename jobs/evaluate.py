"""Accuracy of a model on held-out problems: `python jobs/evaluate.py --model.path=FOLDER [--key=value]`."""

import sys
from pathlib import Path

from gainrl_ray.errors import exit_status

PRESETS = Path(__file__).parent / "configs"


@exit_status("nothing was written, run it again")
def main(argv: list[str]) -> None:
    """The exit status: 0 when the figures were printed, 2 when the input cannot be used."""
    from gainrl_ray.cli import load_config, named_settings
    from gainrl_ray.environment import Environment

    base = Environment().caller_dir
    config = load_config(argv, presets=PRESETS, base=base)
    from gainrl_ray.actors.session import session

    with session(config.ray):
        from gainrl_ray.evaluation import evaluate, evaluation_name
        from gainrl_ray.placement import place

        config = place(config, named_settings(argv, presets=PRESETS, base=base), say=print)
        evaluate(config, config.run.name or evaluation_name())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
