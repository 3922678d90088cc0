"""From a check's events to lines and an exit code, with Ctrl-C."""

import json as json_format
import sys

from specgen.check.check import Checked, CheckSettings, Opened, check
from specgen.check.report import as_data, closing, line, real
from specgen.core.errors import INTERRUPTED
from specgen.render.progress import ProgressLine
from specgen.render.terminal import put_exact, sanitize

_DIFFERENT = 1


def play_check(settings: CheckSettings, *, json: bool) -> int:
    """Check, show every difference as it is found and all of it at the end. Returns the exit code.

    Ctrl-C ends it with what was checked so far. Raises SpecgenError.
    """
    checked: list[Checked] = []
    opened: Opened | None = None
    interrupted = False
    progress = ProgressLine(sys.stderr)
    events = check(settings)
    try:
        for event in events:
            if isinstance(event, Opened):
                opened = event
            elif not isinstance(event, Checked):
                progress.show(event)
            else:
                checked.append(event)
                if event.difference and not json:
                    progress.close()
                    put_exact(sys.stdout, sanitize(line(event)) + "\n")
    except KeyboardInterrupt:
        interrupted = True
    finally:
        progress.close()
        events.close()
    if json:
        report = json_format.dumps(as_data(settings, opened, checked, whole=not interrupted), indent=2)
        put_exact(sys.stdout, report + "\n")
    else:
        put_exact(sys.stdout, sanitize(closing(checked, opened)) + "\n")
    if interrupted:
        return INTERRUPTED
    return _DIFFERENT if real(checked) else 0
