"""Ctrl-C keeps the partial answer, sets the exit code, and leaves the terminal clean."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pexpect
import pytest

from specgen.cli.stream import play
from specgen.core.events import Event, Finished, Notice, Span, Stats, Step
from tests.cli.command import terminal

STEP = Step((1,), (Span("x", "bonus"),))


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False

    def show(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed = True


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_once_text_streams_it_asks_for_a_stop() -> None:
    asked: list[bool] = []

    def events() -> Iterator[Event]:
        yield STEP
        interrupt()
        yield STEP
        yield Finished("interrupted" if asked else "end", "xx", Stats())

    recorder = Recorder()
    last = play(events(), recorder, lambda: asked.append(True))
    assert isinstance(last, Finished)
    assert last.reason == "interrupted"
    assert len(recorder.events) == 3
    assert recorder.closed


@pytest.mark.parametrize("before", [[], [STEP]], ids=["before the text", "a second time"])
def test_else_it_interrupts(before: list[Event]) -> None:
    def events() -> Iterator[Event]:
        yield Notice("loading")
        yield from before
        for _ in before:
            interrupt()
        interrupt()
        yield STEP

    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        play(events(), recorder, lambda: None)
    assert recorder.closed
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_a_pipe_the_text_so_far_has_been_written() -> None:
    command = [sys.executable, "-m", "specgen", "-m", "stories", "--temp", "0.9", "--seed", "1", "Once upon a time"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout
    assert child.stderr
    first = child.stdout.read(8)
    child.send_signal(signal.SIGINT)
    rest, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert errors == b""
    whole = first + rest
    assert whole.decode("utf-8")


def test_on_a_terminal_the_summary_says_so() -> None:
    child = terminal("-m", "stories", "--temp", "0.9", "--seed", "1", "Once upon a time", columns=120)
    child.expect_exact("acceptance rate")  # the live line
    child.sendintr()
    child.expect_exact("interrupted")
    child.expect_exact("target bundled:stories/target")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 130
