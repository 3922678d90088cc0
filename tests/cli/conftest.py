"""Fixtures for tests of commands."""

import pytest

from specgen.cli.main import main
from tests.cli.command import Run


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run specgen here; its exit code, stdout and stderr."""

    def specgen(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return specgen
