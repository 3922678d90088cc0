import subprocess
import sys
from collections.abc import Callable

import pytest

from specgen.core.events import Notice, Progress
from specgen.render.progress import ProgressLine
from tests.render.samples import STARTED
from tests.render.streams import Pipe, Terminal

Terminals = Callable[..., tuple[Terminal, Terminal]]


@pytest.mark.parametrize("columns", [80, 40])
def test_a_bar_knows_how_far_it_is(terminals: Terminals, columns: int) -> None:
    err = terminals(columns)[1]
    line = ProgressLine(err)
    line.show(Progress("org/a-model-with-a-name", 250_000_000, 1_000_000_000))
    line._bars.refresh()  # type: ignore[union-attr]  # the redrawing thread's work, without its clock
    (row,) = err.screen.rows()
    assert "org/a" in row
    assert "0.2/1.0 GB" in row
    line.close()
    line.close()
    assert err.screen.rows() == []
    assert not err.screen.cursor.hidden


def test_unknown_sizes_spin_and_make_way_for_what_comes_next(terminals: Terminals) -> None:
    err = terminals()[1]
    line = ProgressLine(err)
    line.show(Progress("loading [bold]\x1b[2J"))
    assert err.screen.rows()[0][2:] == "loading [bold]␛[2J"
    line.show(Progress("packing"))
    line.show(Notice("half [red] way"))
    assert [row[2:] for row in err.screen.rows()] == ["ecgen: half [red] way", "packing"]
    line.show(Progress("packing", 5, 5))
    assert err.screen.rows() == ["specgen: half [red] way"]


def test_the_progress_leaves_stdout_alone(terminals: Terminals) -> None:
    before = sys.stdout
    line = ProgressLine(terminals()[1])
    line.show(Progress("loading"))
    during = sys.stdout
    line.close()
    assert during is before


def test_a_pipe_gets_the_notices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    err = Pipe()
    line = ProgressLine(err)
    for event in (Progress("loading"), Progress("model", 1, 2), Notice("hello"), STARTED):
        line.show(event)
    line.close()
    assert err.written == b"specgen: hello\r\n"


def test_no_colour_means_none_in_the_bar(terminals: Terminals) -> None:
    err = terminals()[1]
    line = ProgressLine(err, color="never")
    line.show(Progress("model", 1, 2))
    line.close()
    assert b"\x1b[3" not in err.sent
    assert b"\x1b[9" not in err.sent


@pytest.mark.parametrize(("module", "banned"), [("specgen.render", "rich"), ("specgen.render.live", "torch")])
def test_importing_is_cheap(module: str, banned: str) -> None:
    heavy = {banned, "torch", "transformers", "huggingface_hub"}
    code = f"import sys, {module}; print(*({heavy!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
