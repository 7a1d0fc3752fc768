"""The plots of a run: their numbers."""

from pathlib import Path

import numpy as np
import pytest
from report_samples import run_folder

from gainrl_ray.report import run_figures
from gainrl_ray.report.rank_figures import mastery, rank_cells, rank_label, window
from gainrl_ray.report.run_data import RunData, RunReader


@pytest.fixture
def run(tmp_path: Path) -> RunData:
    return RunReader(run_folder(tmp_path / "run", 4)).read()


def test_cells_count_groups_by_rank_and_step(run: RunData) -> None:
    cells = rank_cells(run.rollouts, run.ordering)
    assert cells.rank_edges.tolist() == [*range(13)] and cells.step_edges.tolist() == [1, 2, 3, 4, 5]
    nan = np.nan
    expected = [  # step s draws ranks s-1, s, s+1 with accuracies 0.5, 0, 1
        [0.5, nan, nan, nan],
        [0.0, 0.5, nan, nan],
        [1.0, 0.0, 0.5, nan],
        [nan, 1.0, 0.0, 0.5],
        [nan, nan, 1.0, 0.0],
        [nan, nan, nan, 1.0],
        *[[nan] * 4] * 6,
    ]
    np.testing.assert_array_equal(cells.accuracy, expected)
    np.testing.assert_allclose(cells.density, np.where(np.isnan(expected), nan, 1 / 3))


def test_an_order_of_which_less_than_half_was_drawn_is_cut(run: RunData) -> None:
    cells = rank_cells(run.rollouts[:3], run.ordering)
    assert cells.rank_edges.tolist() == [0, 1, 2, 3, 4, 5], "rank 4 is the highest drawn of 12"


def test_many_ranks_and_steps_are_put_together(tmp_path: Path) -> None:
    run = RunReader(run_folder(tmp_path / "run", 160, gain=False)).read()
    cells = rank_cells(run.rollouts, run.ordering)
    assert cells.drawn.shape == (12, 120) and cells.drawn.sum() == 160 * 3
    np.testing.assert_allclose(np.nansum(cells.density, axis=0), 1.0)
    parts = run_figures.seconds(run).data
    assert [trace.name for trace in parts] == ["generate", "train", "wait"]
    assert list(parts[1].y) == [2.0] * 80 and list(parts[1].x[:2]) == [1.5, 3.5]


def test_the_window_s_line_stands_between_the_steps(run: RunData) -> None:
    drawn = window(run, rank_cells(run.rollouts, run.ordering)).data
    mu = next(trace for trace in drawn if trace.name == "mu")
    assert list(mu.x) == [1.5, 2.5, 3.5, 4.5] and list(mu.y) == [1, 2, 3, 4]
    high, low = (trace for trace in drawn if trace.name == "mu ± sigma")
    assert list(high.y) == [3, 4, 5, 6] and list(low.y) == [0, 0, 1, 2], "cut at rank 0"
    cell = mastery(run, rank_cells(run.rollouts, run.ordering)).data[0].customdata[1][0]
    assert list(cell) == ["rank 1", "step 1", 1]
    assert rank_label(run.ordering) == "rank (by falling angle concentration)"


def test_accuracy_shows_what_was_measured_when(run: RunData) -> None:
    drawn = {trace.name: trace for trace in run_figures.accuracy(run).data}
    assert list(drawn["held-out, greedy"].x) == [0, 4] and list(drawn["held-out, greedy"].y) == [0.25, 0.75]
    assert list(drawn["problems drawn"].x) == [1, 2, 3, 4]
    sources = run_figures.by_source(run)
    assert sources is not None and list(sources.data[0].y) == ["a", "b"]
    np.testing.assert_array_equal(sources.data[0].z, [[0.5, 1.0], [0.0, 0.5]])


def test_a_figure_that_was_never_logged_has_no_plot(run: RunData) -> None:
    assert set(run_figures.learning_signal(run)) == {"informative", "grad_norm", "entropy", "mismatch"}
    assert {trace.name for trace in run_figures.outcomes(run).data} == {"correct", "wrong"}


def test_a_run_without_rollouts_has_the_mean_length(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", 2)
    folder.delete("rollouts")
    drawn = run_figures.lengths(RunReader(folder).read()).data
    assert [trace.name for trace in drawn] == ["mean"] and list(drawn[0].y) == [3.5, 3.5]
