"""jobs/report.py from the outside, and the page's own bounds."""

import http.client
import json
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from report_samples import HOSTILE, comparison_folder, record, run_folder
from test_bad_input import job

from gainrl_ray.report.page import embedded, table
from gainrl_ray.report.serving import ReportServer
from gainrl_ray.report.writing import RunReport


def test_a_run_is_found_by_name_and_by_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder(tmp_path / "made", 2)
    comparison_folder(tmp_path / "comparisons/all")
    for arguments, folder in (
        (["made", f"--run.storage={tmp_path}"], "made"),
        ([str(tmp_path / "made")], "made"),
        (["all", f"--run.storage={tmp_path}"], "comparisons/all"),
    ):
        assert job("report").main(arguments) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / folder / "report.html")
        text = (tmp_path / folder / "report.html").read_text()
        assert text.count("plotly.js v") == 1 and HOSTILE not in text
        (tmp_path / folder / "report.html").unlink()


def broken(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


CASES: dict[str, tuple[list[str], Callable[[Path], object], str]] = {
    "nothing": ([], lambda folder: None, r"received nothing; accepted is RUN"),
    "unknown option": (["made", "--bogus"], lambda folder: None, r"--bogus.*accepted is RUN"),
    "no number": (["made", "--serve", "x"], lambda folder: None, r"--serve.*'x'"),
    "no port": (["made", "--serve", "80000"], lambda folder: None, r"--serve 80000: cannot listen"),
    "no such run": (["mode"], lambda folder: None, r"no run 'mode'.*its runs: made"),
    "no such comparison": (
        ["every"],
        lambda folder: comparison_folder(folder.parent / "comparisons/all"),
        r"no run 'every'.*its runs: made; its comparisons: all\)",
    ),
    "no such folder": (["../mode"], lambda folder: None, r"no run '\.\./mode'"),
    "no metrics": (["made"], lambda folder: (folder / "metrics.jsonl").unlink(), r"metrics\.jsonl does not exist"),
    "no lines": (["made"], broken("metrics.jsonl", "\n"), r"metrics\.jsonl does not exist or is empty"),
    "no JSON": (["made"], broken("metrics.jsonl", '{"step": 1}\n{"st'), r"metrics\.jsonl is no metrics file"),
    "no steps": (["made"], broken("metrics.jsonl", "{}\n"), r"a line without a step"),
    "no YAML": (["made"], broken("config.yaml", "a: ["), r"config\.yaml: not valid YAML"),
    "no parquet": (["made"], broken("rollouts/step_000000.parquet", "x"), r"step_000000\.parquet cannot be read"),
    "no environment": (["made"], broken("environment.json", "x"), r"environment\.json is no JSON"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_clear_message(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, damage, expected = CASES[case]
    run_folder(tmp_path / "made", 1)
    damage(tmp_path / "made")
    assert job("report").main([*arguments, f"--run.storage={tmp_path}"] if arguments else []) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "Traceback" not in message and "usage" not in message
    assert re.search(expected, message), message


def test_the_page_is_served_to_this_machine_s_browsers_only(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "made", 1)
    server = ReportServer(RunReport(run), 0)
    said: list[str] = []
    thread = threading.Thread(target=server.run, args=(said.append,))
    thread.start()
    try:
        port = int(server.url.split(":")[2].strip("/"))

        def get(path: str, host: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", path, headers={"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        status, page = get("/", f"localhost:{port}")
        assert status == 200 and "connect-src 'self'" in page
        assert get("/version", f"127.0.0.1:{port}")[1] in page
        assert get("/", f"attacker.example:{port}")[0] == 403
        assert get("/../config.yaml", f"localhost:{port}")[0] == 404
        addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
        for address in addresses - {"127.0.0.1"}:
            if not str(address).startswith("127."):
                with pytest.raises(OSError):
                    socket.create_connection((str(address), port), timeout=5)
    finally:
        server.stop()
        thread.join(10)
    assert not thread.is_alive() and said == []


def test_a_served_page_outlives_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gainrl_ray.report.serving.POLL_S", 0.05)
    run = run_folder(tmp_path / "made", 1)
    server = ReportServer(RunReport(run), 0)
    said: list[str] = []
    told = threading.Event()
    thread = threading.Thread(target=server.run, args=(lambda line: (said.append(line), told.set()),))
    thread.start()
    try:
        run.write_text("metrics.jsonl", "{")
        assert told.wait(10)
        assert server._content and "stays as it was" in said[0]
        run.write_text("metrics.jsonl", "".join(json.dumps(record(step)) + "\n" for step in (1, 2, 3)))
        for _ in range(200):
            if b"<dt>steps</dt><dd>3<" in server._content:
                break
            thread.join(0.05)
        else:
            pytest.fail("the page was not built again")
    finally:
        server.stop()
        thread.join(10)
    assert len(said) == 1, "an error is told once"


def test_texts_stay_texts() -> None:
    held = embedded({"text": HOSTILE + "\u2028"})
    assert "<" not in held and ">" not in held and "&" not in held and "\u2028" not in held
    assert json.loads(held)["text"] == HOSTILE + "\u2028"
    assert "<img" not in table(["a<b"], [[HOSTILE, HOSTILE]], key="strategy")
