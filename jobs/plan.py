"""Memory and step time on a cluster: `python jobs/plan.py [--config NAME] [--gpus 8 64] [--gpu h100-80] [--key=value]`.

`--measured RUN --against OTHER...` predicts other finished runs from the parts of one and shows the errors."""

import sys
from pathlib import Path

from gainrl_ray.errors import exit_status

PRESETS = Path(__file__).parent / "configs"


@exit_status("nothing was written, run it again")
def main(argv: list[str]) -> None:
    """The exit status: 0, or 2 when the input cannot be used."""
    from gainrl_ray.environment import Environment
    from gainrl_ray.planning.command import parse, plan

    options, config = parse(argv, presets=PRESETS, base=Environment().caller_dir)
    for number, text in enumerate(plan(options, config)):
        print(("\n" if number else "") + text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
