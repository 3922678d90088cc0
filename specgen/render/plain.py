"""Events in pipes and files: the exact bytes of the text, and no drawing."""

from typing import TextIO

from specgen.core.events import Event, Failed, Finished, Notice, Started, Step
from specgen.render.summary import SummaryForm, summary
from specgen.render.terminal import dim, put, put_exact


class Plain:
    """Writes text to `stdout` as UTF-8, notices and the summary to `stderr`.

    Without `stream`, the text is written when the answer ends, after success or failure. `color` applies to stderr.
    """

    def __init__(
        self,
        stdout: TextIO,
        stderr: TextIO,
        *,
        stream: bool = True,
        quiet: bool = False,
        form: SummaryForm = "none",
        color: bool = False,
    ) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self._stream = stream
        self._quiet = quiet
        self._form: SummaryForm = form
        self._color = color
        self._started: Started | None = None
        self._held: list[str] = []

    def show(self, event: Event) -> None:
        match event:
            case Notice(text) if not self._quiet:
                put(self._stderr, f"specgen: {text}\n")
            case Started():
                self._started = event
            case Step():
                self._held.append(event.text)
                if self._stream:
                    self._release()
            case Finished():
                self._release()
                if lines := summary(self._started, event, self._form):
                    put(self._stderr, dim(lines, self._color))
                self._started = None
            case Failed():
                self._release()
                self._started = None

    def close(self) -> None:
        """Does nothing: there is nothing to restore."""

    def _release(self) -> None:
        text = "".join(self._held)
        self._held.clear()
        if text:
            put_exact(self._stdout, text)
