"""The bundled pair does what it did when the baseline was committed."""

import json

from specgen.bench.files import read_report
from specgen.bench.regressions import compare_reports
from tests.bench import guard


def test_texts_rounds_and_acceptance_of_the_bundled_pair_are_those_of_the_baseline() -> None:
    """`python -m tests.bench.guard` writes a new baseline, if a change is meant."""
    after = json.loads(json.dumps(guard.measure()))
    before = read_report(guard.BASELINE)
    assert [run["contender"] for run in before["runs"]] == [run["contender"] for run in after["runs"]]
    assert [change for change in compare_reports(before, after) if change.kind != "speed"] == []
    assert after["identical"]
