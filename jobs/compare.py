"""Compare curricula over seeds: `python jobs/compare.py --strategies gain,uniform,length --seeds 5 [--key=value]`.

The comparison is continued when its --name exists."""

import sys
from pathlib import Path

from gainrl_ray.errors import exit_status

PRESETS = Path(__file__).parent / "configs"


@exit_status("runs and steps that are finished are kept, the same --name continues the comparison")
def main(argv: list[str]) -> int:
    """The exit status: 0 when all runs ended or were stopped, 1 when one failed, 2 when the input cannot be used."""
    from gainrl_ray.cli import named_settings
    from gainrl_ray.comparing.command import parse
    from gainrl_ray.environment import Environment

    folder = Environment().caller_dir
    comparison = parse(argv, presets=PRESETS, folder=folder)
    from gainrl_ray.actors.session import session

    with session(comparison.base.ray):
        from gainrl_ray.comparison import compare, placed

        comparison = placed(comparison, named_settings(argv, presets=PRESETS, base=folder))
        return 1 if compare(comparison).table["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
