"""The process that starts by itself, as a program: what the command shows is what it shows without it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specgen.serve.background.connection import status, stop
from tests.cli.command import invoke

LONG = 120
# A fixed draft length: whether drafting pays, and what is said of it, is up to a busy machine.
STORY = ("-m", "stories", "-k", "3", "--temp", "0.9", "--seed", "7", "Once upon a time")
SHORT = (*STORY[:-1], "-n", "8", STORY[-1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment in which all tests here share one process."""
    runtime = tmp_path_factory.mktemp("runtime")
    environment = {
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
        "SPECGEN_CONFIG_DIR": str(tmp_path_factory.mktemp("config")),
        "SPECGEN_KEEP_ALIVE": "1h",
    }
    yield environment
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        stop()


@pytest.fixture(autouse=True)
def shared(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in folders.items():
        monkeypatch.setenv(name, value)


def started(*arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "specgen", *arguments]
    # Without a buffer, where what was read too much would be lost to communicate.
    return subprocess.Popen(
        command, bufsize=0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def found() -> dict[str, Any]:
    now = status()
    assert now is not None
    return now


def test_two_that_start_it_at_once_share_one_and_are_answered_as_without(folders: dict[str, str]) -> None:
    """Over the socket file of one that was killed."""
    expected = invoke(*SHORT, "--keep-alive", "off").out
    path = Path(folders["XDG_RUNTIME_DIR"]) / "specgen" / "serve.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    both = [started(*SHORT) for _ in range(2)]
    for one in both:
        out, err = one.communicate(timeout=LONG)
        assert (one.returncode, out, err) == (0, expected, b"")
    assert found()["requests"] == 2
    assert found()["background"]
    (pair,) = json.loads(invoke("ps", "--json").text)[0]["pairs"]
    assert (pair["model"], pair["state"]) == ("stories", "idle")


@pytest.mark.parametrize(
    ("arguments", "more"),
    [(SHORT, ("tokenizers", "asyncio")), (("chat", "-m", "stories", "-n", "8", "--temp", "0"), ())],
    ids=["run", "chat"],
)
def test_a_command_that_is_answered_so_loads_nothing_slow(arguments: tuple[str, ...], more: tuple[str, ...]) -> None:
    slow = ("torch", "transformers", "huggingface_hub", "pydantic", "specgen.session.session", *more)
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['specgen', *{list(arguments)!r}]\n"
        "try:\n    runpy.run_module('specgen', run_name='__main__')\nexcept SystemExit:\n    pass\n"
        f"sys.exit(f'loaded: {{found}}' if (found := [name for name in {slow!r} if name in sys.modules]) else 0)\n"
    )
    before = status()
    done = subprocess.run(
        [sys.executable, "-c", program], input=b"A king\n", capture_output=True, timeout=LONG, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    if before:
        assert found()["requests"] > before["requests"]


def test_ctrl_c_ends_the_answer_there_too() -> None:
    child = started(*STORY, "--json")
    assert child.stdout
    for _ in range(3):
        child.stdout.readline()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=LONG)
    assert (child.returncode, err) == (130, b"")
    assert json.loads(out.splitlines()[-1])["reason"] == "interrupted"
    assert_idle()


def test_a_command_that_is_killed_leaves_it_to_others() -> None:
    child = started(*STORY, "--json")
    assert child.stdout
    for _ in range(3):
        child.stdout.readline()
    child.kill()
    child.communicate(timeout=LONG)
    assert_idle()
    assert invoke(*SHORT).code == 0


def test_when_it_is_killed_the_answer_goes_on_to_the_same_end() -> None:
    """kill -9 in the middle of the stream, twice: while it streams, and when it is not there any more."""
    expected = invoke(*STORY, "--keep-alive", "off").out
    child = started(*STORY)
    assert child.stdout
    first = child.stdout.read(16)
    os.kill(found()["pid"], signal.SIGKILL)
    rest, err = child.communicate(timeout=LONG)
    assert child.returncode == 0
    assert first + rest == expected
    assert err == b"specgen: the background process broke off; going on without it\n"
    assert status() is None
    child = started(*SHORT)
    assert expected.startswith(child.communicate(timeout=LONG)[0])
    assert found()["requests"] == 1


def assert_idle() -> None:
    """Soon, not only when the answer would have ended by itself."""
    end = time.monotonic() + LONG
    while found()["running"]:
        assert time.monotonic() < end
        time.sleep(0.05)
