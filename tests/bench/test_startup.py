"""Cold start: what is started, and when it counts as started."""

import sys

import pytest

from specgen.bench.startup import cold_starts, first_byte, flags
from specgen.core.errors import SpecgenError
from specgen.core.types import Device, EngineOptions
from tests.cli.command import invoke


def test_the_first_byte_ends_the_time() -> None:
    assert first_byte([sys.executable, "-S", "-c", "print('x')"]) > 0


def test_nothing_that_was_loaded_before_makes_it_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr("specgen.bench.startup.first_byte", lambda command: commands.append(command) or 1.0)
    assert cold_starts("stories", "none", EngineOptions()) == [1.0, 1.0]
    for command in commands:
        assert command[command.index("--keep-alive") + 1] == "off"
        assert command.index("--keep-alive") < command.index("--")


def test_a_start_that_fails_says_why() -> None:
    with pytest.raises(SpecgenError, match="the cold start failed: no such model"):
        first_byte([sys.executable, "-S", "-c", "import sys; sys.exit('first line\\nno such model')"])


def test_options_are_those_of_the_command_line() -> None:
    options = EngineOptions(device=Device.CPU, threads=1, ctx_size=64, num_draft_tokens=2, offline=True)
    given = flags(options)
    assert given == ["--device", "cpu", "--threads", "1", "--ctx-size", "64", "--num-draft-tokens", "2", "--offline"]
    assert invoke("run", "-m", "stories", "-n", 1, *given, "--", "Once").code == 0
    assert flags(EngineOptions()) == []
