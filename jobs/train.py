"""Fine-tune a language model with GRPO under a data curriculum: `python jobs/train.py [--config NAME] [--key=value]`.

The run is continued when its name exists."""

import sys
import time
from pathlib import Path

from gainrl_ray.errors import exit_status

PRESETS = Path(__file__).parent / "configs"


@exit_status("steps that are committed are kept, the same --run.name continues the run")
def main(argv: list[str]) -> None:
    """The exit status: 0 when the run finished or was stopped with a commit, 2 when the input cannot be used."""
    from gainrl_ray.cli import load_config, named_settings, preset_name
    from gainrl_ray.environment import Environment

    base = Environment().caller_dir
    config = load_config(argv, presets=PRESETS, base=base)
    run_name = config.run.name or f"{preset_name(argv)}-{time.strftime('%Y%m%d-%H%M%S')}"
    from gainrl_ray.actors.session import session

    with session(config.ray):
        from gainrl_ray.placement import place
        from gainrl_ray.training import stored_config, summary, train

        named = named_settings(argv, presets=PRESETS, base=base)
        config = place(config, named, stored=stored_config(config, run_name), say=print)
        print(summary(train(config, run_name)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
