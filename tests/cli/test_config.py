"""specgen config, and settings as the defaults of options."""

import json
from pathlib import Path
from typing import Any

import pytest

from specgen.cli.option_values import configurable
from specgen.cli.settings_editor import setting_options
from specgen.config import settings
from tests.cli.command import Outcome, invoke

PROMPT = "the quick brown fox"


@pytest.fixture
def user(no_user_settings: Path) -> Path:
    return no_user_settings / "config.toml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "specgen.toml"


@pytest.fixture
def target(checkpoints: Any) -> Path:
    return Path(checkpoints.target("llama"))


def tokens(outcome: Outcome) -> int:
    assert outcome.code == 0, outcome.err
    finished = json.loads(outcome.text.splitlines()[-1])
    return int(finished["stats"]["generated_tokens"])


def test_every_key_is_an_option() -> None:
    options = setting_options()
    assert set(options) == set(settings.KEYS)
    for name, key in settings.OTHER_NAMES.items():
        assert f"--{name}" in options[key][1].opts


def test_settings_are_the_defaults_of_a_run(user: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user.write_text(
        f'model = "{target}"\nmax-tokens = 5\nraw = true\nnum-draft-tokens = 2\n[profiles.long]\nmax-tokens = 9\n'
    )
    assert tokens(invoke("run", PROMPT, "--json")) == 5
    assert tokens(invoke(PROMPT, "--json", "--profile", "long")) == 9
    assert tokens(invoke(PROMPT, "--json", "--profile", "long", "-n", 3)) == 3
    started = json.loads(invoke(PROMPT, "--json").text.splitlines()[0])
    assert started["num_draft_tokens"] == 2
    monkeypatch.setenv("SPECGEN_MAX_TOKENS", "7")
    assert tokens(invoke(PROMPT, "--json")) == 7


def test_settings_are_the_defaults_of_a_chat(user: Path, target: Path) -> None:
    user.write_text(f'model = "{target}"\nmax-tokens = 5\nstats = true\n')
    outcome = invoke("chat", stdin=b"hello\n/stats\n")
    assert "5 tokens in" in outcome.err, outcome.err


def test_sampling_of_answers_is_none_of_a_check(user: Path, target: Path) -> None:
    user.write_text(f'model = "{target}"\ntemp = 0\n')
    report = json.loads(invoke("check", PROMPT, "--json", "-n", 4, "--seeds", "1").text)
    assert {each["seed"] for each in report["checked"]} == {None, 1}


def test_who_is_offline_for_good_is_so_in_every_command(user: Path) -> None:
    user.write_text('model = "stories"\noffline = true\n')
    for command in ("show", "pull", "pairs"):
        outcome = invoke(command, "org/nowhere")
        assert outcome.code == 5
    hub = json.loads(invoke("doctor", "--json").text)["checks"][-1]
    assert (hub["check"], hub["found"]) == ("hub", "not checked: offline; cached models work")
    assert invoke("show").code == 2  # its argument is none of the settings


def test_a_draft_that_is_set_beside_a_model_does_not_go_with_another(user: Path, target: Path) -> None:
    user.write_text('model = "org/a"\ndraft = "org/b"\nmax-tokens = 3\nraw = true\n')
    started = json.loads(invoke("run", "-m", target, PROMPT, "--json").text.splitlines()[0])
    assert started["draft"] is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('threads = "3"', "'threads' is '3'; write a whole number"),
        ("threads = true", "'threads' is True; write a whole number"),
        ("threads = 0", "'threads' is 0; .*greater than or equal to 1"),
        ("seed = 9223372036854775808", "seed cannot be 9223372036854775808; it takes a whole number from 0"),
        ("temp = inf", "--temp is 'inf'; give a finite number"),
        ("presence-penalty = nan", "--presence-penalty is 'nan'; give a finite number"),
        ("temp = -1", "'temp' is -1; .*greater"),
        ('offline = "yes"', "'offline' is 'yes'; write true or false"),
        ('device = "gpu"', "'device' is 'gpu'; .*'cuda'"),
        ("model = 3", "'model' is 3; write text"),
        ('stop = "x"', "'stop' is 'x'; write a list of texts"),
        ("stop = [3]", r"'stop' is \[3\]; write a list of texts"),
        ('num-draft-tokens = "many"', "-k is 'many'; give a number"),
        ("num-draft-tokens = true", "'num-draft-tokens' is True; write text"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(user: Path, line: str, says: str) -> None:
    import re

    user.write_text(f"# mine\n{line}\n")
    outcome = invoke("run", "-m", "stories", PROMPT)
    assert outcome.code == 10
    assert re.search(re.escape(f"{user}, line 2: ") + says, outcome.err), outcome.err


def test_code_of_a_model_that_a_project_names_does_not_run(project: Path, target: Path) -> None:
    project.write_text(f'model = "{target}"\ndraft = "lookup"\nmax-tokens = 3\n')
    outcome = invoke("run", PROMPT, "--trust-remote-code")
    assert outcome.code == 2
    assert f"name the model whose code may run: -m {target}" in outcome.err
    assert invoke("run", PROMPT, "--trust-remote-code", "-m", target, "--raw").code == 0
    assert invoke("run", PROMPT, "--raw").code == 0


def test_list_says_where_each_value_comes_from(user: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user.write_text('model = "stories"\n[profiles.a]\ntop-k = 4\n')
    project.write_text('stop = ["x", "y"]\n')
    monkeypatch.setenv("SPECGEN_THREADS", "2")
    rows = {line.split()[0]: line for line in invoke("config", "list", "--profile", "a").text.splitlines()}
    assert list(rows) == list(settings.KEYS)
    assert rows["model"].endswith(f"user: {user}, line 1")
    assert rows["top-k"].endswith(f"user: {user}, line 3, profile a")
    assert rows["threads"].endswith("2           environment: SPECGEN_THREADS")
    assert rows["stop"].endswith(f'["x", "y"]  project: {project}, line 1')
    assert rows["device"].endswith("default")
    data = json.loads(invoke("config", "list", "--json").text)
    assert data["threads"] == {"value": 2, "source": "environment", "where": "SPECGEN_THREADS", "profile": None}
    assert data["device"] == {"value": "auto", "source": "default", "where": None, "profile": None}


def test_get_prints_the_value_alone(user: Path) -> None:
    user.write_text('temp = 0.5\nstop = ["a", "b"]\n')
    assert invoke("config", "get", "temp").text == "0.5\n"
    assert invoke("config", "get", "temperature").text == "0.5\n"
    assert invoke("config", "get", "stop").text == "a\nb\n"
    assert invoke("config", "get", "model").text == ""
    assert json.loads(invoke("config", "get", "temp", "--json").text)["source"] == "user"
    outcome = invoke("config", "get", "tempp")
    assert (outcome.code, "did you mean 'temp'" in outcome.err) == (2, True)


def test_set_keeps_what_else_stands_in_the_file(user: Path) -> None:
    user.write_text("# mine\ntemp = 0.5  # warm\n\n[profiles.a]\n# of a\nseed = 1\n")
    assert invoke("config", "set", "temperature", "0.7").code == 0
    assert invoke("config", "set", "top-k", "40", "--profile", "a").code == 0
    assert invoke("config", "set", "offline", "true", "--profile", "b").code == 0
    assert invoke("config", "set", "stop", "x", "y").code == 0
    assert invoke("config", "set", "system", "Be brief.").code == 0
    assert invoke("config", "set", "presence-penalty", "-0.5").code == 0
    text = user.read_text()
    assert "presence-penalty = -0.5\n" in text
    assert "# mine\ntemp = 0.7  # warm\n" in text
    assert "[profiles.a]\n# of a\nseed = 1\ntop-k = 40\n" in text
    found = json.loads(invoke("config", "list", "--json", "--profile", "b").text)
    assert [found[key]["value"] for key in ("temp", "offline", "stop", "system")] == [
        0.7,
        True,
        ["x", "y"],
        "Be brief.",
    ]
    assert invoke("config", "unset", "temp").code == 0
    assert "temp" not in user.read_text()
    assert invoke("config", "unset", "temp").code == 2


@pytest.mark.parametrize(
    "words", [("temp", "warm"), ("threads", "0"), ("tmep", "1"), ("model", "a", "b"), ("seed", "1", "--projct")]
)
def test_set_writes_nothing_that_will_not_do(user: Path, words: tuple[str, ...]) -> None:
    user.write_text("# mine\n")
    assert invoke("config", "set", *words).code == 2
    assert user.read_text() == "# mine\n"


def test_set_of_a_project_makes_its_file_and_not_what_it_may_not_say(project: Path, user: Path) -> None:
    assert invoke("config", "set", "--project", "model", "stories").code == 0
    assert project.read_text() == 'model = "stories"\n'
    assert not user.exists()
    assert invoke("config", "set", "--project", "offline", "true").code == 10
    assert project.read_text() == 'model = "stories"\n'


def test_set_writes_through_a_link(user: Path, tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text("seed = 1\n")
    user.symlink_to(tmp_path / "real.toml")
    assert invoke("config", "set", "seed", "2").code == 0
    assert user.is_symlink()
    assert (tmp_path / "real.toml").read_text() == "seed = 2\n"


def test_path_is_printed_whether_or_not_there_is_a_file(user: Path, project: Path) -> None:
    assert invoke("config", "path").text == f"{user}\n"
    assert invoke("config", "path", "--project").text == f"{project}\n"


def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """An editor that appends `line`."""
    script = tmp_path / "edit.sh"
    script.write_text(f"#!/bin/sh\n{line}\n")
    script.chmod(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(script))


def test_edit_saves_what_is_right(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor(tmp_path, monkeypatch, "echo 'seed = 7' >> \"$1\"")
    assert invoke("config", "edit", stdin=b"").code == 0
    assert user.read_text().endswith("seed = 7\n")
    assert json.loads(invoke("config", "get", "seed", "--json").text)["value"] == 7


def test_edit_keeps_what_is_wrong_elsewhere(user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user.write_text("seed = 1\n")
    editor(tmp_path, monkeypatch, "echo 'tmep = 7' >> \"$1\"")
    outcome = invoke("config", "edit", stdin=b"")
    assert outcome.code == 10
    assert "there is no setting 'tmep'" in outcome.err
    assert user.read_text() == "seed = 1\n"
    kept = Path(outcome.err.split("your text is in ")[1].strip())
    assert kept.read_text() == "seed = 1\ntmep = 7\n"
    kept.unlink()


@pytest.mark.parametrize(("line", "code"), [("true", 0), ("exit 3", 2)])
def test_edit_that_changes_nothing(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int
) -> None:
    editor(tmp_path, monkeypatch, line)
    assert invoke("config", "edit", stdin=b"").code == code
    assert not user.exists()


def test_settings_reach_no_option_that_runs_code() -> None:
    options = dict(configurable([parameter for _, parameter in setting_options().values()]))
    assert not {"trust-remote-code", "trace", "file"} & set(options)
