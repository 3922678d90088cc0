"""specgen run: what goes to stdout, what to stderr, and the exit code."""

import errno
import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from specgen.core.errors import UsageError
from tests.cli.command import Outcome, in_process, invoke

pytestmark = pytest.mark.usefixtures("either_way")

PROMPT = "the quick brown fox jumps over the lazy dog"


@pytest.fixture
def target(checkpoints: Any) -> Path:
    return Path(checkpoints.target("llama"))


@pytest.fixture
def run(target: Path) -> Any:
    """specgen run --raw with the tiny target and 24 new tokens."""

    def specgen(*arguments: object, **streams: Any) -> Outcome:
        return invoke("run", "-m", target, "--raw", "-n", 24, *arguments, **streams)

    return specgen


def events(outcome: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcome.text.splitlines()]


def test_a_pipe_gets_the_text_and_nothing_else(run: Any) -> None:
    outcome = run(PROMPT)
    finished = events(run(PROMPT, "--json"))[-1]
    assert outcome.code == 0
    assert len(finished["text"]) > 10
    assert outcome.text == finished["text"]
    assert outcome.err == ""


def test_the_text_is_the_same_however_it_is_drafted(run: Any, checkpoints: Any, target: Path) -> None:
    plain = run(PROMPT, "-d", "none")
    assert plain.out
    for option in ("-d", "-md", "--draft", "--draft-model"):
        assert run(PROMPT, option, checkpoints.draft("llama")).out == plain.out
    assert run(PROMPT, "-d", "lookup", "-k", 7).out == plain.out
    sampled = run(PROMPT, "-d", "none", "--temp", 0.9, "--seed", 5)
    assert sampled.out != plain.out
    assert run(PROMPT, "-d", target, "--temp", 0.9, "--seed", 5).out == sampled.out


def test_the_draft_length_is_a_number_or_auto(run: Any, checkpoints: Any) -> None:
    draft = ("-d", checkpoints.draft("llama"), "--json")
    assert events(run(PROMPT, *draft, "-k", 3))[0]["num_draft_tokens"] == 3
    auto = events(run(PROMPT, *draft, "-k", "auto"))
    assert auto[0]["num_draft_tokens"] is None
    assert auto[0]["drafter"] == "hybrid"
    assert events(run(PROMPT, *draft, "--no-lookup"))[0]["drafter"] == "model"
    for wrong in ("-1", "many", "1.5"):
        outcome = run(PROMPT, "-k", wrong)
        assert outcome.code == UsageError.exit_code
        assert "give a number of tokens, or auto" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temp", "inf"], "--temp is 'inf'; give a finite number"),
        (["--temp", "1e999"], "--temp is '1e999'; give a finite number"),
        (["--temp", "nan"], "'--temp'"),
        (["--top-p", "nan"], "'--top-p'"),
        (["--repetition-penalty", "inf"], "--repetition-penalty is 'inf'; give a finite number"),
        (["--presence-penalty", "nan"], "--presence-penalty is 'nan'; give a finite number"),
        (["--frequency-penalty", "-inf"], "--frequency-penalty is '-inf'; give a finite number"),
        (["--cost", "--price-per-hour", "inf"], "--price-per-hour is 'inf'; give a finite number"),
        (["--keep-alive", "9" * 400], "give a time"),
        (["--threads", "9" * 20], "'--threads'"),
        (["-k", "9" * 5000], "give a number of tokens"),
    ],
)
def test_a_number_that_is_none_is_refused(run: Any, arguments: list[str], words: str) -> None:
    outcome = run(PROMPT, *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, b"", 1)
    assert words in outcome.err


def test_stats_go_to_stderr(run: Any) -> None:
    plain, outcome = run(PROMPT), run(PROMPT, "--stats", "-d", "lookup")
    assert outcome.out == plain.out
    assert "24 tokens in" in outcome.err
    assert "\x1b" not in outcome.err
    assert run(PROMPT, "--stats", "-q").err == ""


def test_no_stream_writes_the_same_text_at_once(run: Any) -> None:
    assert run(PROMPT, "--no-stream").out == run(PROMPT).out


def test_json_lines(run: Any, target: Path) -> None:
    outcome = run(PROMPT, "--json", "--temp", 0.8, "--seed", 3)
    started, *steps, finished = events(outcome)
    assert outcome.err == ""
    assert {started["type"], finished["type"], *(step["type"] for step in steps)} == {"started", "step", "finished"}
    assert all(event["schema"] == 1 for event in (started, *steps, finished))
    assert started["sampling"]["seed"] == 3
    assert "".join(step["text"] for step in steps) == finished["text"]
    assert sum(len(step["tokens"]) for step in steps) == finished["stats"]["generated_tokens"] == 24
    assert finished["reason"] == "length"
    assert finished["models"] == {"target": started["target"], "draft": started["draft"]}
    model = started["target"]
    assert (model["id"], model["revision"], model["licence"]) == (str(target), None, None)
    weights = hashlib.sha256((target / "model.safetensors").read_bytes()).hexdigest()
    assert model["files"]["model.safetensors"] == weights


def test_a_seed_is_drawn_and_repeats_the_run(run: Any) -> None:
    first = run(PROMPT, "--json", "--temp", 1)
    second = run(PROMPT, "--json", "--temp", 1)
    seeds = [events(outcome)[0]["sampling"]["seed"] for outcome in (first, second)]
    assert seeds[0] != seeds[1]
    again = run(PROMPT, "--json", "--temp", 1, "--seed", seeds[0])
    assert events(again)[-1]["text"] == events(first)[-1]["text"]


def test_stop_strings_are_repeatable(run: Any) -> None:
    text = run(PROMPT).text
    assert run(PROMPT, "--stop", text[5:8], "--stop", "never said").text == text[: text.index(text[5:8])]


# What the model reads


def test_stdin_alone_is_the_prompt(run: Any) -> None:
    assert run(stdin=PROMPT.encode()).out == run(PROMPT).out


def test_stdin_goes_before_the_prompt(run: Any) -> None:
    assert run("hello", stdin=f"{PROMPT}\n".encode()).out == run(f"{PROMPT}\n\nhello").out


def test_files_go_before_stdin_and_the_prompt(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.txt").write_text("second\n")
    files = ("-f", tmp_path / "a.txt", "-f", tmp_path / "b.txt")
    assert run("last", *files, stdin=b"third").out == run("first\n\nsecond\n\nthird\n\nlast").out
    assert run("last", *files[:2], "-f", "-", *files[2:], stdin=b"x").out == run("first\n\nx\n\nsecond\n\nlast").out


def test_words_are_joined(run: Any) -> None:
    assert run("hello", "world").out == run("hello world").out


def test_the_chat_template_is_used_unless_raw(target: Path) -> None:
    chat = events(invoke("-m", target, "-n", 1, "--json", "hello"))[0]["prompt_tokens"]
    system = events(invoke("-m", target, "-n", 1, "--json", "-s", "be brief", "hello"))[0]["prompt_tokens"]
    raw = events(invoke("-m", target, "-n", 1, "--json", "--raw", "hello"))[0]["prompt_tokens"]
    assert raw < chat < system


# Failures: one line, a code of their own, nothing on stdout


def failure(outcome: Outcome) -> str:
    assert outcome.out == b""
    assert outcome.err.startswith("specgen: ")
    assert outcome.err.count("\n") == 1
    return outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hello there"], "-m stories"),
        (["chta"], "did you mean 'chat'"),
        (["chta", "-m", "stories"], "did you mean 'chat'"),
        (["-m", "stories", "--raw", "-s", "be brief", "hello"], "--raw"),
        (["-m", "stories", "--stop", "", "hello"], "stop string is empty"),
        (["run", "hello", "--no-such-option"], "--no-such-option"),
        (["run", "hello", "-k", "-1"], "-k"),
    ],
)
def test_usage(arguments: list[str], words: str) -> None:
    outcome = invoke(*arguments)
    assert outcome.code == 2
    assert words in failure(outcome)


def test_no_arguments_on_a_terminal_print_help() -> None:
    outcome = invoke()
    assert outcome.code == 0
    assert outcome.text.startswith("Usage: specgen")
    assert "\nCommands:\n" in outcome.text


def test_no_prompt_on_a_terminal_prints_help() -> None:
    outcome = invoke("-m", "stories")
    assert outcome.code == 2
    assert "Usage: specgen run" in outcome.err
    assert "there is no prompt" in outcome.err


def test_an_empty_pipe_is_no_prompt() -> None:
    outcome = invoke("-m", "stories", stdin=b"")
    assert outcome.code == 2
    assert "there is no prompt" in failure(outcome)


def test_a_misspelt_command_can_be_forced_to_be_a_prompt(target: Path) -> None:
    expected = invoke("run", "chta", "-m", target, "-n", 3).out
    assert expected
    assert invoke("-m", target, "-n", 3, "--", "chta").out == expected
    assert invoke("--", "list", "-m").code == 2  # no model: a prompt, not the command list


def test_model_not_found() -> None:
    outcome = invoke("-m", "./no-such-folder", "hello")
    assert outcome.code == 3
    assert "no-such-folder" in failure(outcome)


def test_not_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    outcome = invoke("-m", "org/name", "--offline", "hello")
    assert outcome.code == 5
    assert "org/name" in failure(outcome)


def test_a_draft_that_does_not_fit(target: Path, checkpoints: Any, tmp_path: Path) -> None:
    foreign = shutil.copytree(checkpoints.make("foreign", "llama"), tmp_path / "foreign")
    tokenizer = json.loads((foreign / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {f"\u4e00{index}": index for index in vocabulary.values()}
    tokenizer["model"]["merges"] = []
    (foreign / "tokenizer.json").write_text(json.dumps(tokenizer))
    for weights in foreign.glob("*.safetensors"):
        weights.write_bytes(b"must not be read")
    outcome = invoke("-m", target, "-d", foreign, "hello")
    assert outcome.code == 7
    assert "a draft needs 50%" in failure(outcome)


def test_prompt_too_long(run: Any) -> None:
    outcome = run(PROMPT, "--ctx-size", 4)
    assert outcome.code == 9
    assert "the context holds 4" in failure(outcome)


def test_bad_files(run: Any, tmp_path: Path) -> None:
    missing = run("hello", "-f", tmp_path / "missing.txt")
    assert missing.code == 10
    assert "missing.txt" in failure(missing)
    binary = run("hello", stdin=b"\xff\xfe\x00")
    assert binary.code == 10
    assert "stdin is not UTF-8" in failure(binary)


def test_unsupported_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    outcome = invoke("-m", tmp_path, "hello")
    assert outcome.code == 11
    assert "safetensors" in failure(outcome)


def test_device_unavailable(run: Any) -> None:
    outcome = run(PROMPT, "--device", "xpu")
    assert outcome.code == 12
    assert "cpu" in failure(outcome)


def test_a_failure_in_json(run: Any) -> None:
    outcome = run(PROMPT, "--ctx-size", 4, "--json")
    assert outcome.code == 9
    assert events(outcome)[-1] | {"message": "", "hint": ""} == {
        "type": "failed",
        "schema": 1,
        "error": "PromptTooLong",
        "message": "",
        "hint": "",
        "exit_code": 9,
    }


def test_debug_adds_the_traceback() -> None:
    outcome = invoke("--debug", "-m", "./no-such-folder", "hello")
    assert outcome.code == 3
    assert outcome.err.startswith("Traceback")
    assert outcome.err.splitlines()[-1].startswith("specgen: there is no folder")


def test_a_failure_cannot_drive_the_terminal(checkpoints: Any) -> None:
    hostile = "{{ raise_exception('\x1b]0;owned') }}"
    outcome = invoke("-m", checkpoints.make("hostile-template", "llama", chat_template=hostile), "hello")
    assert outcome.code == 2
    assert "owned" in failure(outcome)
    assert "\x1b" not in outcome.err


def test_a_folder_with_an_at_sign_is_a_folder(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(target, tmp_path / "m" / "tiny@v2")
    monkeypatch.chdir(tmp_path)
    assert invoke("-m", "m/tiny@v2", "-n", 2, "--raw", "hello").code == 0


@in_process
def test_closed_standard_streams(target: Path) -> None:
    command = f"'{sys.executable}' -m specgen -m '{target}' -n 2 --raw hello"
    for closed in (">&- <&-", "2>&-"):
        assert subprocess.run(f"{command} {closed}", shell=True, capture_output=True, check=False).returncode == 0, (
            closed
        )


def test_a_closed_pipe_ends_quietly(run: Any) -> None:
    class Closed(io.TextIOWrapper):
        def __init__(self) -> None:
            super().__init__(Gone())

    class Gone(io.BytesIO):
        def write(self, data: Any) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    outcome = run(PROMPT, stdout=Closed())
    assert outcome.code == 0
    assert outcome.err == ""


def test_a_trace_has_every_round_and_the_text_is_as_without(run: Any, checkpoints: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    outcome = run(PROMPT, "-d", checkpoints.draft("llama"), "-k", 3, "--trace", path)
    assert outcome.out == run(PROMPT).out
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    rounds = [line for line in lines if line["type"] == "round"]
    assert [line["round"] for line in rounds] == list(range(1, len(rounds) + 1))
    assert "".join(line["text"] for line in rounds).startswith(outcome.text[:10])
    assert sum(len(line["tokens"]) for line in rounds) == 24
    assert any(each["source"] == "draft" for line in rounds for each in line["proposed"])


def test_a_trace_that_cannot_be_written_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    outcome = invoke("run", "-m", tmp_path / "no-such-model", "--trace", tmp_path / "no" / "trace", PROMPT)
    assert (outcome.code, outcome.out) == (10, b"")
    assert "cannot write a trace to" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_template_that_cannot_switch_thinking_says_so(checkpoints: Any) -> None:
    outcome = invoke("-m", checkpoints.target("llama"), "-n", 4, "--no-think", "hello")
    assert "cannot switch thinking on or off" in outcome.err


def test_what_was_chosen_is_said_every_time(run: Any) -> None:
    first, second = run(PROMPT, "--verbose"), run(PROMPT, "--verbose")
    assert "lookup drafts for" in first.err
    assert (second.out, second.err) == (first.out, first.err)


def test_a_model_that_changed_on_disk_is_another_model(target: Path, checkpoints: Any, tmp_path: Path) -> None:
    arguments = ("run", "-m", tmp_path / "model", "-d", "none", "--raw", "-n", 12, PROMPT)
    texts = []
    for source in (target, checkpoints.draft("llama")):
        shutil.copytree(source, tmp_path / "model", dirs_exist_ok=True)
        texts.append(invoke(*arguments).out)
        assert invoke("run", "-m", source, *arguments[3:]).out == texts[-1]
    assert texts[0] != texts[1]
