"""The report of a run or comparison: `python jobs/report.py RUN_FOLDER_OR_NAME [--serve [PORT]]`.

It is one HTML file in the folder; `--serve` shows it live, on this machine only, while the run goes on."""

import sys

from gainrl_ray.errors import exit_status


@exit_status("the page is as it was")
def main(argv: list[str]) -> None:
    """The exit status: 0 when the page was written or served, 2 when the input cannot be used."""
    from gainrl_ray.environment import Environment
    from gainrl_ray.report.command import parse, report

    report(parse(argv), Environment().caller_dir, lambda line: print(line, flush=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
