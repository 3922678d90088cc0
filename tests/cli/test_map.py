"""specgen map: one result for each record, in order, also when a record is faulty."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import TERMINATED, OutOfMemory, SomeFailed, UnreadableText
from specgen.core.events import Event, Failed
from specgen.history.store import History, location
from specgen.serve.background.client import BackgroundSession
from tests.cli.command import Outcome, Stdin, in_process, invoke, terminal

pytestmark = pytest.mark.usefixtures("either_way")

LINES = ["the quick brown fox", "the lazy dog sleeps", "hello world"]
FORMS = pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
STORIES = [sys.executable, "-m", "specgen", "map", "-m", "stories", "--raw", "-n", "4"]


@pytest.fixture
def target(checkpoints: Any) -> Path:
    return Path(checkpoints.target("llama"))


@pytest.fixture
def mapped(target: Path) -> Any:
    def specgen(*arguments: object, stdin: bytes | None = None, n: int = 6) -> Outcome:
        return invoke("map", "-m", target, "--raw", "-n", n, *arguments, stdin=stdin)

    return specgen


@pytest.fixture
def answer(target: Path) -> Any:
    """The answer of specgen run to a prompt, in one line."""

    def run(prompt: str, n: int = 6) -> str:
        text = invoke("run", "-m", target, "--raw", "-n", n, prompt).text
        return " ".join(part for part in (line.strip() for line in text.replace("\r", "\n").split("\n")) if part)

    return run


def jsonl(records: Sequence[object]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def objects(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.decode().split("\n")[:-1]]


def test_every_line_has_its_answer_in_one_line(mapped: Any, answer: Any) -> None:
    outcome = mapped(stdin="\n".join(LINES).encode())
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.text.split("\n") == [*(answer(line) for line in LINES), ""]


def test_thinking_is_switched_as_in_run(target: Path) -> None:
    outcome = invoke("map", "-m", target, "-n", 4, "--no-think", stdin=b"hello\nworld\n")
    assert (outcome.code, outcome.err.count("cannot switch thinking on or off")) == (0, 1)


def test_line_ends_blank_lines_and_a_mark_at_the_start_are_no_text(mapped: Any) -> None:
    plain = mapped(stdin="\n".join(LINES).encode())
    assert mapped(stdin=b"\xef\xbb\xbf" + "\r\n\r\n".join(LINES).encode() + b"\r\n  \n").out == plain.out


def test_records_come_from_files_too(mapped: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(LINES[0] + "\n" + LINES[1])
    (tmp_path / "b").write_text(LINES[2])
    expected = mapped(stdin="\n".join(LINES).encode()).out
    assert mapped("-f", tmp_path / "a", "-f", tmp_path / "b").out == expected
    assert mapped("-f", tmp_path / "a", "-f", "-", stdin=LINES[2].encode()).out == expected


def test_the_prompt_goes_after_a_line_or_takes_it_in(mapped: Any, answer: Any) -> None:
    assert mapped("say more", stdin=LINES[0].encode()).text == answer(f"{LINES[0]}\n\nsay more") + "\n"
    assert mapped('say {"x": 1} of {input}', stdin=b"it").text == answer('say {"x": 1} of it') + "\n"


def test_json_records_keep_their_fields(mapped: Any, answer: Any) -> None:
    records = [{"id": 7, "prompt": LINES[0]}, {"id": "x", "prompt": LINES[1], "output": "old", "naïve": [1, None]}]
    outcome = mapped("--json", stdin=jsonl(records))
    assert (outcome.code, outcome.err) == (0, "")
    results = objects(outcome.out)
    assert [result["id"] for result in results] == [7, "x"]
    assert results[1]["naïve"] == [1, None]
    assert results[1]["record"] == {"output": "old"}
    assert "record" not in results[0]
    assert [" ".join(result["output"].split("\n")).strip() for result in results] == [
        answer(line) for line in LINES[:2]
    ]
    assert results[0]["stats"]["generated_tokens"] == 6
    assert "seed" not in results[0]
    assert objects(mapped("--json", "--temp", 1, "--seed", 3, stdin=jsonl(records)).out)[1]["seed"] == 3


@pytest.mark.parametrize("name", ["output", "partial", "seed", "stats", "error", "record"])
def test_no_field_of_a_record_is_lost(mapped: Any, answer: Any, name: str) -> None:
    record = {"prompt": LINES[0], name: {"old": 1}}
    (result,) = objects(mapped("--json", stdin=jsonl([record])).out)
    assert result["record"] == {name: {"old": 1}}
    assert result["output"].strip() == answer(LINES[0])
    assert result["stats"]["generated_tokens"] == 6
    (failed,) = objects(mapped("--json", "--field", "missing", stdin=jsonl([record])).out)
    assert failed["record"] == {name: {"old": 1}}
    assert failed["error"]["exit_code"] == 10


def test_a_first_line_that_is_not_utf8_is_a_failed_record(mapped: Any, answer: Any) -> None:
    outcome = mapped(stdin=b"caf\xe9\n" + LINES[0].encode())
    assert (outcome.code, outcome.text) == (14, f"\n{answer(LINES[0])}\n")
    assert "record 1: line 1 of stdin is not UTF-8" in outcome.err
    data = b'{"prompt": "caf\xe9"}\n' + jsonl([{"prompt": LINES[0]}])
    results = objects(mapped("--json", stdin=data).out)
    assert [result.get("error", {}).get("exit_code") for result in results] == [10, None]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_a_number_that_json_cannot_hold_is_a_failed_record(mapped: Any, number: str) -> None:
    outcome = mapped("--json", stdin=f'{{"prompt": "hello", "n": {number}}}\n{{"prompt": "hello"}}\n'.encode())
    assert outcome.code == 14
    failed, good = objects(outcome.out)
    assert number.lstrip("-") in failed["error"]["message"]
    assert "output" in good


@FORMS
def test_a_fault_of_the_model_ends_the_run_and_resuming_goes_on_there(
    mapped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    file, data = tmp_path / "out", "\n".join(LINES).encode()
    generate = BackgroundSession.generate

    def failing(session: BackgroundSession, prompt: str, **options: Any) -> Iterator[Event]:
        if prompt == LINES[1]:
            yield Failed(OutOfMemory("the device is full"))
        else:
            yield from generate(session, prompt, **options)

    with monkeypatch.context() as patch:
        patch.setattr(BackgroundSession, "generate", failing)
        outcome = mapped(*form, "--resume", file, stdin=data)
        assert outcome.code == OutOfMemory.exit_code
        assert outcome.err == "specgen: the device is full\n"
        assert file.read_bytes().count(b"\n") == 1
    assert mapped(*form, "--resume", file, stdin=data).code == 0
    whole = mapped(*form, stdin=data).out
    assert [strip(line) for line in file.read_bytes().splitlines()] == [strip(line) for line in whole.splitlines()]


@FORMS
def test_a_text_that_the_tokenizer_fails_on_fails_its_record_alone(
    mapped: Any, monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    encode = Tokenizer.encode

    def failing(tokenizer: Tokenizer, text: str, **options: Any) -> list[int]:
        if LINES[1] in text:
            raise UnreadableText("the model's tokenizer fails on this text")
        return encode(tokenizer, text, **options)

    monkeypatch.setattr(Tokenizer, "encode", failing)
    outcome = mapped(*form, stdin="\n".join(LINES).encode())
    assert outcome.code == SomeFailed.exit_code
    assert outcome.out.count(b"\n") == len(LINES)


def test_a_field_can_be_named_or_taken_in(mapped: Any, answer: Any) -> None:
    record = [{"text": LINES[0], "n": 3, "tags": ["ü"]}]
    assert mapped("--field", "text", stdin=jsonl(record)).text == answer(LINES[0]) + "\n"
    assert mapped("{text} {n} {tags}", stdin=jsonl(record)).text == answer(f'{LINES[0]} 3 ["ü"]') + "\n"
    assert mapped("--lines", stdin=jsonl(record)).text == answer(jsonl(record).decode().strip()) + "\n"


def test_what_is_wrong_with_one_record_stops_no_other(mapped: Any, answer: Any) -> None:
    good = json.dumps({"prompt": LINES[0]}).encode()
    bad = [
        b'{"prompt": ',
        b"[1]",
        b'{"text": "no prompt"}',
        b'{"prompt": ""}',
        b'{"prompt": "\xff"}',
        b'{"prompt": NaN}',
        b'{"prompt": "\\ud800"}',
    ]
    data = b"\n".join([good, *bad, json.dumps({"prompt": "long " * 60}).encode(), good])
    outcome = mapped("--json", "--ctx-size", 40, stdin=data)
    assert outcome.code == SomeFailed.exit_code
    assert outcome.err == "specgen: 8 of 10 records got no answer; their results say why\n"
    results = objects(outcome.out)
    codes = [result.get("error", {}).get("exit_code") for result in results]
    assert codes == [None, 10, 10, 10, 2, 10, 10, 10, 9, None]
    assert results[0] | {"stats": 0} == results[9] | {"stats": 0}
    assert results[3]["text"] == "no prompt"
    plain = mapped("--ctx-size", 40, stdin=data)
    assert plain.code == SomeFailed.exit_code
    assert plain.text == "\n".join([answer(LINES[0]), *[""] * 8, answer(LINES[0]), ""])
    assert plain.err.count("\n") == 9
    assert "record 3: line 3 of stdin is not a JSON object" in plain.err


def test_answers_of_a_schema_are_lines_of_json(mapped: Any) -> None:
    schema = json.dumps(
        {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["n"]}
        | {"additionalProperties": False}
    )
    outcome = mapped("-j", schema, stdin="\n".join(LINES).encode(), n=40)
    assert outcome.code == 0
    assert all(0 <= result["n"] <= 99 for result in objects(outcome.out))
    cut = mapped("-j", schema, "--json", stdin=LINES[0].encode(), n=3)
    (result,) = objects(cut.out)
    assert cut.code == SomeFailed.exit_code
    assert result["error"]["exit_code"] == 13
    assert result["partial"].startswith("{")
    assert "output" not in result


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "words"),
    [
        ([], None, 2, "there are no records"),
        (["-f", "missing.txt"], None, 10, "missing.txt"),
        ([], b"\x7fELF\x02\x00", 10, "line 1 of stdin is binary"),
        (["about {topic}"], b"hello\n", 2, "no field 'topic'"),
        (["--field", "x"], b"hello\n", 2, "--field is for JSON records"),
        (["--regex", "(a"], b"hello\n", 2, "unclosed group"),
        (["--resume", "no/such/folder"], b"hello\n", 10, "cannot write to no/such/folder"),
    ],
)
def test_what_concerns_all_records_is_said_before_a_model_is_looked_for(
    arguments: list[str], stdin: bytes | None, code: int, words: str
) -> None:
    outcome = invoke("map", "-m", "./no-such-model", *arguments, stdin=stdin)
    assert (outcome.code, outcome.out) == (code, b"")
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


@in_process
def test_nothing_in_nothing_out() -> None:
    assert invoke("map", "-m", "./no-such-model", stdin=b"\n\n") == Outcome(0, b"", "")


@in_process
def test_a_model_that_is_not_there_fails_all_at_once() -> None:
    outcome = invoke("map", "-m", "./no-such-model", "--stats", stdin=b"hello\n")
    assert (outcome.code, outcome.out) == (3, b"")
    assert outcome.err.count("\n") == 1


def test_the_summary_adds_up(mapped: Any) -> None:
    err = mapped("--stats", "-d", "lookup", stdin="\n".join(LINES).encode()).err
    assert "3 answered in " in err
    assert "18 tokens" in err
    assert mapped("--stats", "-q", stdin="\n".join(LINES).encode()).err == ""


@in_process
def test_the_pipeline_of_the_documentation_makes_json_of_every_line(mapped: Any) -> None:
    folder = Path(__file__).parents[2] / "docs" / "pipelines"
    schema = json.loads((folder / "order.schema.json").read_text())
    outcome = mapped("-j", folder / "order.schema.json", "-f", folder / "orders.txt", "Say it as JSON: {input}", n=200)
    assert (outcome.code, outcome.err) == (0, "")
    orders = objects(outcome.out)
    assert len(orders) == 50
    for order in orders:
        assert list(order) == schema["required"]
        assert order["day"] in schema["properties"]["day"]["enum"]


# Going on with what was begun


@FORMS
@pytest.mark.parametrize("cut", [None, 0, 1, 2])
def test_resuming_makes_the_file_that_one_run_makes(
    mapped: Any, tmp_path: Path, form: list[str], cut: int | None
) -> None:
    data = "\n".join(LINES).encode()
    whole = mapped(*form, stdin=data).out
    file = tmp_path / "out"
    if cut is not None:  # after a crash: some results, and half of the next one
        assert mapped(*form, "--resume", file, stdin=data).code == 0
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
    outcome = mapped(*form, "--resume", file, "--stats", stdin=data)
    assert (outcome.code, outcome.out) == (0, b"")
    assert [strip(line) for line in file.read_bytes().splitlines()] == [strip(line) for line in whole.splitlines()]
    assert (f"{cut} skipped" in outcome.err) == bool(cut)


def strip(line: bytes) -> Any:
    """A result without its times."""
    return {**json.loads(line), "stats": None} if line.startswith(b"{") else line


def test_nothing_is_loaded_when_all_is_done(mapped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "\n".join(LINES).encode()
    mapped("--resume", tmp_path / "out", stdin=data)
    before = (tmp_path / "out").read_bytes()
    monkeypatch.setattr(BackgroundSession, "open", None)
    assert mapped("--resume", tmp_path / "out", stdin=data).code == 0
    assert (tmp_path / "out").read_bytes() == before


def refused(outcome: Outcome, words: str, file: Path, content: bytes) -> None:
    """One line on stderr, and the file is unchanged."""
    assert (outcome.code, outcome.out) == (10, b"")
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert file.read_bytes() == content


@in_process
@FORMS
@pytest.mark.parametrize("content", [b"my notes", b"something else\nhalf", b'{"input": "hello", "output": ""}\nhalf'])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes, form: list[str]) -> None:
    (tmp_path / "out").write_bytes(content)
    outcome = invoke("map", "-m", "./no-such-model", *form, "--resume", tmp_path / "out", stdin=b"hello")
    refused(outcome, "out is not a file of specgen map: out.specgen-map is not beside it", tmp_path / "out", content)


def test_an_empty_file_is_filled(mapped: Any, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    assert mapped("--resume", tmp_path / "out", stdin=b"hello").code == 0
    assert (tmp_path / "out").read_bytes().count(b"\n") == 1


@FORMS
def test_results_that_were_changed_are_left_alone(mapped: Any, tmp_path: Path, form: list[str]) -> None:
    file, data = tmp_path / "out", b"hello\nworld\n"
    mapped(*form, "--resume", file, stdin=data)
    first, second = file.read_bytes().splitlines(keepends=True)
    for content, line in ((b"other\n" + second, 1), (first + b"notes\n", 2), (first + second + b"notes", 3)):
        file.write_bytes(content)
        refused(
            mapped(*form, "--resume", file, stdin=data),
            f"line {line} of {file} is not a result of this map",
            file,
            content,
        )


@FORMS
def test_other_records_are_not_mixed_in(mapped: Any, tmp_path: Path, form: list[str]) -> None:
    file = tmp_path / "out"
    mapped(*form, "--resume", file, stdin=b"hello\nworld\n")
    content = file.read_bytes()
    outcome = mapped(*form, "--resume", file, stdin=b"hello\nmoon\nstars\n")
    refused(outcome, "result 2 is not that of record 2", file, content)
    refused(mapped(*form, "--resume", file, stdin=b"hello\n"), "there are 2 results, but 1 records", file, content)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["say more"], 'its prompt was "", now "say more"'),
        (["--temp", 1], "its temperature was null, now 1"),
        (["--json"], "its json was false, now true"),
        (["-s", "be kind"], 'its system was null, now "be kind"'),
        (["--regex", "a+"], "its constraint was null, now {"),
    ],
)
def test_another_map_is_not_mixed_in(mapped: Any, tmp_path: Path, arguments: list[Any], words: str) -> None:
    file = tmp_path / "out"
    mapped("--resume", file, stdin=b"hello\n")
    content = file.read_bytes()
    refused(mapped(*arguments, "--resume", file, stdin=b"hello\nworld\n"), words, file, content)


def test_another_model_is_not_mixed_in(mapped: Any, tmp_path: Path) -> None:
    file = tmp_path / "out"
    mapped("--resume", file, stdin=b"hello\n")
    content = file.read_bytes()
    outcome = invoke("map", "-m", "stories", "--raw", "-n", 6, "--resume", file, stdin=b"hello\nworld\n")
    refused(outcome, 'now "stories"', file, content)


def test_two_maps_at_once_do_not_share_a_file(mapped: Any, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    file = tmp_path / "out"
    with file.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused(mapped("--resume", file, stdin=b"hello\n"), f"another map writes to {file}", file, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
def test_a_device_or_a_pipe_is_no_file_of_results(mapped: Any, tmp_path: Path) -> None:
    """An endless device must not be read into memory, and opening a pipe must not wait."""
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/full", tmp_path / "pipe"):
        outcome = mapped("--resume", path, stdin=b"hello\n")
        assert outcome.code == 10
        assert f"cannot write to {path}: it is not a regular file" in outcome.err


# Pipes and signals


def test_a_result_is_written_before_the_next_record_is_read(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    seen: list[int] = []

    class Watching(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            seen.append(written.buffer.getvalue().count(b"\n"))
            return super().readline(size)

    stdin = Stdin(b"")
    stdin._buffer = Watching("\n".join(LINES).encode())
    monkeypatch.setattr("specgen.cli.map.records._stdin", lambda: stdin._buffer)
    invoke("map", "-m", target, "--raw", "-n", 2, stdout=written)
    assert seen == [0, 1, 2, 3]


@in_process
def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    command = " ".join(f"'{part}'" for part in STORIES)
    script = f"yes 'Once upon a time' | {command} | head -1; echo ${{PIPESTATUS[1]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == ""
    first, code = done.stdout.splitlines()
    assert first
    assert code == "0"


@in_process
def test_sigterm_keeps_every_finished_record(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    child = subprocess.Popen(
        [*STORIES, "--json", "--resume", str(out), "--stats"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin
    # The last record never comes: it waits for it when the signal comes.
    child.stdin.write(b"Once upon a time\nThere was a king\n")
    child.stdin.flush()
    while not out.exists() or out.read_bytes().count(b"\n") < 2:
        assert child.poll() is None
        signal.sigtimedwait([], 0.05)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == TERMINATED
    assert child.stderr
    assert b"2 answered" in child.stderr.read()
    assert [result["input"] for result in objects(out.read_bytes())] == ["Once upon a time", "There was a king"]
    child.stdin.close()
    child.stderr.close()


@in_process
def test_closed_stdin() -> None:
    command = " ".join(f"'{part}'" for part in STORIES)
    done = subprocess.run(f"{command} <&-", shell=True, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "there are no records" in done.stderr


@in_process
def test_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("Once upon a time\n" * 3)
    child = terminal(
        "map", "-m", "stories", "--raw", "-n", 4, "-f", tmp_path / "in", "--resume", tmp_path / "out", NO_COLOR="1"
    )
    child.expect_exact("0/3 records")
    child.expect_exact("3 answered in")
    child.wait()
    assert child.exitstatus == 0
    assert (tmp_path / "out").read_bytes().count(b"\n") == 3


@in_process
def test_every_answer_is_in_the_history_unless_it_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECGEN_DATA_DIR", str(tmp_path))
    options = ("map", "-m", "stories", "--raw", "-n", "3")
    assert invoke(*options, stdin=b"Once\nThere was\n").code == 0
    assert invoke(*options, "--no-log", stdin=b"Long ago\n").code == 0
    with History(location()) as history:
        assert [(each.kind, each.prompt) for each in history.answers()] == [("map", "There was"), ("map", "Once")]
