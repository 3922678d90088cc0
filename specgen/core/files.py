"""Files: atomic replacement, bounded reading, JSON, and the user's folders."""

import contextlib
import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from specgen.core.errors import BadFile
from specgen.core.words import reason

# Configuration, indexes and chats are far smaller; a tokenizer of 260,000 tokens takes 35 MB.
MAX_SMALL_FILE = 256 << 20

_APP = "specgen"


def config_folder() -> Path:
    """The folder of settings, templates and pins, present or not. SPECGEN_CONFIG_DIR replaces it."""
    import platformdirs  # noqa: PLC0415 - --help needs no folder

    return _folder("SPECGEN_CONFIG_DIR") or platformdirs.user_config_path(_APP)


def data_folder() -> Path:
    """The folder of the history and of baselines, present or not. SPECGEN_DATA_DIR replaces it."""
    import platformdirs  # noqa: PLC0415 - as above

    return _folder("SPECGEN_DATA_DIR") or platformdirs.user_data_path(_APP)


def cache_folder() -> Path:
    """The folder of packed weights and file hashes, present or not. It can be deleted at any time."""
    import platformdirs  # noqa: PLC0415 - as above

    return platformdirs.user_cache_path(_APP)


def state_folder() -> Path:
    """The folder of logs, present or not."""
    import platformdirs  # noqa: PLC0415 - as above

    return platformdirs.user_state_path(_APP, appauthor=False)


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(os.path.expanduser(value)) if value else None  # noqa: PTH111 - Path's raises for an unknown user


def replace_file(path: Path, content: str | bytes, *, private: bool = False, parents: bool = True) -> None:
    """Write `content` to `path`, all or nothing: readers see the old file or the new one, also after a crash.

    Text is written as UTF-8; lone surrogates become escapes. `parents` creates missing folders. A symbolic link stays
    one. A replaced file keeps its mode; `private` sets mode 0600. Raises OSError; then the old file is unchanged.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    path = resolved(path)
    mode = _mode(path)
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{_APP}-{os.urandom(8).hex()}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(beside, flags, 0o600 if private else 0o666)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            if mode is not None and not private:
                beside.chmod(mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def resolved(path: Path) -> Path:
    """The absolute path behind `~` and symbolic links. Raises OSError."""
    try:
        return path.expanduser().resolve()
    except RuntimeError as error:  # an unknown user after ~, or a loop of links
        raise OSError(errno.ENOENT, str(error), str(path)) from error


def canonical_path(name: str) -> Path | None:
    """The one absolute path of an existing file or folder; None for any other name.

    `~`, `..` and symbolic links to folders above it are resolved. The name of a link itself is kept.
    """
    try:
        path = Path(name).expanduser().absolute()
        if not name or not path.exists():
            return None
        return path.resolve() if ".." in path.parts else path.parent.resolve() / path.name
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user after ~, a NUL character
        return None


def _mode(path: Path) -> int | None:
    """The permission bits of an existing file, None for a new one. Raises OSError for a device, pipe or folder."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    _check_regular(status.st_mode, path)
    return stat.S_IMODE(status.st_mode)


def _check_regular(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_small(path: Path, limit: int = MAX_SMALL_FILE) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises OSError."""
    _check_regular(path.stat().st_mode, path)  # before opening: opening a FIFO blocks
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return data


def read_text(path: Path, limit: int = MAX_SMALL_FILE) -> str:
    """The UTF-8 text of a small regular file. Raises OSError, UnicodeDecodeError."""
    return read_small(path, limit).decode("utf-8")


def read_json(path: Path) -> Any:
    """The JSON value in a small file; NaN and Infinity pass, since model configurations contain them.

    Raises OSError, ValueError.
    """
    try:
        return json.loads(read_text(path))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_object(path: Path, *, hint: str, missing_ok: bool = False) -> dict[str, Any]:
    """The JSON object in a small file; with `missing_ok`, {} for a missing file. Raises BadFile with `hint`."""
    try:
        value = read_json(path)
    except OSError as error:
        if missing_ok and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return {}
        raise BadFile(f"cannot read {path}: {reason(error)}", hint=hint) from error
    except ValueError as error:
        raise BadFile(f"cannot read {path}: it is not JSON: {reason(error)}", hint=hint) from error
    if not isinstance(value, dict):
        raise BadFile(f"cannot read {path}: it is not a JSON object", hint=hint)
    return value


def parse_json(text: str | bytes) -> Any:
    """The value of strict JSON: no NaN, no Infinity, no number beyond the range of a float. Raises ValueError."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return value
