"""Score a dataset: `python jobs/score.py [--signal=NAME[,NAME]] [--diagnose] [--config NAME] [--key=value]`.

Signals: angle (when nothing is asked), pass_rate, gold_likelihood, gradient_alignment, embedding. `--diagnose` tells,
on a sample of the problems, whether they say more than the prompts' lengths do."""

import sys
from pathlib import Path

from gainrl_ray.errors import exit_status

PRESETS = Path(__file__).parent / "configs"


@exit_status("blocks that are finished are kept, the same command continues")
def main(argv: list[str]) -> None:
    """The exit status: 0 when what was asked is there, 2 when the input cannot be used."""
    from gainrl_ray.cli import named_settings
    from gainrl_ray.environment import Environment
    from gainrl_ray.scoring_options import parse

    base = Environment().caller_dir
    options, config = parse(argv, presets=PRESETS, base=base)
    from gainrl_ray.actors.session import session

    with session(config.ray):
        from gainrl_ray.diagnosis import diagnose
        from gainrl_ray.placement import place
        from gainrl_ray.scoring import score, summary
        from gainrl_ray.signals import compute_signals

        config = place(config, named_settings(argv, presets=PRESETS, base=base), say=print)
        if options.angle:
            print(summary(score(config)))
        if options.signals:
            print(compute_signals(config, options.signals))
        if options.diagnose:
            diagnose(config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
