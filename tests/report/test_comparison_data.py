"""Curves over seeds, and the words of a comparison's table."""

from pathlib import Path

import numpy as np
import pytest
from report_samples import comparison_folder, measure

from gainrl_ray.errors import DataError
from gainrl_ray.report.comparison_data import ComparisonData, read_comparison
from gainrl_ray.report.comparison_figures import curves, measures
from gainrl_ray.report.comparison_page import comparison_page, difference, figure, number, ratio


@pytest.fixture
def data(tmp_path: Path) -> ComparisonData:
    return read_comparison(comparison_folder(tmp_path / "made"))


def test_a_curve_is_the_mean_over_seeds_with_student_s_interval(data: ComparisonData) -> None:
    found = data.curve("gain", "eval_accuracy", "steps")
    assert found is not None and found.x.tolist() == [0, 2, 4], "where it was evaluated"
    assert found.mean.tolist() == pytest.approx([0.1, 0.3, 0.5])
    # Seeds at 0, 0.1, 0.2: standard deviation 0.1, t of 2 degrees 4.303, half width 0.2484.
    assert found.high.tolist() == pytest.approx([0.3484, 0.5484, 0.7484], abs=1e-4)
    assert found.low.tolist() == pytest.approx([0.0, 0.0516, 0.2516], abs=1e-4), "no accuracy is below 0"


def test_along_tokens_seeds_are_compared_where_all_have_been(data: ComparisonData) -> None:
    found = data.curve("gain", "eval_accuracy", "tokens")
    assert found is not None and (found.x[0], found.x[-1]) == (0, 400), "seed 0 ends at 400 tokens"
    # At 400 tokens seed 0 is at step 4, seed 1 at step 2, seed 2 at 4/3.
    assert found.mean[-1] == pytest.approx((0.4 + 0.3 + 0.2 + 0.4 / 3) / 3)


def test_seconds_begin_with_those_of_scoring(data: ComparisonData) -> None:
    gain, uniform = (data.curve(name, "accuracy", "seconds") for name in ("gain", "uniform"))
    assert gain is not None and uniform is not None
    assert (gain.x[0], gain.x[-1]) == (7, 13) and (uniform.x[0], uniform.x[-1]) == (2, 8)


def test_two_seeds_have_no_band_and_none_no_curve(tmp_path: Path) -> None:
    data = read_comparison(comparison_folder(tmp_path / "made", seeds=2))
    found = data.curve("gain", "grad_norm", "steps")
    assert found is not None and found.mean.tolist() == [1.5] * 4 and np.isnan(found.low).all()
    assert data.curve("unknown", "grad_norm", "steps") is None
    assert len(curves(data)["grad_norm/steps"].data) == 3


def test_a_bound_is_a_hollow_point_and_colours_stay_with_their_strategy(data: ComparisonData) -> None:
    drawn = measures(data)
    steps = {trace.legendgroup: trace.marker for trace in drawn["mean/steps_to_target"].data}
    assert steps["gain"].symbol == "circle" and steps["length"].symbol == "circle-open"
    apart = {trace.legendgroup: trace.marker.color for trace in drawn["uniform/final_accuracy"].data}
    assert apart == {name: steps[name].color for name in ("gain", "length")}
    assert len(drawn["mean/seconds_to_target"].data) == 0, "reached by nobody"


def test_the_words_of_the_table() -> None:
    assert figure("final_accuracy", measure(0.5)) == "0.500\n[0.400, 0.600]"
    assert figure("tokens_to_target", measure(1_234_567.0)) == "1.23M\n[1.23M, 1.23M]"
    assert figure("steps_to_target", measure(20.0, not_reached=1)) == "≥ 20\n[19.9, 20.1]\n1 of 3 not reached"
    assert figure("steps_to_target", measure(33.3606)) == "33.4\n[33.3, 33.5]"
    assert figure("seconds_to_target", measure(999.7)) == "1000\n[1000, 1000]"
    assert figure("steps_to_target", measure(20.0, not_reached=3)) == "not reached\n(≥ 20)"
    assert figure("steps_to_target", measure(None, not_reached=3)) == "not reached"
    assert figure("grad_norm", {"mean": 1.0, "low": None, "high": None, "runs": 1, "not_reached": 0}) == "1.000"
    assert figure("grad_norm", None) == "-"
    assert difference("final_accuracy", {"difference": 0.2, "low": 0.1, "high": 0.3}) == "+0.200 *\n[+0.100, +0.300]"
    assert difference("steps_to_target", {"difference": -5, "low": -12, "high": 2}) == "-5\n[-12, +2]"
    assert number("seconds_to_target", 1234.0) == "1.23k"
    assert ratio({"ratio": 1.5, "low": 0.9, "high": 2.1, "seeds": 5, "not_reached": 0}) == "1.50\n[0.90, 2.10]"
    assert ratio({"ratio": 1.5, "low": None, "high": None, "seeds": 1, "not_reached": 1}) == "≤ 1.50\n1 not reached"


def test_claims_and_speedups_are_shown_where_there_are_any(data: ComparisonData) -> None:
    assert "times fewer steps" not in comparison_page(data)
    data.table["rows"][0]["speedup"] = {"ratio": 2.34, "low": 1.0, "high": 3.0, "seeds": 3, "not_reached": 0}
    data.table["claims"][:] = [{"claim": "faster", "published": 2.5, "measured": 2.34, "low": None, "holds": None}]
    page = comparison_page(data)
    assert "times fewer steps" in page and "2.34\n[1.00, 3.00]" in page
    assert "<th>faster</th><td>2.5</td><td>2.34</td><td>-</td><td>open</td>" in page
    data.table["claims"][0]["not_reached"] = 2
    assert "<td>2.5</td><td>≤ 2.34</td>" in comparison_page(data)


def test_files_that_are_no_comparison_are_named(tmp_path: Path) -> None:
    folder = comparison_folder(tmp_path / "made")
    folder.delete("diagnostics.json")
    assert read_comparison(folder).signals == []
    folder.write_table("curves.parquet", folder.read_table("curves.parquet").drop(["reward", "step"]))
    with pytest.raises(DataError, match=r"curves\.parquet has no columns reward, step"):
        read_comparison(folder)
    folder.write_text("table.json", "[]")
    with pytest.raises(DataError, match=r"table\.json has no rows"):
        read_comparison(folder)
