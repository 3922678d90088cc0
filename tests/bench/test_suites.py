"""Prompts to measure with."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from specgen.bench.suites import SuitePrompt, choose, read_suite
from specgen.core.errors import BadFile, UsageError


@pytest.fixture
def suite(tmp_path: Path) -> Any:
    """Writes a file of these lines; its path."""

    def write(*lines: str | bytes) -> str:
        path = tmp_path / "suite.jsonl"
        path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
        return str(path)

    return write


KINDS = ["chat", "code", "code edit", "summary", "translation", "extraction"]


def test_quick_has_twelve_prompts_of_six_kinds_and_full_has_eight_of_each() -> None:
    assert Counter(prompt.category for prompt in read_suite("quick")) == dict.fromkeys(KINDS, 2)
    assert Counter(prompt.category for prompt in read_suite("full")) == dict.fromkeys(KINDS, 8)


def test_full_marks_what_is_out_of_distribution_in_every_kind() -> None:
    marks = {(prompt.category, prompt.distribution) for prompt in read_suite("full")}
    assert marks == {(kind, mark) for kind in KINDS for mark in ("in", "out")}


def test_quick_gives_work_on_a_text_the_text() -> None:
    """What lookup gains shows only where an answer repeats its prompt."""
    kinds = ("code edit", "summary", "extraction")
    assert min(len(prompt.text) for prompt in read_suite("quick") if prompt.category in kinds) > 800
    assert min(len(prompt.text) for prompt in read_suite("full") if prompt.category in kinds) > 300


def test_a_line_of_spec_bench_counts_with_its_first_turn(suite: Any) -> None:
    line = json.dumps({"question_id": 81, "category": "writing", "turns": ["first", "second"]})
    assert read_suite(suite(line)) == [SuitePrompt("81", "writing", "first")]


def test_a_line_of_our_own_is_named_by_its_number(suite: Any) -> None:
    path = suite("", '{"prompt": "äh", "category": "chat", "distribution": "out"}', '{"prompt": "b"}', "")
    assert read_suite(path) == [SuitePrompt("2", "chat", "äh", "out"), SuitePrompt("3", "other", "b")]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '"text"',
        "{}",
        '{"prompt": ""}',
        '{"prompt": 3}',
        '{"turns": []}',
        '{"turns": "text"}',
        '{"turns": [3]}',
        '{"prompt": "a", "category": 3}',
        '{"prompt": "a", "distribution": "inside"}',
    ],
)
def test_a_bad_line_is_named_in_one_line(suite: Any, line: str) -> None:
    with pytest.raises(BadFile, match=r"suite\.jsonl, line 2 ") as caught:
        read_suite(suite('{"prompt": "a"}', line))
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_prompts_that_cannot_be_told_apart_are_refused(suite: Any) -> None:
    line = '{"question_id": 7, "turns": ["a"]}'
    with pytest.raises(BadFile, match="two prompts with the question_id 7"):
        read_suite(suite(line, line))


@pytest.mark.parametrize("lines", [(), ("", "  ")])
def test_an_empty_file_is_refused(suite: Any, lines: tuple[str, ...]) -> None:
    with pytest.raises(BadFile, match="contains no prompts"):
        read_suite(suite(*lines))


def test_a_file_that_is_not_there_and_one_that_is_no_text(suite: Any) -> None:
    with pytest.raises(BadFile, match="cannot read no-such: No such file"):
        read_suite("no-such")
    with pytest.raises(BadFile, match="it is not UTF-8 text"):
        read_suite(suite(b"\xff\xfe"))


def test_choosing_keeps_the_order_of_the_categories_asked_for() -> None:
    prompts = [SuitePrompt(str(number), kind, "x") for number, kind in enumerate("abcabc")]
    assert [prompt.id for prompt in choose(prompts, [], None)] == ["0", "3", "1", "4", "2", "5"]
    assert [prompt.id for prompt in choose(prompts, ["c", "a"], 1)] == ["2", "0"]


def test_a_category_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="no category 'prose'; there is: chat, code"):
        choose(read_suite("quick"), ["prose"], None)
