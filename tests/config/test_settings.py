"""Sources of settings, and invalid files."""

from pathlib import Path

import pytest

from specgen.config.settings import resolve
from specgen.core.errors import BadFile, UsageError


@pytest.fixture(autouse=True)
def nothing_set(no_user_settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, not even the one that keeps tests from leaving a process behind."""
    monkeypatch.delenv("SPECGEN_KEEP_ALIVE")


@pytest.fixture
def user(no_user_settings: Path) -> Path:
    return no_user_settings / "config.toml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The specgen.toml of the folder above this one."""
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    return tmp_path / "specgen.toml"


def values(profile: str | None = None) -> dict[str, object]:
    return {key: setting.value for key, setting in resolve(profile).found.items()}


def test_the_environment_goes_before_the_project_and_that_before_the_user(
    user: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user.write_text('temp = 0.1\ntop-k = 1\nsystem = "mine"\n')
    project.write_text("temp = 0.2\ntop-k = 2\n")
    monkeypatch.setenv("SPECGEN_TEMPERATURE", "0.3")
    assert values() == {"temp": "0.3", "top-k": 2, "system": "mine"}
    where = {key: setting.where for key, setting in resolve().found.items()}
    assert where == {"temp": "SPECGEN_TEMPERATURE", "top-k": f"{project}, line 2", "system": f"{user}, line 3"}


def test_the_nearest_project_file_counts_alone(project: Path) -> None:
    project.write_text("temp = 0.2\ntop-k = 2\n")
    Path("specgen.toml").write_text("temp = 0.9\n")
    assert values() == {"temp": 0.9}


def test_a_profile_goes_before_the_rest_of_both_files(
    user: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user.write_text("temp = 0.1\nseed = 1\n[profiles.hot]\ntemp = 1.5\ntop-k = 5\n")
    project.write_text("temp = 0.2\nseed = 2\n[profiles.hot]\ntop-k = 7\n")
    monkeypatch.setenv("SPECGEN_SEED", "3")
    assert values()["temp"] == 0.2
    assert values("hot") == {"temp": 1.5, "top-k": 7, "seed": "3"}
    assert resolve("hot").found["temp"].profile == "hot"
    assert resolve("hot").found["temp"].where == f"{user}, line 4"


def test_the_user_chooses_a_profile_for_good(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user.write_text('profile = "hot"\n[profiles.hot]\ntemp = 1.5\n[profiles.cold]\ntemp = 0.5\n')
    assert values()["temp"] == 1.5
    assert values("cold")["temp"] == 0.5
    monkeypatch.setenv("SPECGEN_PROFILE", "cold")
    assert values()["temp"] == 0.5


def test_an_unknown_profile_is_refused_with_the_nearest(user: Path) -> None:
    user.write_text("[profiles.haiku]\ntemp = 1.5\n")
    with pytest.raises(UsageError, match="no profile 'hiku'; did you mean 'haiku'"):
        resolve("hiku")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max-token = 3", "line 1: there is no setting 'max-token'; did you mean 'max-tokens'"),
        ("temp = 1\n\n[profiles.a]\n tmep = 2", "line 4: there is no setting 'tmep'; did you mean 'temp'"),
        ("temp = \n", "is not TOML: .*line 1"),
        ("profiles = 3", "'profiles' must contain tables"),
        ("[profiles]\na = 3", "'profiles' must contain tables"),
        ("trust-remote-code = true", "line 1: 'trust-remote-code' is not a setting; give --trust-remote-code"),
        ('trace = "x"', "'trace' is not a setting"),
        ('[profiles.a]\nprofile = "a"', "line 2: a profile cannot choose a profile"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(user: Path, text: str, says: str) -> None:
    user.write_text(text)
    with pytest.raises(BadFile, match=says):
        resolve()


@pytest.mark.parametrize("text", ["offline = false", 'profile = "hot"', "[profiles.hot]\noffline = false"])
def test_a_project_cannot_set_what_is_for_the_user_alone(user: Path, project: Path, text: str) -> None:
    user.write_text("offline = true\n[profiles.hot]\ntemp = 1.5\n")
    project.write_text(text)
    with pytest.raises(BadFile, match="a project's file cannot set"):
        resolve()


def test_a_misspelt_variable_is_refused_and_one_of_somebody_else_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECGEN_BACKUP_HOST", "x")
    monkeypatch.setenv("SPECGEN_MODEL", "")
    assert values() == {}
    monkeypatch.setenv("SPECGEN_MAX_TOKEN", "3")
    with pytest.raises(UsageError, match="no variable SPECGEN_MAX_TOKEN; did you mean 'SPECGEN_MAX_TOKENS'"):
        resolve()


def test_a_path_in_a_file_is_relative_to_the_file(project: Path) -> None:
    project.write_text('model = "./models/target"\ndraft = "org/draft"\n')
    assert values() == {"model": str(project.parent / "models" / "target"), "draft": "org/draft"}


def test_a_draft_falls_with_the_model_it_was_set_beside(user: Path, project: Path) -> None:
    user.write_text('model = "org/a"\ndraft = "org/b"\n')
    assert values() == {"model": "org/a", "draft": "org/b"}
    project.write_text('model = "org/c"\n')
    assert values() == {"model": "org/c"}
    user.write_text('draft = "lookup"\n')
    assert values() == {"model": "org/c", "draft": "lookup"}


def test_bytes_that_are_no_text_are_refused(user: Path) -> None:
    user.write_bytes(b"\xff\xfe")
    with pytest.raises(BadFile, match="cannot read"):
        resolve()
