"""Templates: files, variables, and their errors."""

from pathlib import Path

import pytest

from specgen.config import templates
from specgen.config.templates import Template
from specgen.core.errors import BadFile, UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPECGEN_CONFIG_DIR", str(tmp_path))
    return tmp_path / "templates"


def write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def test_what_is_saved_is_loaded(folder: Path) -> None:
    template = Template(
        "review",
        about="é",
        prompt='Say "why"\n\nin {language}:\n{input}\n',
        system="Be brief.",
        defaults={"language": "Python"},
        options={"temp": 0.5, "stop": ["a", "b"], "no-lookup": True},
    )
    assert templates.save(template) == folder / "review.toml"
    assert templates.load("review") == template
    assert templates.names() == ["review"]
    assert [file.name for file in folder.iterdir()] == ["review.toml"]


@pytest.mark.parametrize(
    ("prompt", "given", "text", "filled"),
    [
        ("Explain {input} to {whom}.", {"whom": "me"}, "this", "Explain this to me."),
        ("{input}{input}", {}, "{x}", "{x}{x}"),  # what is filled in is not read again
        ("As JSON: {{{key}: 1}}", {"key": "{a}"}, None, "As JSON: {{a}: 1}"),
        ("Explain.", {}, "this\n", "this\n\nExplain."),
        ("Explain.", {}, None, "Explain."),
        ("", {}, "this\n", "this\n"),
        ("{lang}", {}, None, "Rust"),
        ("{lang}", {"lang": "C"}, None, "C"),
    ],
)
def test_filling(prompt: str, given: dict[str, str], text: str | None, filled: str) -> None:
    assert Template("t", prompt=prompt, defaults={"lang": "Rust"}).fill(given, text) == (filled, "")


def test_the_system_prompt_is_filled_too() -> None:
    template = Template("t", prompt="Go on.", system="You know {input} and {b}.")
    assert template.variables == ("input", "b")
    assert template.fill({"b": "c"}, "a") == ("Go on.", "You know a and c.")


@pytest.mark.parametrize(
    ("prompt", "given", "words"),
    [
        ("{language}", {}, "needs language; give -p language=..."),
        ("{language}", {"langauge": "C"}, "no variable 'langauge'; did you mean 'language'?"),
        ("{a}", {"a": "1", "zzz": "2"}, "it has a"),
        ("none", {"a": "1"}, "it has none"),
        ("{input}", {"input": "x"}, "no variable 'input'"),
        ("{input}", {}, "needs an input; pipe it in"),
        ("{", {}, "write {{ for { and }} for }"),
        ('{"a": 1}', {}, "write {{"),
        ("{}", {}, "write {{"),
        ("{a.__class__}", {"a": "1"}, "write {{"),
        ("{a!r}", {"a": "1"}, "write {{"),
        ("{a:>9}", {"a": "1"}, "write {{"),
    ],
)
def test_what_cannot_be_filled(prompt: str, given: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Template("t", prompt=prompt).fill(given, None)
    assert words in str(caught.value)


def test_braces_that_make_no_sense_are_not_saved(folder: Path) -> None:
    with pytest.raises(UsageError, match="brace"):
        templates.save(Template("t", prompt="{"))
    assert not folder.exists()


def test_a_wrong_name_gets_the_nearest(folder: Path) -> None:
    write(folder, "review", "")
    with pytest.raises(UsageError, match="no template 'reveiw'; did you mean 'review'"):
        templates.load("reveiw")
    with pytest.raises(UsageError, match="specgen templates lists"):
        templates.load("commit")
    for name in ("../review", "", ".hidden", "a/b", "a b"):
        with pytest.raises(UsageError, match="is not a valid name"):
            templates.load(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("promt = 'x'", "unknown key 'promt'; did you mean 'prompt'?"),
        ("prompt = 1", "'prompt' in .* is not a text"),
        ("options = 'x'", "'options' in .* is not a table"),
        ("[defaults]\na = 1", "'defaults' in .* is not a table of texts"),
        ("[prompt]", "'prompt' in .* is not a text"),
        ("prompt = ", "cannot read the template"),
    ],
)
def test_a_file_that_says_something_else(folder: Path, text: str, words: str) -> None:
    write(folder, "t", text)
    with pytest.raises(BadFile, match=words):
        templates.load("t")
