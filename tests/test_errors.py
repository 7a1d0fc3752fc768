"""Errors raised on purpose end a job with one line and exit status 2; others are not hidden."""

import pytest

from gainrl_ray.errors import ConfigError, exit_status


@pytest.mark.parametrize(("answer", "status"), [(None, 0), (0, 0), (1, 1), (ConfigError("run.steps: received 0"), 2)])
def test_a_job_ends_with_its_status(
    answer: int | ConfigError | None, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    @exit_status("what is written is kept")
    def main(argv: list[str]) -> int | None:
        assert argv == ["--help"]
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    assert main(["--help"]) == status
    assert capsys.readouterr() == ("", "error: run.steps: received 0\n" if status == 2 else "")


def test_an_error_that_was_not_foreseen_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_status("nothing")(lambda argv: 1 // len(argv))([])


def test_an_interrupted_job_tells_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    @exit_status("finished blocks are kept")
    def main(argv: list[str]) -> None:
        raise KeyboardInterrupt

    assert main([]) == 130
    assert capsys.readouterr() == ("", "interrupted: finished blocks are kept\n")
