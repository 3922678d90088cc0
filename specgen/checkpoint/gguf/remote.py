"""Download the header of a .gguf file of the hub without its weights.

The size of a header is unknown until it is parsed, so ranges of doubling size are requested. The result is stored
beside the commit as a sparse file of full size, which every reader of .gguf files can read. It is deleted when the
file itself is downloaded.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path

from specgen.checkpoint.gguf.config import ROPE_FACTORS
from specgen.checkpoint.gguf.format import MAGIC, check_version
from specgen.checkpoint.gguf.header import BROKEN, Header, open_header
from specgen.core.errors import BadFile, DownloadFailed
from specgen.core.events import Notice
from specgen.core.progress import Meter, Reporting, Stopped, run_jobs
from specgen.hub.client import constants, explain, headers, url_of
from specgen.hub.download import Transfer, download, http_get_with_retries
from specgen.hub.snapshot import Snapshot

_FIRST_BYTES = 1 << 20
# The largest known vocabularies take a quarter of this.
_MAX_BYTES = 1 << 26
# Small tensors that the config is made from, a few hundred bytes each.
_CONFIG_TENSORS = (ROPE_FACTORS,)


class _NoRangesError(DownloadFailed):
    """The server ignores the Range header."""


class _Prefix(Header):
    """The header in a file without tensor data."""

    def _build_tensors(self, start_offs: int, fields: object) -> None:
        pass


class _RangeTransfer(Transfer):
    """A transfer of exactly `size` bytes. Raises _NoRangesError when more arrive."""

    def __init__(self, meter: Meter, what: str, size: int) -> None:
        super().__init__(meter, what, None)
        self._left = size

    def update(self, count: float | None = 1) -> None:
        self._left -= int(count or 0)
        if self._left < 0:
            raise _NoRangesError(f"{constants.ENDPOINT} sends no parts of files", hint="try it without the mirror")
        super().update(count)


def fetch_header(snapshot: Snapshot) -> Reporting[None]:
    """Download the header of the .gguf file that `snapshot` asks for; the whole file if the server sends no ranges.

    Raises BadFile for a file in another format, and what `download` raises.
    """
    try:
        yield from _fetch_header(snapshot)
    except _NoRangesError as error:
        yield Notice(f"{error.message}: downloading all of {snapshot.ref} before it is checked")
        yield from download({snapshot: [snapshot.ref.file or ""]})


def _fetch_header(snapshot: Snapshot) -> Reporting[None]:
    header, size = snapshot.header, (snapshot.listing() or {}).get(snapshot.ref.file or "", 0)
    if _is_complete(header, size):
        return
    new = header.with_name(f"{header.name}.{os.getpid()}")
    try:
        header.parent.mkdir(parents=True, exist_ok=True)
        snapshot.folder.mkdir(parents=True, exist_ok=True)  # deletion looks for the folders of commits
        new.touch()
        end = yield from _fetch_beginning(snapshot, new, size)
        with new.open("r+b") as file:
            file.truncate(size)
        for tensor in (open_header(new).tensor.get(name) for name in _CONFIG_TENSORS):
            if tensor is not None and (start := int(tensor.data_offset)) + int(tensor.n_bytes) > end:
                yield from _fetch_range(snapshot, new, start, start + int(tensor.n_bytes))
        new.replace(header)
    except OSError as error:
        raise explain(error, snapshot.ref) from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


def drop_headers(snapshots: Sequence[Snapshot]) -> None:
    """Delete the headers of downloaded files. Raises BadFile if a header differs from that of its file."""
    for snapshot in snapshots:
        header, whole = snapshot.header, snapshot.folder / (snapshot.ref.file or "")
        if not (header.is_file() and whole.is_file()):
            continue
        length = int(open_header(whole).data_offset)
        same = _read(header, length) == _read(whole, length)
        with suppress(OSError):
            header.unlink()
        if not same:
            raise BadFile(
                f"the header of {snapshot.ref} arrived damaged", hint="run it again: the file itself is complete"
            )


def _is_complete(header: Path, size: int) -> bool:
    try:
        open_header(header)
    except BadFile:
        return False
    return header.stat().st_size == size


def _read(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def _fetch_beginning(snapshot: Snapshot, file: Path, size: int) -> Reporting[int]:
    """Download from the start of the .gguf file until the header is complete. Returns the number of bytes."""
    end = 0
    while end < min(size, _MAX_BYTES):
        start, end = end, min(2 * end or _FIRST_BYTES, size, _MAX_BYTES)
        yield from _fetch_range(snapshot, file, start, end)
        if start == 0:
            beginning = _read(file, 8)
            if not beginning.startswith(MAGIC):
                break
            check_version(Path(snapshot.ref.name), beginning)
        if _has_header(file):
            return end
    raise BadFile(f"{snapshot.ref} is not a GGUF file", hint="choose another one")


def _has_header(file: Path) -> bool:
    try:
        return bool(_Prefix(file).data_offset <= file.stat().st_size)
    except BROKEN:
        return False


def _fetch_range(snapshot: Snapshot, file: Path, start: int, end: int) -> Reporting[None]:
    yield from run_jobs(f"the header of {snapshot.ref.name}", start, end, [partial(_get, snapshot, file, start, end)])


def _get(snapshot: Snapshot, file: Path, start: int, end: int, meter: Meter) -> None:
    name = snapshot.ref.file or ""
    part = _RangeTransfer(meter, f"{snapshot.ref.source}: {name}", end - start)
    data = BytesIO()
    try:
        url = url_of(snapshot.ref.source, name, snapshot.commit)
        asked = headers() | {"Range": f"bytes={start}-{end - 1}"}
        http_get_with_retries(url, data, headers=asked, expected_size=end - start, tqdm_class=part)
    except Stopped:
        raise
    except Exception as error:
        raise explain(error, snapshot.ref) from error
    with file.open("r+b") as opened:
        opened.seek(start)
        opened.write(data.getvalue())
