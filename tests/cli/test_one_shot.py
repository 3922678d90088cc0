"""One answer and its surroundings: history, --continue, templates, --extract-code, --copy."""

import json
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from specgen.cli.commands.run import past_conversation
from specgen.cli.stream import play
from specgen.core.events import Event, Finished, Notice, Span, Stats, Step, stats_fields
from specgen.core.types import Message
from specgen.history.recorder import Recorder
from specgen.history.rows import LoggedAnswer
from specgen.history.store import History, location, switch_logging
from tests.cli.command import Outcome, invoke
from tests.render.samples import STARTED

pytestmark = pytest.mark.usefixtures("either_way")

PROMPT = "the quick brown fox jumps over the lazy dog"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A history and templates of this test alone."""
    monkeypatch.setenv("SPECGEN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SPECGEN_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path


@pytest.fixture
def target(checkpoints: Any) -> Path:
    return Path(checkpoints.target("llama"))


@pytest.fixture
def run(target: Path) -> Any:
    def specgen(*arguments: object, **streams: Any) -> Outcome:
        return invoke("-m", target, "-n", 8, *arguments, **streams)

    return specgen


def answers() -> list[LoggedAnswer]:
    """The history, the earliest first."""
    with History(location()) as log:
        return list(log.answers())[::-1]


def said(number: int) -> list[str]:
    with History(location()) as log:
        return [message.content for message in log.messages(number)]


# The history


def test_an_answer_is_logged(run: Any, target: Path) -> None:
    outcome = run("-s", "be brief", "--temp", 0.8, "--seed", 3, "-k", 2, PROMPT)
    (answer,) = answers()
    assert (answer.kind, answer.reason, answer.raw, answer.template) == ("run", "length", False, None)
    assert answer.output == outcome.text
    assert said(answer.id) == ["be brief", PROMPT]
    assert (answer.settings["target"]["id"], answer.settings["target"]["revision"]) == (str(target), None)
    assert len(answer.settings["target"]["files"]["model.safetensors"]) == 64
    assert answer.settings["sampling"]["seed"] == 3
    assert (answer.settings["num_draft_tokens"], answer.settings["drafter"]) == (2, "lookup")
    assert (answer.settings["dtype"], answer.settings["quant"]) == ("float32", "none")
    assert answer.stats["generated_tokens"] == 8


def test_json_has_what_the_history_has(run: Any) -> None:
    started, *_, finished = map(json.loads, run(PROMPT, "--json").text.splitlines())
    (answer,) = answers()
    assert (started["kind"], started["template"], started["raw"]) == ("run", None, False)
    assert started["messages"] == [{"role": "user", "content": PROMPT}]
    assert {name: started[name] for name in answer.settings} == answer.settings
    assert (finished["text"], finished["reason"], finished["stats"]) == (answer.output, answer.reason, answer.stats)
    assert started["time"][:10] == answer.time.isoformat()[:10]


def test_nothing_is_logged_where_the_user_does_not_want_it(run: Any) -> None:
    run(PROMPT, "--no-log")
    switch_logging(False)
    run(PROMPT)
    assert not location().exists()
    switch_logging(True)
    run(PROMPT)
    assert len(answers()) == 1


def test_a_broken_history_costs_a_line_not_the_text(run: Any) -> None:
    expected = run(PROMPT, "--no-log")
    location().parent.mkdir()
    location().write_bytes(b"no database, " * 999)
    outcome = run(PROMPT)
    assert (outcome.code, outcome.out) == (0, expected.out)
    assert outcome.err.count("\n") == 1
    assert "not in the history" in outcome.err


def test_a_locked_history_costs_a_line_not_the_text(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(PROMPT)
    monkeypatch.setattr("specgen.history.store._BUSY_S", 0.01)
    other = sqlite3.connect(location(), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    outcome = run(PROMPT)
    other.close()
    assert (outcome.code, outcome.out) == (0, expected.out)
    assert outcome.err.count("\n") == 1
    assert "locked" in outcome.err
    assert len(answers()) == 1


def test_a_chat_logs_its_turns(target: Path) -> None:
    outcome = invoke("chat", "-m", target, "-n", 8, stdin=b"hello\nagain\n")
    first, second = answers()
    assert [first.output, second.output] == outcome.text.splitlines()
    assert first.kind == second.kind == "chat"
    assert said(second.id) == ["hello", first.output, "again"]
    invoke("chat", "-m", target, "-n", 8, "--no-log", stdin=b"hello\n")
    assert len(answers()) == 2


class Silent:
    closed = False

    def show(self, event: Event) -> None:
        pass

    def close(self) -> None:
        assert not location().exists()  # logged when the text is out, not before
        self.closed = True


def test_an_answer_that_is_broken_off_is_logged_as_far_as_it_came() -> None:
    def events() -> Iterator[Event]:
        yield Notice("loading")
        yield replace(STARTED, messages=(Message("user", "hi"),))
        yield Step((1, 2), (Span("so ", "draft"),), drafted=1, accepted=1)
        yield Step((3,), (Span("far", "bonus"),))
        raise KeyboardInterrupt

    renderer = Silent()
    with pytest.raises(KeyboardInterrupt), Recorder("run", print, on=True) as recorder:
        play(events(), recorder.along(renderer), lambda: None)
    assert renderer.closed
    (answer,) = answers()
    assert (answer.output, answer.reason, answer.stats["generated_tokens"]) == ("so far", "interrupted", 3)


# --continue


def test_continue_goes_on_with_the_past_conversation(run: Any, target: Path) -> None:
    first = run("-s", "be brief", "hello")
    second = invoke("-c", "-n", 8, "again")
    third = invoke("--continue", "-n", 8, "-s", "be long", "more", "--json")
    assert second.code == 0
    assert said(2) == ["be brief", "hello", first.text, "again"]
    assert said(3) == ["be long", "hello", first.text, "again", second.text, "more"]
    # It is the turn that a chat would have had.
    chat = invoke("chat", "-m", target, "-n", 8, "-s", "be brief", "--no-log", stdin=b"hello\nagain\n")
    assert chat.text.splitlines() == [first.text, second.text]
    assert json.loads(third.text.splitlines()[0])["target"]["id"] == str(target)


def test_continue_goes_on_with_a_chat_and_another_model(target: Path, checkpoints: Any) -> None:
    invoke("chat", "-m", target, "-d", "none", "-n", 8, stdin=b"hello\n")
    events = [invoke("-c", *more, "-n", 2, "--json", "again").text.splitlines()[0] for more in ([], ["-d", "lookup"])]
    assert [json.loads(event)["drafter"] for event in events] == ["none", "lookup"]
    other = checkpoints.draft("llama")
    assert json.loads(invoke("-c", "-m", other, "-n", 2, "--json", "x").text.splitlines()[0])["target"]["id"] == str(
        other
    )


def test_continue_without_a_template_goes_on_with_the_text(run: Any) -> None:
    whole = invoke("-m", "stories", "-n", 12, "--temp", 0, "--no-log", "Once upon a time")
    first = invoke("-m", "stories", "-n", 6, "--temp", 0, "Once upon a time")
    second = invoke("-c", "-n", 6, "--temp", 0)
    assert first.text + second.text == whole.text
    assert said(2) == ["Once upon a time", first.text, ""], "no text is stored twice"
    more = invoke("-c", "-n", 2, "--temp", 0, " Then")
    assert more.code == 0
    assert "".join(said(3)) == f"Once upon a time{whole.text} Then"


def test_a_deleted_answer_is_gone_whatever_went_on_from_it(run: Any, target: Path) -> None:
    """Raw text that was continued, a system prompt that changed, and a turn that a running chat still has."""

    def stored(text: str) -> bool:
        return any(text.encode() in file.read_bytes() for file in location().parent.glob("history.db*"))

    invoke("-m", "stories", "-n", 2, "--raw", "RAWSECRET once")
    for more in ([], [" and then"]):
        assert invoke("-c", "-n", 2, *more).code == 0
    run("CHATSECRET", "-s", "be brief", "-n", 2)
    assert invoke("-c", "again", "-s", "be long", "-n", 2).code == 0
    lines = b"LOOPSECRET\n/system be kind\nnext\nlast\n"
    assert invoke("chat", "-m", target, "-n", 2, "-s", "be wild", stdin=lines).code == 0
    assert all(stored(text) for text in ("RAWSECRET", "CHATSECRET", "LOOPSECRET", "be wild"))
    assert said(7)[0] == "be kind"
    assert invoke("log", "delete", 1, 4, 6, "--yes").code == 0
    assert not any(stored(text) for text in ("RAWSECRET", "CHATSECRET", "LOOPSECRET", "be wild"))
    assert said(8)[0] == "be kind"
    assert "next" in said(8)


def test_continue_names_the_models_with_their_commits() -> None:
    settings = {
        "target": {"id": "org/target:m.gguf", "revision": "a1"},
        "draft": {"id": "org/draft", "revision": "b2"},
        "drafter": "hybrid",
        **dict.fromkeys(("device", "dtype", "quant"), "auto"),
        "num_draft_tokens": 4,
        "sampling": {"temperature": 0.0},
    }
    with History(location()) as log:
        log.add(
            kind="run",
            messages=[Message("user", "x")],
            output="y",
            reason="end",
            settings=settings,
            stats=stats_fields(Stats()),
        )
    earlier = past_conversation()
    assert (earlier.model, earlier.draft) == ("org/target@a1:m.gguf", "org/draft@b2")


def test_continue_names_a_curated_pair_as_the_user_did() -> None:
    """By another name the background process would load the pair a second time."""
    assert invoke("-m", "stories", "-n", 2, "Once upon a time").code == 0
    past = past_conversation()
    assert (past.model, past.draft) == ("stories", "auto")


def test_continue_says_which_conversation_goes_on_and_lets_one_be_named(run: Any) -> None:
    first, _ = run("the first one", "-n", 2), run("the second", "-n", 2)
    assert invoke("-c", "-n", 2, "and").err.startswith("specgen: continuing the conversation of answer 2: the second\n")
    named = invoke("--continue-from", 1, "-n", 2, "and")
    assert (named.code, named.err) == (0, "specgen: continuing the conversation of answer 1: the first one\n")
    assert said(4) == ["the first one", first.text, "and"]
    assert invoke("--continue-from", 1, "-n", 2, "-q", "and").err == ""
    unknown = invoke("--continue-from", 99, "and")
    assert (unknown.code, unknown.out) == (2, b"")
    assert unknown.err == "specgen: the history has no answer 99; specgen log lists them\n"


def test_continue_goes_on_where_the_context_is_full(run: Any) -> None:
    """As in a chat, the oldest text or the oldest turns are dropped."""
    assert invoke("-m", "stories", "--temp", 0, "Once upon a time").code == 0
    for _ in range(2):
        outcome = invoke("-c", "--temp", 0)
        assert (outcome.code, "is forgotten" in outcome.err) == (0, True)
        assert outcome.err.partition("\n")[0].partition(": ")[2].partition(": ")[2], "it shows what goes on"
        assert outcome.text
    texts = ["fox " * 60, "dog " * 60, "cat " * 60]
    for text in texts:
        assert run(text, "-n", 2).code == 0 if text is texts[0] else invoke("-c", "-n", 2, text).code == 0
    assert "turn is forgotten" in invoke("-c", "-n", 2, "and").err


def test_continue_finds_a_model_that_was_named_by_a_relative_path(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(target.parent)
    for name in (f"./{target.name}", f"{target.name}/", target.name, str(target)):
        assert invoke("-m", name, "-d", "none", "-n", 2, "hello").code == 0
    with History(location()) as log:
        assert {answer.settings["target"]["id"] for answer in log.answers()} == {str(target)}
    monkeypatch.chdir(tmp_path)
    assert invoke("-c", "-n", 2, "again").code == 0


def test_continue_says_why_it_cannot(run: Any) -> None:
    with History(location()) as log:  # the records of map are no conversation
        log.add(kind="map", messages=[Message("user", "x")], output="y", reason="end", settings={}, stats={})
    outcome = invoke("-c", "again")
    assert (outcome.code, outcome.out) == (2, b"")
    assert "there is no conversation to continue" in outcome.err
    run("hello")
    assert "there is no prompt" in invoke("-c", stdin=b"").err
    assert "leave out --raw" in invoke("-c", "--raw", "x").err


# Templates


def test_a_template_is_saved_and_used(run: Any, data: Path) -> None:
    outcome = run("--temp", 0.5, "--seed", 3, "--stop", "zzz", "--save", "ask", "-s", "Be {how}.", "Explain {input}.")
    assert (outcome.code, outcome.out) == (0, b"")
    assert str(data / "config" / "templates" / "ask.toml") in outcome.err
    assert not location().exists()  # nothing was answered
    used = invoke("-t", "ask", "-p", "how=brief", "it", "--json")
    started = json.loads(used.text.splitlines()[0])
    assert started["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Explain it."},
    ]
    assert (started["sampling"]["temperature"], started["sampling"]["seed"], started["template"]) == (0.5, 3, "ask")
    assert answers()[0].template == "ask"
    assert answers()[0].stats["generated_tokens"] == 8


def test_a_template_finds_its_model_from_any_folder(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(target.parent)
    assert invoke("-m", f"./{target.name}", "-d", "lookup", "-n", 2, "--save", "ask", "{input}").code == 0
    monkeypatch.chdir(tmp_path)
    assert invoke("-t", "ask", "it").code == 0


def test_a_template_finds_its_schema_from_any_folder(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "any.json").write_text('{"type": "boolean"}')
    monkeypatch.chdir(tmp_path)
    run("-j", "any.json", "--save", "ask", "{input}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert json.loads(invoke("-t", "ask", "it").text) in (True, False)


def test_what_is_typed_beats_the_template(run: Any) -> None:
    run("--temp", 0.5, "-k", "auto", "--save", "ask", "-s", "Be brief.")
    started = json.loads(invoke("-t", "ask", "--temp", 0.9, "-s", "Go.", "it", "-k", 2, "--json").text.splitlines()[0])
    assert started["sampling"]["temperature"] == 0.9
    assert started["num_draft_tokens"] == 2
    assert [message["content"] for message in started["messages"]] == ["Go.", "it"]
    started = json.loads(invoke("-t", "ask", "it", "--json").text.splitlines()[0])
    assert started["num_draft_tokens"] is None


def test_a_draft_falls_with_its_target(run: Any, target: Path, checkpoints: Any) -> None:
    run("-d", "none", "--save", "ask")

    def drafter(*arguments: object) -> Any:
        return json.loads(invoke("-t", "ask", "-n", 2, "--json", "it", *arguments).text.splitlines()[0])["drafter"]

    assert drafter() == "none"
    assert drafter("-m", target) == "lookup"
    assert drafter("-m", target, "-d", checkpoints.draft("llama")) == "hybrid"


def test_a_template_may_have_numbers(run: Any, data: Path) -> None:
    folder = data / "config" / "templates"
    folder.mkdir(parents=True)
    (folder / "ask.toml").write_text('[options]\nnum-draft-tokens = 3\nraw = true\ndevice = "cpu"\nmax-tokens = 2\n')
    started = json.loads(invoke("-m", "stories", "-t", "ask", "it", "--json").text.splitlines()[0])
    assert (started["num_draft_tokens"], started["raw"]) == (3, True)
    assert answers()[0].stats["generated_tokens"] == 2


def test_a_template_on_top_of_another(run: Any) -> None:
    run("--temp", 0.5, "--save", "one", "Explain {input} in {lang}.")
    invoke("-t", "one", "-p", "lang=C", "--seed", 3, "--save", "two")
    started = json.loads(invoke("-t", "two", "it", "--json").text.splitlines()[0])
    assert started["messages"][0]["content"] == "Explain it in C."
    assert (started["sampling"]["temperature"], started["sampling"]["seed"]) == (0.5, 3)


def test_a_template_is_not_replaced_unasked(run: Any, data: Path) -> None:
    run("--save", "ask", "one")
    outcome = run("--save", "ask", "two", stdin=b"")
    assert outcome.code == 2
    assert "there is a template 'ask' already" in outcome.err
    assert 'prompt = "one"' in (data / "config" / "templates" / "ask.toml").read_text()


@pytest.mark.parametrize(
    ("options", "arguments", "code", "words"),
    [
        ("", ["-t", "aks", "it"], 2, "did you mean 'ask'"),
        ("", ["-t", "ask", "-p", "x", "it"], 2, "-p key=value"),
        ("", ["-p", "x=y", "it"], 2, "name the template with -t"),
        ("tmep = 1", ["-t", "ask", "it"], 10, "sets 'tmep', which is not an option; did you mean 'temp'"),
        ("file = 'x'", ["-t", "ask", "it"], 10, "sets 'file'"),
        ("temp = 'hot'", ["-t", "ask", "it"], 10, "ask.toml: 'temp' is 'hot'; write a number"),
        ("temp = inf", ["-t", "ask", "it"], 10, "ask.toml: --temp is 'inf'; give a finite number"),
        ("max-tokens = 0", ["-t", "ask", "it"], 10, "ask.toml: 'max-tokens' is 0; "),
        ("stop = 'x'", ["-t", "ask", "it"], 10, "ask.toml: 'stop' is 'x'; write a list of texts"),
        ("", ["-f", "x", "--save", "new"], 2, "cannot contain files"),
    ],
)
def test_what_is_wrong_with_a_template(data: Path, options: str, arguments: list[str], code: int, words: str) -> None:
    folder = data / "config" / "templates"
    folder.mkdir(parents=True)
    (folder / "ask.toml").write_text(f"[options]\n{options}\n")
    outcome = invoke("-m", "stories", *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (code, b"", 1)
    assert words in outcome.err


# --extract-code and --copy


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace every answer by these steps, until it is stopped."""

    def script(*pieces: str, reason: str = "end") -> None:
        def generate(session: Any, prompt: str, **options: Any) -> Iterator[Event]:
            session._stop_reason = None
            yield STARTED
            shown = []
            for piece in pieces:
                shown.append(piece)
                yield Step((1,), (Span(piece, "bonus"),))
                if session._stop_reason:
                    break
            yield Finished(session._stop_reason or reason, "".join(shown), Stats())

        monkeypatch.setattr("specgen.session.session.Session.generate", generate)

    return script


def test_only_the_code_is_written_and_the_rest_is_never_generated(says: Any) -> None:
    says("Here:\n```py\n", "a = 1\n", "```\n", "Now I explain\n", "at length\n")
    outcome = invoke("-m", "stories", "--extract-code", "hello")
    assert (outcome.code, outcome.out, outcome.err) == (0, b"a = 1\n", "")
    events = [json.loads(line) for line in invoke("-m", "stories", "--extract-code", "--json", "x").text.splitlines()]
    assert (events[-1]["text"], events[-1]["reason"]) == ("a = 1\n", "stop")
    assert len(events) == 5


def test_no_code_is_an_error_and_the_text_is_not_lost(run: Any) -> None:
    plain, outcome = run(PROMPT), run(PROMPT, "--extract-code", "-q")
    assert (outcome.code, outcome.out) == (15, b"")
    *text, error = outcome.err.splitlines()
    assert "\n".join(text) == plain.text.rstrip("\n")
    assert error.startswith("specgen: the answer has no code block")


@pytest.mark.parametrize("either_way", ["in process"], indirect=True)  # nobody interrupts: it is only played
def test_an_interrupt_before_the_code_is_an_interrupt(says: Any) -> None:
    says("I ", "explain first", reason="interrupted")
    outcome = invoke("-m", "stories", "--extract-code", "x")
    assert (outcome.code, outcome.out, outcome.err) == (130, b"", "I explain first\n")


@pytest.fixture
def tool(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the clipboard tool of this test writes."""
    script = data / "bin" / "xclip"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\n/bin/cat > '{data}/copied'\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    for variable in ("TMUX", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("PATH", str(script.parent))
    return data / "copied"


def test_copy(run: Any, tool: Path, says: Any) -> None:
    says("Here:\n```\né\n```\n")
    outcome = run("hello", "--copy")
    assert outcome.out == tool.read_bytes() == "Here:\n```\né\n```\n".encode()
    assert outcome.err == "specgen: copied by xclip\n"
    assert run("hello", "--copy", "--extract-code", "-q").err == ""
    assert tool.read_text() == "é\n"


def test_copy_says_that_it_cannot(says: Any, tool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says("text")
    monkeypatch.delenv("DISPLAY")
    outcome = invoke("-m", "stories", "hello", "--copy")
    assert (outcome.code, outcome.out) == (1, b"text")
    assert outcome.err.startswith("specgen: cannot copy")


def test_an_answer_repeats_what_the_history_has(run: Any) -> None:
    """--no-log and `specgen log off` keep an earlier answer from being read."""

    def drafted(*arguments: object) -> dict[str, int]:
        outcome = run("-d", "lookup", "--temp", 0, "--json", "-n", 40, *arguments, PROMPT)
        by_source = json.loads(outcome.out.splitlines()[-1])["stats"]["by_source"]
        return by_source.get("history", {"drafted": 0, "accepted": 0})  # type: ignore[no-any-return]

    assert drafted("--no-log")["drafted"] == 0
    assert drafted()["drafted"] == 0, "the run without a log is not known"
    assert drafted()["accepted"] > 10
    assert drafted("--no-lookup", "--no-log")["drafted"] == 0
    assert drafted("--no-log")["drafted"] == 0
    invoke("log", "off")
    assert drafted()["drafted"] == 0
    invoke("log", "on")
    assert drafted()["accepted"] > 10
