"""Download files of the hub: retry, resume, and verify their SHA-256.

huggingface_hub retries a few times at intervals of one second, then drops the partial file. It reuses a URL that
expires after about an hour, and it does not verify hashes. This module wraps its `http_get`: the wrapper waits longer
between tries, resumes, asks for a new URL when the old one expired, and verifies the hash before the file is renamed.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import httpx2
from filelock import FileLock, Timeout
from huggingface_hub import file_download
from huggingface_hub.errors import HfHubHTTPError

from specgen.core.errors import DownloadFailed
from specgen.core.progress import Meter, Reporting, Stopped, run_jobs
from specgen.core.words import format_bytes
from specgen.hub.client import api, constants, explain, url_of
from specgen.hub.snapshot import Snapshot

# Seconds to wait between tries. Any byte received restarts the sequence; after the last wait the download fails.
RETRY_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_NOTICE_FROM_S = 4.0  # waits this long are reported
# HTTP statuses of a temporary failure.
_TEMPORARY = (500, 502, 503, 504)
# HTTP statuses for an expired URL, from CloudFront, S3 and others.
_EXPIRED = (400, 401, 403, 410)
_INCOMPLETE = re.compile(r"(.+)\.[0-9a-f]{8}\.incomplete")
_CHUNK = 1 << 20


class DamagedDownload(DownloadFailed):
    """The downloaded bytes do not have the SHA-256 that the hub lists."""


class _RetryNow(Exception):
    """Leaves the retries of huggingface_hub's http_get for the loop in `http_get_with_retries`."""


class Transfer:
    """The download of one file. huggingface_hub uses it both as a tqdm class and as the bar.

    `what` names the file. `sha256` is the hash of the whole file, None if the hub does not list it. `locate` returns
    the current URL of the file.
    """

    def __init__(self, meter: Meter, what: str, sha256: str | None, locate: Callable[[], str] | None = None) -> None:
        self.meter = meter
        self.what = what
        self.sha256 = sha256
        self.locate = locate

    def __call__(self, **_options: Any) -> Self:
        return self

    def update(self, count: float | None = 1) -> None:
        """Count received bytes. Raises Stopped when the download was cancelled."""
        self.meter.add(int(count or 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def check(self, file: BinaryIO) -> None:
        """Raise DamagedDownload unless the file has the listed hash."""
        if self.sha256 is None:
            return
        file.flush()
        digest = hashlib.sha256()
        with Path(file.name).open("rb") as written:
            while chunk := written.read(_CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != self.sha256:
            self.update(-file.tell())
            raise DamagedDownload(
                f"{self.what} arrived damaged twice: its SHA-256 is not the one that {constants.ENDPOINT} lists",
                hint="try again later, or without the mirror or proxy",
            )


def delete_incomplete(repository: Path) -> None:
    """Delete partial files that killed processes left in a cached repository. No process resumes them."""
    for path in (repository / "blobs").glob("*.incomplete"):
        if named := _INCOMPLETE.fullmatch(path.name):
            lock = repository.parent / ".locks" / repository.name / f"{named[1]}.lock"
            try:
                with FileLock(lock, timeout=0, mode=0o664):  # a running download holds this lock
                    path.unlink(missing_ok=True)
            except (Timeout, OSError, NotImplementedError):
                continue


_http_get = file_download.http_get


def http_get_with_retries(
    url: str, temp_file: BinaryIO, *, tqdm_class: Any = None, _tqdm_bar: Any = None, **options: Any
) -> None:
    """Replaces huggingface_hub's http_get. Raises what it raises, Stopped and DamagedDownload."""
    if not isinstance(tqdm_class, Transfer):
        return _http_get(url, temp_file, tqdm_class=tqdm_class, _tqdm_bar=_tqdm_bar, **options)
    if _tqdm_bar is not None:
        raise _RetryNow  # http_get retries by calling itself, five times at intervals of one second
    options |= {"tqdm_class": tqdm_class, "_tqdm_bar": tqdm_class, "_nb_retries": 0}
    tries, had, renewed_at = 0, 0, -1
    while True:
        try:
            _http_get(url, temp_file, **options | {"resume_size": temp_file.tell()})
            return tqdm_class.check(temp_file)
        except (_RetryNow, httpx2.TransportError, HfHubHTTPError) as error:
            tries = 0 if temp_file.tell() > had else tries
            had = temp_file.tell()
            if tqdm_class.locate and had != renewed_at and _is_expired(error):  # once until a byte arrives
                url, renewed_at = tqdm_class.locate(), had
                continue
            if tries == len(RETRY_WAITS_S) or not _is_temporary(error):
                raise _cause(error) from error
        _wait(tqdm_class.meter, RETRY_WAITS_S[tries])
        tries += 1


file_download.http_get = http_get_with_retries


def _is_expired(error: Exception) -> bool:
    return isinstance(error, HfHubHTTPError) and error.response.status_code in _EXPIRED


def _is_temporary(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TEMPORARY
    return not isinstance(error, httpx2.UnsupportedProtocol)


def _cause(error: Exception) -> BaseException:
    """The error of the connection; for _RetryNow the one that http_get handled."""
    return error.__context__ if isinstance(error, _RetryNow) and error.__context__ is not None else error


def _wait(meter: Meter, seconds: float) -> None:
    if seconds >= _NOTICE_FROM_S:
        meter.say(f"the connection to {constants.ENDPOINT} broke off; trying again for a minute")
    meter.pause(seconds)


def download(wanted: Mapping[Snapshot, Sequence[str]]) -> Reporting[None]:
    """Download the files of each commit that are not cached. Raises AccessDenied, DownloadFailed, ModelNotFound.

    Checks the free disk space first.
    """
    jobs: list[Callable[[Meter], object]] = []
    total = needed = 0
    short: list[str] = []
    for snapshot, names in wanted.items():
        here = set(snapshot.cached_names())
        missing = [name for name in names if name not in here]
        if missing:
            listing = snapshot.listing() or {}  # unknown if the hub or the disk failed: the first file then raises
            total += sum(listing.get(name, 0) for name in names)
            needed += sum(listing.get(name, 0) for name in missing)
            short.append(snapshot.ref.name)
            jobs += [partial(_get, snapshot, name) for name in missing]
            delete_incomplete(snapshot.repository)
    if jobs:
        what = " and ".join(dict.fromkeys(short))
        _check_space(what, needed)
        yield from run_jobs(what, total - needed, total, jobs)


def _check_space(what: str, needed: int) -> None:
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadFailed(
            f"{what}: {format_bytes(needed)} to download, but {constants.HF_HUB_CACHE} has {format_bytes(free)} left",
            hint="free some space, or set HF_HOME to another disk",
        )


def _get(snapshot: Snapshot, name: str, meter: Meter) -> None:
    url = url_of(snapshot.ref.source, name, snapshot.commit)
    transfer = Transfer(
        meter,
        f"{snapshot.ref.source}: {name}",
        snapshot.hashes().get(name),
        lambda: api().get_hf_file_metadata(url=url).location,
    )
    get = partial(
        api().hf_hub_download,
        snapshot.ref.source,
        name,
        revision=snapshot.commit,
        cache_dir=constants.HF_HUB_CACHE,
        tqdm_class=cast("Any", transfer),  # a factory is enough
    )
    try:
        try:
            get()
        except DamagedDownload:  # a connection or a proxy may corrupt one download
            get()
    except Stopped:
        raise
    except Exception as error:
        raise explain(error, snapshot.ref) from error
