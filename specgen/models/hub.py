"""Models of the Hugging Face hub: which commit is meant, which files are needed, and getting them.

Files lie in the cache that all tools share, under a commit's folder. A name such as main moves on to a new commit
only when that commit is complete here, so that a download that failed leaves the older copy usable offline.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, cast

from huggingface_hub.errors import CachedRepoTreeNotFoundError
from huggingface_hub.file_download import REGEX_COMMIT_HASH, repo_folder_name
from huggingface_hub.utils.tqdm import tqdm

from specgen.core import ModelRef
from specgen.errors import DownloadFailed, NotCached, SpecgenError
from specgen.events import Notice
from specgen.models.hub_client import api, constants, huggingface_hub
from specgen.models.hub_errors import explain
from specgen.models.reporting import Meter, Reporting, run_jobs
from specgen.models.transfer import Damaged, Transfer, sweep
from specgen.models.weights import CONFIG, INDEX, SINGLE, check_loadable, weight_names

_SMALL = (
    CONFIG,
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "vocab*",
    "merges.txt",
)
_CARD = "README.md"  # has the licence; a model runs without it
_TOKENIZERS = ("tokenizer.json", "*.model", "*.tiktoken", "vocab*")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One commit of a repository and its folder in the cache."""

    ref: ModelRef
    commit: str

    @property
    def repository(self) -> Path:
        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.ref.source, repo_type="model")

    @property
    def folder(self) -> Path:
        return self.repository / "snapshots" / self.commit

    def listing(self) -> dict[str, int] | None:
        """Name -> size in bytes of all files of the commit; None when the cache does not know them."""
        files = self._tree()
        return None if files is None else {file.path: file.size for file in files}

    def hashes(self) -> dict[str, str]:
        """Name -> SHA-256 of the files for which the hub lists it: the large ones."""
        return {file.path: file.lfs.sha256 for file in self._tree() or () if file.lfs is not None}

    def _tree(self) -> list[huggingface_hub.RepoFile] | None:
        try:
            return huggingface_hub.get_cached_repo_tree(
                self.ref.source, revision=self.commit, cache_dir=constants.HF_HUB_CACHE
            )
        except CachedRepoTreeNotFoundError:
            return None

    def names_here(self) -> list[str]:
        """The files of the commit that are in the cache."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return [path.relative_to(self.folder).as_posix() for path in found]

    def point_to(self) -> None:
        """Let the revision mean this commit from now on, offline."""
        ref = _ref_file(self.ref)
        if _revision(self.ref) == self.commit or (ref.is_file() and ref.read_text() == self.commit):
            return
        with suppress(OSError):  # a cache that cannot be written still serves
            ref.parent.mkdir(parents=True, exist_ok=True)
            new = ref.with_name(f"{ref.name}.{os.getpid()}")
            new.write_text(self.commit)
            new.replace(ref)  # another process never reads half a hash


def find(ref: ModelRef, *, offline: bool, trust_remote_code: bool) -> Reporting[tuple[Path, str]]:
    """Get the small files of `ref`; its folder and its commit. Asks the hub one thing when all of them are here."""
    offline = offline or constants.is_offline_mode()
    unreachable: SpecgenError | None = None
    if offline:
        snapshot = _cached(ref)
    else:
        try:
            snapshot = _resolve(ref)
        except DownloadFailed as error:
            unreachable = error
            snapshot = _cached(ref, unreachable)
    here = snapshot.names_here()
    listing = snapshot.listing()
    if listing is not None:
        check_loadable(str(ref), listing)
    wanted = _small_files(listing if listing is not None else here, trust_remote_code)
    if offline or unreachable:
        _demand(ref, [name for name in wanted if name != _CARD], here, unreachable)
    else:
        yield from _download(snapshot, wanted)
    if unreachable:
        yield Notice(f"{unreachable.message}; going on with the copy of {ref} in the cache")
    older = _cached_commit(ref)
    if older is None or not _complete(Snapshot(ref, older)):
        snapshot.point_to()
    return snapshot.folder, snapshot.commit


def fetch_weights(ref: ModelRef, commit: str, *, offline: bool) -> Reporting[None]:
    """Get the weights of a commit that `find` returned. Asks the hub nothing when they are here."""
    snapshot = Snapshot(ref, commit)
    listing = snapshot.listing()
    here = snapshot.names_here()
    wanted = weight_names(snapshot.folder, here if listing is None else listing)
    if offline or constants.is_offline_mode():
        _demand(ref, wanted, here, None)
    else:
        yield from _download(snapshot, wanted)
    snapshot.point_to()


def _resolve(ref: ModelRef) -> Snapshot:
    """The commit that `ref` means now, its files listed. Raises what `explain` makes of a failure."""
    client = api()
    try:
        commit = _revision(ref)
        if not REGEX_COMMIT_HASH.fullmatch(commit):
            info = client.model_info(ref.source, revision=ref.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            commit = str(info.sha)
        snapshot = Snapshot(ref, commit)
        if snapshot.listing() is None:
            # No pattern, no file: this only leaves the list of files in the cache, for this run and for offline ones.
            client.snapshot_download(
                ref.source,
                revision=commit,
                cache_dir=constants.HF_HUB_CACHE,
                allow_patterns=[],
                tqdm_class=cast("Any", partial(tqdm, disable=True)),
            )
    except Exception as error:
        raise explain(error, ref) from error
    return snapshot


def _revision(ref: ModelRef) -> str:
    return ref.revision or constants.DEFAULT_REVISION


def _ref_file(ref: ModelRef) -> Path:
    return Snapshot(ref, "").repository / "refs" / _revision(ref)


def _cached_commit(ref: ModelRef) -> str | None:
    revision = _revision(ref)
    if REGEX_COMMIT_HASH.fullmatch(revision):
        return revision if Snapshot(ref, revision).folder.is_dir() else None
    with suppress(OSError):
        return _ref_file(ref).read_text().strip()
    return None


def _cached(ref: ModelRef, unreachable: SpecgenError | None = None) -> Snapshot:
    commit = _cached_commit(ref)
    if commit is None:
        raise unreachable or NotCached(f"{ref} is not in the cache ({constants.HF_HUB_CACHE})", hint=_get_online(ref))
    return Snapshot(ref, commit)


def _get_online(ref: ModelRef) -> str:
    return f"get it with `specgen pull {ref}` while online (without --offline and HF_HUB_OFFLINE)"


def _demand(ref: ModelRef, names: Sequence[str], here: Sequence[str], unreachable: SpecgenError | None) -> None:
    """Raise `unreachable`, or else NotCached, unless all of `names` are `here`."""
    missing = [name for name in names if name not in here]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise unreachable or NotCached(
            f"{ref} is not complete in the cache: {missing[0]}{more} is missing", hint=_get_online(ref)
        )


def _small_files(names: Sequence[str] | dict[str, int], trust_remote_code: bool) -> list[str]:
    """Those of `names` that a model needs before its weights. Where the names are only those of the files that are
    here, the files without which no model runs are among the wanted ones too."""
    small = [
        name
        for name in names
        if ("/" not in name and any(fnmatchcase(name, pattern) for pattern in _SMALL))
        or (name == INDEX and SINGLE not in names)
        or (name.endswith(".py") and trust_remote_code)
        or name == _CARD
    ]
    if not isinstance(names, dict):
        has_tokenizer = any(fnmatchcase(name, pattern) for name in names for pattern in _TOKENIZERS)
        small += [CONFIG] * (CONFIG not in names) + ["tokenizer.json"] * (not has_tokenizer)
    return small


def _complete(snapshot: Snapshot) -> bool:
    here = snapshot.names_here()
    names = snapshot.listing() or here
    try:
        return all(name in here for name in weight_names(snapshot.folder, names))
    except SpecgenError:
        return False


def _download(snapshot: Snapshot, names: Sequence[str]) -> Reporting[None]:
    """Get those of `names` that are not here, in a few threads, as one Progress over all of them."""
    here = set(snapshot.names_here())
    missing = [name for name in names if name not in here]
    if not missing:
        return
    listing = snapshot.listing() or {}  # unknown when the hub or the disk failed: the first file will say how
    total = sum(listing.get(name, 0) for name in names)
    needed = sum(listing.get(name, 0) for name in missing)
    _check_space(snapshot.ref, needed)
    jobs: list[Callable[[Meter], object]] = [partial(_get, snapshot, name) for name in missing]
    try:
        sweep(snapshot.repository)
        yield from run_jobs(snapshot.ref.source, total - needed, total, jobs)
    except Exception as error:
        raise explain(error, snapshot.ref) from error


def _check_space(ref: ModelRef, needed: int) -> None:
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadFailed(
            f"{ref} needs {needed / 1e9:.1f} GB and {constants.HF_HUB_CACHE} has {free / 1e9:.1f} GB left",
            hint="free some space, or set HF_HOME to another disk",
        )


def _get(snapshot: Snapshot, name: str, meter: Meter) -> None:
    transfer = Transfer(meter, f"{snapshot.ref.source}: {name}", snapshot.hashes().get(name))
    get = partial(
        api().hf_hub_download,
        snapshot.ref.source,
        name,
        revision=snapshot.commit,
        cache_dir=constants.HF_HUB_CACHE,
        tqdm_class=cast("Any", transfer),  # it asks for no more than a factory
    )
    try:
        get()
    except Damaged:  # a line or a proxy may garble once
        get()
