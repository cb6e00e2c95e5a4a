"""The harness's arithmetic, and that a run which failed cannot pass for a figure."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import __main__ as program
from tests.bench.harness import Failed, Plan, Row, Series, Unavailable, compare, interleave


def counting(name: str, calls: list[str], *values: float) -> Callable[[], float]:
    left = list(values)

    def run() -> float:
        calls.append(name)
        return left.pop(0)

    return run


def unavailable() -> float:
    raise Unavailable("the peer is not installed")


def failing() -> float:
    raise Failed("3 images were sent, 2 are there")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(folder=tmp_path, rounds=3)


def test_contestants_take_turns(plan: Plan) -> None:
    calls: list[str] = []
    runs = {name: counting(name, calls, 1, 2, 3) for name in ("a", "b")}
    assert interleave("x", runs, plan)["b"].values == (1, 2, 3)
    assert "".join(calls) == "ababab"


def test_the_ratio_is_of_medians(plan: Plan) -> None:
    (row,) = compare(
        "x", "ms", counting("a", [], 10, 1, 30), {"b": counting("b", [], 5, 400, 4)}, plan
    )
    assert row.record() == {
        "name": "x",
        "unit": "ms",
        "value": 10,
        "peer": "b",
        "peer_value": 5,
        "ratio": 2,
    }


def test_a_bench_without_a_peer_has_one_row(plan: Plan) -> None:
    (row,) = compare("x", "s", counting("a", [], 1, 2, 3), {}, plan)
    assert (row.ours.median, row.peer, row.ratio) == (2, None, None)


def test_a_peer_that_is_not_installed_is_null_and_ours_still_counts(plan: Plan) -> None:
    (row,) = compare("x", "s", counting("a", [], 1, 2, 3), {"b": unavailable}, plan)
    assert row.theirs.skipped == "the peer is not installed"
    assert row.record() | {"value": 2, "peer_value": None, "ratio": None} == row.record()


def test_a_failed_run_names_bench_and_contestant(plan: Plan) -> None:
    with pytest.raises(Failed, match="x, b: 3 images were sent, 2 are there"):
        compare("x", "s", counting("a", [], 1), {"b": failing}, plan)


class Bench:
    UNIT = "s"

    def __init__(self, run: Callable[[], float]) -> None:
        self._run = run

    def run(self, plan: Plan) -> list[Row]:
        return [Row(name="x", unit=self.UNIT, ours=Series(values=(self._run(),)))]


def test_the_program_writes_what_was_measured_and_what_was_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benches = {"good": Bench(lambda: 1.5), "absent": Bench(unavailable)}
    monkeypatch.setattr(program, "BENCHES", benches)
    assert program.main(["--json", str(tmp_path / "bench.json")]) == 0
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["name"], row["value"]) for row in written] == [("x", 1.5), ("absent", None)]
    assert "skipped: the peer is not installed" in capsys.readouterr().out


def test_the_program_fails_with_the_reason_and_leaves_no_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benches = {"bad": Bench(failing), "good": Bench(lambda: 1.5)}
    monkeypatch.setattr(program, "BENCHES", benches)
    json_path = tmp_path / "bench.json"
    json_path.write_text("figures of an earlier run")
    assert program.main(["--json", str(json_path)]) == 1
    assert not json_path.exists()
    answer = capsys.readouterr()
    assert "2 are there" in answer.err
    assert "1.5" in answer.out
