"""Getting the files of commits into the cache: a few at a time, and as one piece of work over all of them."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from specgen.core.errors import DownloadFailed
from specgen.core.progress import Meter, Reporting, Stopped, run_jobs
from specgen.core.words import in_words
from specgen.models.hub_client import api, constants, url_of
from specgen.models.hub_errors import explain
from specgen.models.snapshot import Snapshot
from specgen.models.transfer import Damaged, Transfer, sweep


def download(wanted: Mapping[Snapshot, Sequence[str]]) -> Reporting[None]:
    """Get those of the files, named by commit, that are not here. Raises AccessDenied, DownloadFailed, ModelNotFound.

    What does not fit the disk is not begun.
    """
    jobs: list[Callable[[Meter], object]] = []
    total = needed = 0
    short: list[str] = []
    for snapshot, names in wanted.items():
        here = set(snapshot.names_here())
        missing = [name for name in names if name not in here]
        if missing:
            listing = snapshot.listing() or {}  # unknown when the hub or the disk failed: the first file will say how
            total += sum(listing.get(name, 0) for name in names)
            needed += sum(listing.get(name, 0) for name in missing)
            short.append(snapshot.ref.name)
            jobs += [partial(_get, snapshot, name) for name in missing]
            sweep(snapshot.repository)
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
            f"{what}: {in_words(needed)} to download and {constants.HF_HUB_CACHE} has {in_words(free)} left",
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
        tqdm_class=cast("Any", transfer),  # it asks for no more than a factory
    )
    try:
        try:
            get()
        except Damaged:  # a line or a proxy may garble once
            get()
    except Stopped:
        raise
    except Exception as error:
        raise explain(error, snapshot.ref) from error
