"""specgen map --batch: several records at once, each with the answer that it has alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from specgen.core.errors import SomeFailed
from tests.cli.command import Outcome, invoke

FORMS = pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])


@pytest.fixture
def mapped(checkpoints: Any) -> Any:
    target = checkpoints.target("llama")

    def specgen(*arguments: object, stdin: bytes | None = None, n: int = 6) -> Outcome:
        return invoke("map", "-m", target, "--raw", "-n", n, "--keep-alive", "off", *arguments, stdin=stdin)

    return specgen


MANY = "".join(f"line {number} of the text, the lazy dog\n" * (1 + number % 2) for number in range(9)).encode()


@FORMS
def test_records_of_a_batch_get_the_answers_that_they_get_alone(mapped: Any, form: list[str]) -> None:
    def texts(*options: str) -> list[str]:
        lines = mapped(*form, *options, stdin=MANY, n=9).text.splitlines()
        return [json.loads(line)["output"] for line in lines] if form else lines

    alone = texts()
    assert len(alone) == 13
    assert texts("--batch", "4") == alone
    assert texts("--batch", "auto", "--temp", "1", "--seed", "3") == texts("--temp", "1", "--seed", "3")


def test_results_of_a_batch_may_be_written_as_they_come(mapped: Any) -> None:
    def outputs(*options: str) -> list[tuple[str, str]]:
        lines = mapped("--json", *options, stdin=MANY, n=9).text.splitlines()
        return [(each["input"], each["output"]) for each in map(json.loads, lines)]

    assert sorted(outputs("--batch", "4", "--unordered")) == sorted(outputs())


def test_a_faulty_record_stops_no_other_of_its_batch(mapped: Any) -> None:
    records = b'{"prompt": "one"}\n{"prompt": "two"}\nnot json\n{"prompt": "three"}\n'
    done = mapped("--json", "--batch", "4", stdin=records)
    assert done.code == SomeFailed.exit_code
    assert ["error" in json.loads(line) for line in done.text.splitlines()] == [False, False, True, False]


def test_a_batch_goes_on_where_another_ended(mapped: Any, tmp_path: Path) -> None:
    records, out = tmp_path / "in.txt", tmp_path / "out.txt"
    records.write_bytes(MANY)
    mapped("-f", records, "--resume", out)
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]))
    mapped("-f", records, "--resume", out, "--batch", "3")
    assert out.read_bytes() == whole


@pytest.mark.parametrize("options", [["--batch", "0"], ["--batch", "many"], ["--unordered"]])
def test_options_of_a_batch_are_checked(mapped: Any, options: list[str]) -> None:
    assert mapped(*options, stdin=b"one\n").code == 2
