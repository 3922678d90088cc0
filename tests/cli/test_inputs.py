"""Input that is large, binary, empty or silent. Faults are reported before weights are loaded."""

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from specgen.cli import inputs
from specgen.cli.map import records
from specgen.core.errors import PromptTooLong
from specgen.session.prompt import refuse_long
from tests.cli.command import Outcome, invoke
from tests.fakes import encode, tokenizer

MEGABYTES = 10


@pytest.fixture
def unreadable(checkpoints: Any) -> Path:
    """A model whose weights must not be read."""
    folder: Path = checkpoints.make("unreadable", "llama")
    for weights in folder.glob("*.safetensors"):
        weights.write_bytes(b"must not be read")
    return folder


def failure(outcome: Outcome) -> str:
    assert outcome.out == b""
    assert outcome.err.startswith("specgen: ")
    assert outcome.err.count("\n") == 1
    return outcome.err


@pytest.mark.parametrize("form", [["--raw"], []], ids=["raw", "chat template"])
def test_ten_megabytes_fail_before_weights_are_loaded(unreadable: Path, form: list[str]) -> None:
    line = b"the quick brown fox jumps over the lazy dog\n"
    outcome = invoke("-m", unreadable, *form, "say more", stdin=line * (MEGABYTES * 1_000_000 // len(line)))
    assert outcome.code == 9
    words = failure(outcome)
    assert "the prompt has about " in words
    assert "shorten it" in words


def test_the_context_that_was_asked_for_counts(unreadable: Path) -> None:
    text = b"the quick brown fox jumps over the lazy dog " * 2_000
    assert "holds 20;" in failure(invoke("-m", unreadable, "--ctx-size", 20, stdin=text))


def test_a_long_prompt_that_fits_is_not_refused() -> None:
    """The number of tokens decides, not the length. Near the limit the whole prompt is encoded."""
    text = "the lazy dog " * 20_000
    tokens = len(encode(text))
    refuse_long(tokenizer(), text, tokens)
    with pytest.raises(PromptTooLong, match="about"):
        refuse_long(tokenizer(), text, tokens - 100)
    refuse_long(tokenizer(), text[: 1 << 16], 1)  # short enough to be encoded anyway


def test_a_large_record_of_a_map_fails_alone(checkpoints: Any) -> None:
    large = b"the quick brown fox " * 500_000
    outcome = invoke(
        "map", "-m", checkpoints.target("llama"), "--raw", "-n", 2, stdin=b"hello\n" + large + b"\nhello\n"
    )
    assert outcome.code == 14
    first, second, third = outcome.out.split(b"\n")[:3]
    assert first == third
    assert second == b""
    assert "record 2: the prompt has about " in outcome.err


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "stdin is not UTF-8 text (byte 0)"),
        (b"\x7fELF\x02\x01\x01\x00", "stdin is binary, not text (byte 7 is zero)"),
        (b"caf\xe9", "stdin is not UTF-8 text (byte 3)"),
    ],
)
def test_what_is_no_text_is_refused(unreadable: Path, tmp_path: Path, data: bytes, words: str) -> None:
    outcome = invoke("-m", unreadable, "describe", stdin=data)
    assert outcome.code == 10
    assert words in failure(outcome)
    (tmp_path / "file").write_bytes(data)
    outcome = invoke("-m", unreadable, "-f", tmp_path / "file", "describe")
    assert outcome.code == 10
    assert words.replace("stdin", str(tmp_path / "file")) in failure(outcome)


@pytest.mark.parametrize("data", [b"", b"\n\n", b" \r\n", b"\xef\xbb\xbf"])
def test_an_input_without_text_is_no_prompt(unreadable: Path, data: bytes) -> None:
    outcome = invoke("-m", unreadable, stdin=data)
    assert outcome.code == 2
    assert "there is no prompt" in failure(outcome)


def test_the_last_line_end_is_not_part_of_the_prompt(checkpoints: Any, tmp_path: Path) -> None:
    run = ("-m", checkpoints.target("llama"), "--raw", "-n", 8, "--json")
    expected = started(invoke(*run, "the lazy dog"))
    (tmp_path / "file").write_bytes(b"the lazy dog\n")
    for outcome in (
        invoke(*run, stdin=b"the lazy dog\n"),
        invoke(*run, stdin=b"the lazy dog\r\n"),
        invoke(*run, "-f", tmp_path / "file", stdin=b""),
    ):
        assert started(outcome) == expected
    assert started(invoke(*run, stdin=b"the lazy dog\n\n")) != expected


def started(outcome: Outcome) -> Any:
    """The messages that the model answers."""
    return json.loads(outcome.text.splitlines()[0])["messages"]


@pytest.mark.parametrize("command", [["run"], ["map"]])
def test_a_stdin_that_is_silent_is_named(checkpoints: Any, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """A pipe without a writer must not look like a program that hangs."""
    monkeypatch.setattr(inputs, "_PATIENCE_S", 0.0)
    note = "specgen: waiting for stdin; add < /dev/null if there is nothing to read\n"

    class Slow(io.BytesIO):
        def _wait(self) -> None:
            while note not in told.getvalue() and not quiet:
                time.sleep(0.001)

        def read(self, size: int | None = -1, /) -> bytes:
            self._wait()
            return super().read(size)

        def readline(self, size: int | None = -1, /) -> bytes:
            self._wait()
            return super().readline(size)

    for quiet in (False, True):
        told = io.StringIO()
        monkeypatch.setattr(inputs, "warn", lambda text, told=told: told.write(f"specgen: {text}\n"))
        stdin = SimpleNamespace(buffer=Slow(b"hello\n"), isatty=lambda: False, closed=False)
        monkeypatch.setattr("tests.cli.command.Stdin", lambda _, stdin=stdin: stdin)
        options = ["-m", checkpoints.target("llama"), "--raw", "-n", 1, *(["-q"] if quiet else [])]
        assert invoke(*command, *options).code == 0
        assert told.getvalue() == ("" if quiet else note)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no endless file")
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "-f", "/dev/zero"],
        ["run", "hello", "--grammar", "/dev/zero"],
        ["run", "hello", "-j", "/dev/zero"],
        ["map", "-f", "/dev/zero"],
    ],
)
def test_an_endless_file_does_not_fill_the_memory(
    arguments: list[str], unreadable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "LARGEST_INPUT", 1000)
    monkeypatch.setattr(records, "LARGEST_INPUT", 1000)
    outcome = invoke(*arguments, "-m", unreadable, stdin=b"")
    assert outcome.code == 10
    assert "/dev/zero is l" in failure(outcome)
    assert "er than 1 kB" in outcome.err


def test_line_ends_of_another_system_part_input_and_prompt_as_ours_do(checkpoints: Any) -> None:
    run = ("-m", checkpoints.target("llama"), "--raw", "-n", 8, "hello")
    assert invoke(*run, stdin=b"the lazy dog\r\n").out == invoke(*run, stdin=b"the lazy dog\n").out
