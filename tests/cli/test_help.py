"""Help, its examples, docs/cli.md, shell completion, and suggestions for misspelt names."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from specgen.cli.help import contexts, reference
from specgen.core.errors import DownloadFailed
from tests.cli.command import Outcome, invoke

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = {context.command_path: context for context in contexts()}


def examples(page: str) -> Iterator[list[str]]:
    """The examples of a page that need only the bundled pair."""
    for line in re.findall(r"^ {6}(specgen .*)$", PAGES[page].get_help(), re.MULTILINE):
        words = shlex.split(line)[1:]
        # A server runs until it is ended; its own tests run it.
        if (
            words[0] != "serve"
            and not {"|", "<", ">"} & set(words)
            and ("stories" in words or "--help" in words or page.startswith("specgen config"))
        ):
            yield words


def test_the_reference_is_what_the_application_says() -> None:
    again = "run python -m specgen.cli.help > docs/cli.md"
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == reference(), again


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_an_example(page: str) -> None:
    assert re.search(r"^  Examples?:\n\n {6}\S", PAGES[page].get_help(), re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if any(examples(page))])
def test_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECGEN_MAX_TOKENS", "8")  # where an example does not say
    monkeypatch.setenv("EDITOR", "true")
    monkeypatch.delenv("VISUAL", raising=False)
    for words in examples(page):
        if words[:2] == ["config", "unset"]:
            assert invoke("config", "set", words[2], "5").code == 0
        outcome = invoke(*words, stdin=b"Once upon a time\n" if words[0] == "chat" else b"")
        assert outcome.code == 0, (words, outcome.err)


def test_options_stand_under_headings() -> None:
    help_ = invoke("run", "--help").text
    headings = re.findall(r"^(\w+):$", help_, re.MULTILINE)
    assert headings[0] == "Arguments"
    assert headings[-1] == "Options"
    assert headings.index("Models") < headings.index("Generation")
    between = help_[help_.index("\nGeneration:") : help_.index("\nInput:")]
    assert "--temperature" in between
    assert "--device" not in between


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--temprature", "1"], "no option --temprature; did you mean '--temperature'?; see specgen run --help"),
        (["config", "lst"], "Did you mean 'list'"),
        (["confg", "list"], "no command 'confg'; did you mean 'config'?"),
        (["cht"], "no command 'cht'; did you mean 'chat'?"),
        (["run", "--profile", "x", "-m", "stories", "hi"], "there is no profile 'x'"),
        (["show", "--offline", "storeis"], "storeis is not in the cache"),
        (["show", "--offline", "storeis"], "did you mean 'stories'?"),
        (["run", "--offline", "-m", "org/targte", "hi"], "did you mean 'org/Target'?"),
        (["show", "--offline", "org/target@v9"], "did you mean 'org/Target'?"),
        (["show", "--offline", "org/targte:a.gguf"], "did you mean 'org/Target'?"),
    ],
)
def test_what_is_misspelt_gets_a_suggestion(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--org--Target").mkdir()
    outcome = invoke(*words, stdin=b"")
    assert outcome.code != 0
    assert says in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_hub_that_does_not_answer_is_named_beside_the_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(*_: object, **__: object) -> None:
        raise DownloadFailed("cannot reach the hub for storeis", hint="check the connection")

    monkeypatch.setattr("specgen.checkpoint.checkpoint.find", find)
    assert "; did you mean 'stories'?; check the connection\n" in invoke("show", "storeis").err


@pytest.mark.parametrize("model", ["org/something-else", "org/Target:a.gguf"])
def test_a_model_that_is_like_none_gets_no_suggestion(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--org--Target").mkdir()
    outcome = invoke("show", "--offline", model)
    assert "did you mean" not in outcome.err
    assert "specgen pull" in outcome.err


def test_a_prompt_is_no_misspelt_command() -> None:
    from specgen.cli.main import route

    for prompt in (["lists", "of", "things"], ["Why is the sky blue?"], ["config"]):
        assert route(prompt)[0] in ("run", "config")


def test_help_is_a_command_too() -> None:
    assert invoke("help").text == invoke("--help").text
    assert invoke("help", "config", "set").text == invoke("config", "set", "--help").text


def completed(line: str, shell: str = "bash", **environment: str) -> Outcome:
    """The completions of the last word of `line`."""
    variables = {**os.environ, "_SPECGEN_COMPLETE": f"complete_{shell}", **environment}
    if shell == "bash":
        words = line.split(" ")
        variables |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    else:
        variables |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    program = (
        "import sys; from specgen.cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n    assert not {'torch', 'huggingface_hub', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout.encode(), done.stderr)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("specgen run -m st", ["stories"]),
        ("specgen -m st", ["stories"]),
        ("specgen -m stories -d lo", ["lookup"]),
        ("specgen chat -m org/", ["org/target"]),
        ("specgen rm org/", ["org/target"]),
        ("specgen run --profile ha", ["haiku"]),
        ("specgen config get top", ["top-k", "top-p"]),
        ("specgen confi", ["config"]),
        ("specgen run --dev", ["--device"]),
    ],
)
def test_the_shell_completes_names(line: str, offered: list[str], no_user_settings: Path, tmp_path: Path) -> None:
    (no_user_settings / "config.toml").write_text("[profiles.haiku]\ntemp = 1\n")
    (tmp_path / "models--org--target").mkdir()
    outcome = completed(line, HF_HUB_CACHE=str(tmp_path))
    assert (outcome.code, outcome.text.split(), outcome.err) == (0, offered, "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_complete_names_too(shell: str) -> None:
    outcome = completed("specgen -m st", shell)
    assert "stories" in outcome.text
    assert "rm" not in outcome.text
    assert outcome.err == ""
