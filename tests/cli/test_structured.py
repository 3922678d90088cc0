"""specgen -j, --regex, --grammar: the answer parses, or the exit code says that it was cut."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from specgen.core.errors import Incomplete, SomeFailed, UsageError
from tests.cli.command import Outcome, invoke

pytestmark = pytest.mark.usefixtures("either_way")

PROMPT = "the quick brown fox"
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"kind": {"enum": ["cat", "dog"]}, "n": {"type": "integer", "maximum": 9, "minimum": 0}},
    }
    | {"required": ["kind", "n"], "additionalProperties": False}
)


@pytest.fixture
def run(checkpoints: Any) -> Any:
    def specgen(*arguments: object, **streams: Any) -> Outcome:
        return invoke("run", "-m", checkpoints.target("llama"), "--raw", *arguments, **streams)

    return specgen


def test_the_answer_is_of_the_schema_with_any_draft(run: Any, checkpoints: Any, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(SCHEMA)
    plain = run(PROMPT, "-j", tmp_path / "schema.json", "-d", "none")
    assert (plain.code, plain.err) == (0, "")
    assert set(json.loads(plain.text)) == {"kind", "n"}
    assert run(PROMPT, "--json-schema", SCHEMA, "-d", checkpoints.draft("llama")).out == plain.out
    helped = [json.loads(line) for line in run(PROMPT, "-j", SCHEMA, "-d", "lookup", "--json").text.splitlines()]
    assert helped[-1]["text"] == plain.text
    assert helped[-1]["complete"] is True
    assert helped[-1]["stats"]["by_source"]["forced"]["accepted"] > 4
    assert "forced" in {span["source"] for event in helped[1:-1] for span in event["spans"]}


def test_a_regex_and_a_grammar(run: Any, tmp_path: Path) -> None:
    assert run(PROMPT, "--regex", "(yes|no), sir").text in ("yes, sir", "no, sir")
    (tmp_path / "g.lark").write_text('start: ("a" | "b") "!"')
    assert run(PROMPT, "--grammar", tmp_path / "g.lark").text in ("a!", "b!")
    assert run(PROMPT, "--grammar", 'root ::= "a" | "b"').text in ("a", "b")


def test_an_answer_that_a_limit_cuts_has_an_exit_code_of_its_own(run: Any) -> None:
    outcome = run(PROMPT, "-j", SCHEMA, "-n", 6)
    assert outcome.code == Incomplete.exit_code
    assert outcome.text.startswith("{")
    assert "the token limit cut the answer at token 6" in outcome.err
    assert outcome.err.count("\n") == 1
    assert run(PROMPT, "-j", SCHEMA, "--stop", "kind").code == Incomplete.exit_code
    assert json.loads(run(PROMPT, "-j", SCHEMA, "-n", 6, "--json").text.splitlines()[-1])["complete"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-j", '{"type": 3}'], UsageError.exit_code, "the JSON schema cannot be used"),
        (["-j", "{oops"], UsageError.exit_code, "the JSON schema cannot be used"),
        (["-j", "no-such.json"], 10, "no-such.json"),
        (["--regex", "(a"], UsageError.exit_code, "unclosed group"),
        (["--grammar", "start: b"], UsageError.exit_code, "unknown name"),
        (["--regex", "a", "-j", "{}"], UsageError.exit_code, "one constraint"),
    ],
)
@pytest.mark.parametrize("command", ["run", "chat"])
def test_a_bad_constraint_is_refused_before_a_model_is_looked_for(
    command: str, arguments: list[str], code: int, words: str
) -> None:
    prompt = ["hello"] if command == "run" else []
    outcome = invoke(command, "-m", "./no-such-model", *arguments, *prompt)
    assert (outcome.code, outcome.out) == (code, b"")
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_chat_keeps_to_it_in_every_turn(checkpoints: Any) -> None:
    outcome = invoke("chat", "-m", checkpoints.target("llama"), "--regex", "[0-9]{3}", stdin=b"hello\nagain\n")
    answers = outcome.text.split()
    assert len(answers) == 2
    assert all(len(answer) == 3 and answer.isdecimal() for answer in answers)


def test_thinking_that_a_limit_cuts_is_said_and_not_complete(checkpoints: Any, tmp_path: Path) -> None:
    """The template opens the thinking, and a random model never closes it."""
    model = tmp_path / "model"
    shutil.copytree(checkpoints.target("llama"), model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["chat_template"] = "{% for message in messages %}{{ message.content }}{% endfor %}<think>\n"
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    (model / "chat_template.jinja").unlink(missing_ok=True)
    for constraint in (["-j", SCHEMA], ["--regex", "(yes|no)"], ["--grammar", 'root ::= "a"'], ["--regex", "a*"]):
        outcome = invoke("run", "-m", model, "-n", 6, *constraint, PROMPT)
        assert (outcome.code, outcome.text) == (Incomplete.exit_code, "")
        assert "the model was still thinking" in outcome.err
    mapped = invoke("map", "-m", model, "-n", 6, "-j", SCHEMA, "--json", stdin=b"hello\n")
    assert mapped.code == SomeFailed.exit_code
    assert json.loads(mapped.text)["partial"] == ""
    plain = invoke("run", "-m", model, "-n", 6, PROMPT)
    assert (plain.code, plain.text.strip()) == (0, "")
    assert "the model was still thinking" in plain.err
