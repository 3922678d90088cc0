import pytest

from specgen.core.errors import OutOfMemory
from specgen.core.events import Failed, Notice, Progress, Renderer
from specgen.render import make_renderer
from tests.render.samples import STARTED, run, step
from tests.render.streams import Pipe

TEXT = "é\r\n\x1b[31m漢字\x00 \u202e no newline at the end"


def plain(
    stdout: Pipe, stderr: Pipe, *, stream: bool = True, quiet: bool = False, stats: bool = False, color: str = "auto"
) -> Renderer:
    return make_renderer(stdout=stdout, stderr=stderr, json=False, stream=stream, quiet=quiet, stats=stats, color=color)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_stdout_is_the_text_byte_for_byte(encoding: str, stream: bool) -> None:
    out, err = Pipe(encoding), Pipe(encoding)
    renderer = plain(out, err, stream=stream)
    for event in [Progress("downloading", 1, 2), *run(TEXT)]:
        renderer.show(event)
    renderer.close()
    assert out.written == TEXT.encode()
    assert err.written == b""


def test_each_step_is_written_at_once_unless_the_text_is_kept_back() -> None:
    for stream, seen in ((True, b"one"), (False, b"")):
        out = Pipe()
        renderer = plain(out, Pipe(), stream=stream)
        renderer.show(STARTED)
        renderer.show(step("one"))
        assert out.written == seen


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_leaves_the_text_so_far(stream: bool) -> None:
    out, err = Pipe(), Pipe()
    renderer = plain(out, err, stream=stream)
    for event in [STARTED, step("half"), Failed(OutOfMemory("full"))]:
        renderer.show(event)
    assert (out.written, err.written) == (b"half", b"")


def test_notices_and_the_summary_go_to_stderr() -> None:
    out, err = Pipe(), Pipe()
    renderer = plain(out, err, stats=True)
    renderer.show(Notice("no draft fits"))
    for event in run("text"):
        renderer.show(event)
    assert out.written == b"text"
    notice, *summary = err.written.decode().splitlines()
    assert notice == "specgen: no draft fits"
    assert summary[0].startswith("128 tokens in 6.5 s")
    assert "\x1b" not in err.written.decode()


def test_quiet_leaves_nothing_on_stderr() -> None:
    out, err = Pipe(), Pipe()
    renderer = plain(out, err, quiet=True, stats=True)
    for event in [Notice("no draft fits"), *run("text")]:
        renderer.show(event)
    assert (out.written, err.written) == (b"text", b"")


def test_colour_that_was_asked_for_stays_out_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for color, colored in (("auto", True), ("always", True), ("never", False)):
        out, err = Pipe(), Pipe()
        renderer = plain(out, err, stats=True, color=color)
        for event in run("text"):
            renderer.show(event)
        assert out.written == b"text"
        assert (b"\x1b[2m" in err.written) == colored


def test_a_stderr_that_lacks_a_character_is_no_error() -> None:
    err = Pipe("ascii")
    renderer = plain(Pipe(), err, stats=True)
    for event in [Notice("naïve"), *run("text")]:
        renderer.show(event)
    assert err.written.startswith(b"specgen: na?ve\r\n128 tokens in 6.5 s - 21.0 tok/s - ")


def test_several_answers_follow_each_other() -> None:
    out = Pipe()
    renderer = plain(out, Pipe(), stream=False)
    for event in [*run("one"), *run("two")]:
        renderer.show(event)
    assert out.written == b"onetwo"


class Broken(Pipe):
    @property
    def buffer(self) -> "Broken":  # type: ignore[override]
        return self

    def write(self, _: object) -> int:
        raise BrokenPipeError


def test_a_reader_that_is_gone_is_told() -> None:
    renderer = plain(Broken(), Pipe())
    renderer.show(STARTED)
    with pytest.raises(BrokenPipeError):
        renderer.show(step("text"))
    renderer.close()
