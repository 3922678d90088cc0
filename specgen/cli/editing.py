"""Editing a settings file: on a copy, which counts only when nothing is wrong in it."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import typer

from specgen.cli.inspecting import check_text, place
from specgen.cli.ui import agreed
from specgen.core.errors import BadFile, SpecgenError, UsageError
from specgen.core.files import replace_file
from specgen.render.terminal import is_terminal, sanitize

_NEW = """# Settings of specgen: options of specgen run and chat by their long names; docs/configuration.md lists them.
#
# model = "stories"
# max-tokens = 200
#
# [profiles.short]
# max-tokens = 50
"""


def edit_settings(project: bool) -> tuple[Path, bool]:
    """Let the user edit their file, or the project's; its path, and whether it changed.

    Raises BadFile where something is wrong and the user gives up; what was written is kept, and said where.
    """
    path = place(project)
    old = path.read_text(encoding="utf-8") if path.exists() else None
    handle, name = tempfile.mkstemp(prefix="specgen-", suffix=".toml")
    copy = Path(name)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(_NEW if old is None else old)
    while True:
        _open(copy)
        text = copy.read_text(encoding="utf-8", errors="replace")
        if text == (_NEW if old is None else old):
            copy.unlink()
            return path, False
        try:
            check_text(text, path, project)
        except SpecgenError as error:
            if not _again(error):
                raise BadFile(error.message, hint=f"nothing was saved; what you wrote is in {copy}") from error
            continue
        replace_file(path, text)
        copy.unlink()
        return path, True


def _open(path: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("notepad" if os.name == "nt" else "vi")
    try:
        code = subprocess.run([*shlex.split(editor, posix=os.name != "nt"), str(path)], check=False).returncode
    except OSError as error:
        raise UsageError(f"cannot start the editor '{editor}': {error.strerror}", hint="set EDITOR to one") from error
    if code:
        raise UsageError(f"the editor '{editor}' failed with {code}", hint="nothing was changed; set EDITOR to another")


def _again(error: SpecgenError) -> bool:
    if not is_terminal(sys.stdin):
        return False
    typer.echo(f"specgen: {sanitize(str(error))}", err=True)
    return agreed("Edit it again?", default=True)
