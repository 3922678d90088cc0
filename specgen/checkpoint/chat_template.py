"""Render a conversation with the model's jinja2 chat template, in a process that can be killed.

Templates are untrusted programs. A template of 20 bytes can compute for hours or fill the memory, inside one operation
that no signal interrupts. So template_process.py renders it, with limits on time, memory and length.
"""

import atexit
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Timer
from typing import Any

from specgen.core.errors import SpecgenError, UnsupportedModel, UsageError
from specgen.core.types import Message
from specgen.core.words import reason

_CPU_S = 5.0
# Seconds of wall-clock time, for busy machines and systems without a limit on CPU time.
_TIMEOUT_S = 60.0
_MEMORY = 1 << 30
# Characters of a rendered conversation beyond four times the length of its messages.
_MAX_LENGTH = 1 << 22
_HINT = "use another revision of the model"
# Messages of this many characters cannot be the reason why a template takes too long.
_SHORT = 10_000
# Templates that took too long with short messages: they are not tried again.
_ENDLESS: set[str] = set()


def render(
    template: str,
    messages: Sequence[Message],
    *,
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool,
    **variables: object,
) -> str:
    """Render `messages` to text. The template writes BOS itself, so encode the text without special tokens.

    With `add_generation_prompt` the text ends at the start of the assistant's answer. `variables` are passed to the
    template (enable_thinking, ...) and override special tokens of the same name. All values are those of JSON.

    Raises UsageError with the template's message if it refuses the conversation, UnsupportedModel if it is broken.
    """
    context: dict[str, object] = {
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        **special_tokens,
        **variables,
    }
    length = sum(len(message.content) for message in messages)
    longest = _MAX_LENGTH + 4 * length
    limits = {"cpu_s": _CPU_S, "memory": _MEMORY + 16 * longest, "longest": longest}
    reply = None if template in _ENDLESS else _RENDERER.ask({"template": template, "context": context} | limits)
    match reply:
        case {"text": text}:
            return str(text)
        case {"refused": why}:
            raise UsageError(
                f"the model's chat template refuses these messages: {why}",
                hint="change the messages or the system prompt",
            )
        case {"unreadable": why}:
            raise UnsupportedModel(f"the model's chat template cannot be read: {why}", hint=_HINT)
        case {"failed": why}:
            raise UnsupportedModel(f"the model's chat template fails: {why}", hint=_HINT)
    if length < _SHORT:
        _ENDLESS.add(template)
    raise UnsupportedModel("the model's chat template fails: it takes too long, or too much memory", hint=_HINT)


def start_renderer() -> None:
    """Start the rendering process, which takes about 60 ms, before it is needed. Ignores a failure."""
    with suppress(SpecgenError):
        _RENDERER.start()


class _Renderer:
    """The rendering process, started at the first use and after it was killed. Any thread may ask it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = Lock()

    def start(self) -> None:
        """Start the process. Raises SpecgenError."""
        with self._lock:
            self._running()

    def ask(self, request: dict[str, Any]) -> dict[str, str] | None:
        """The reply, None if the process had to be killed. An exception such as KeyboardInterrupt kills it, too."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None  # noqa: S101
            assert process.stdout is not None  # noqa: S101
            timer = Timer(_TIMEOUT_S, process.kill)
            timer.daemon = True
            timer.start()
            reply = ""
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                return None
            finally:
                timer.cancel()
                if not reply.endswith("\n"):
                    self.stop()
            answer: dict[str, str] | None = json.loads(reply) if reply.endswith("\n") else None
            return answer

    def stop(self) -> None:
        """Kill the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not sent is dropped
                    pipe.close()
        process.wait()

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.stop()
        program = Path(__file__).with_name("template_process.py")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="ascii",
                start_new_session=True,  # Ctrl-C is for this process, which then kills the other
            )
        except OSError as error:
            raise SpecgenError(f"cannot start a process for the chat template: {reason(error)}") from error
        return self._process


_RENDERER = _Renderer()
atexit.register(_RENDERER.stop)
