"""Resolve a model of the hub to a commit and download its files.

Files are stored in the shared Hugging Face cache. A model without a revision means its pinned commit, see pins.py. A
branch moves to a new commit only when that commit is complete in the cache, so a failed download keeps the older copy
usable offline.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

from huggingface_hub.utils.tqdm import tqdm

from specgen.core.errors import ModelNotFound, NotCached, SpecgenError
from specgen.core.events import Notice
from specgen.core.progress import Reporting
from specgen.core.types import ModelRef
from specgen.hub import pins
from specgen.hub.client import api, constants, explain
from specgen.hub.download import download
from specgen.hub.files import (
    CARD,
    CONFIG,
    INDEX,
    SINGLE,
    check_loadable,
    check_parts,
    is_gguf_name,
    is_non_commercial,
    is_small,
    is_tokenizer,
    read_licence,
)
from specgen.hub.snapshot import Snapshot, cached_commit, is_commit, revision_of

HeaderFetcher: TypeAlias = Callable[[Snapshot], Reporting[None]]


def find(
    ref: ModelRef, *, offline: bool, trust_remote_code: bool, fetch_header: HeaderFetcher
) -> Reporting[tuple[Path, str]]:
    """Download the small files of `ref`. Returns its path and its commit.

    `fetch_header` downloads the header of a GGUF file before its terms are shown. Makes one request when all small
    files are cached, none when the model is pinned.
    """
    offline = offline or constants.is_offline_mode()
    pinned = _pinned(ref)
    unreachable: SpecgenError | None = None
    gated = False
    if offline:
        commit = cached_commit(pinned)
    else:
        try:
            commit, gated = _resolve(pinned)
        except SpecgenError as error:  # offline, or access was withdrawn: a cached copy still works
            unreachable = error
            commit = cached_commit(pinned)
    if commit is None:
        raise unreachable or NotCached(f"{ref} is not in the cache ({constants.HF_HUB_CACHE})", hint=_get_online(ref))
    snapshot = Snapshot(ref, commit)
    wanted = _small_files(snapshot, trust_remote_code)
    if offline or unreachable:
        header = [ref.file] if ref.file and not snapshot.header.is_file() else []
        _require_cached(snapshot, [name for name in wanted if name != CARD] + header, unreachable)
    else:
        yield from download({snapshot: wanted})
        if not snapshot.is_complete():
            if ref.file is not None:
                yield from fetch_header(snapshot)
            yield from _terms(snapshot, gated=gated)
    if unreachable:
        yield Notice(f"{unreachable.message}; using the cached copy of {ref}")
    if pinned == ref:
        older = cached_commit(ref)
        if older is None or not Snapshot(ref, older).is_complete():
            snapshot.update_ref()
    return snapshot.folder / (ref.file or ""), snapshot.commit


def fetch_weights(models: Iterable[tuple[ModelRef, str]], *, offline: bool) -> Reporting[list[Snapshot]]:
    """Download the weights of commits that `find` returned. Makes no request when they are cached."""
    snapshots = [Snapshot(ref, commit) for ref, commit in models]
    wanted = {snapshot: snapshot.weights() for snapshot in snapshots}
    if offline or constants.is_offline_mode():
        for snapshot, names in wanted.items():
            _require_cached(snapshot, names, None)
    else:
        yield from download(wanted)
    return snapshots


def pin_models(snapshots: Iterable[Snapshot]) -> None:
    """Point the revisions of these models to these commits, and pin the models."""
    for snapshot in snapshots:
        if _pinned(snapshot.ref) == snapshot.ref:
            snapshot.update_ref()
        if snapshot.ref.revision is None:
            pins.add(snapshot.ref.source, snapshot.commit, revision_of(snapshot.ref))


def resolve(ref: ModelRef) -> tuple[str, bool]:
    """The current commit of `ref` on the hub, and whether it is gated. Raises NotCached offline, and as `find`."""
    if constants.is_offline_mode():
        raise NotCached(f"HF_HUB_OFFLINE is set, so the hub cannot be asked for the commit of {ref}", hint="unset it")
    return _resolve(ref)


def _pinned(ref: ModelRef) -> ModelRef:
    """`ref` at the pinned commit of its model, unchanged if it has a revision or no pin."""
    pin = None if ref.revision else pins.pin_of(ref.source)
    return replace(ref, revision=pin.commit) if pin else ref


def _resolve(ref: ModelRef) -> tuple[str, bool]:
    """Resolve `ref` to a commit, and cache the list of its files. Returns the commit and whether it is gated.

    Raises the errors of `explain`.
    """
    client = api()
    gated = False
    try:
        commit = revision_of(ref)
        if not is_commit(commit) or Snapshot(ref, commit).listing() is None:
            info = client.model_info(ref.source, revision=ref.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            commit, gated = str(info.sha), bool(info.gated)
        if Snapshot(ref, commit).listing() is None:
            # Without patterns this downloads no file. It only caches the list of files, also for offline runs.
            client.snapshot_download(
                ref.source,
                revision=commit,
                cache_dir=constants.HF_HUB_CACHE,
                allow_patterns=[],
                tqdm_class=cast("Any", partial(tqdm, disable=True)),
            )
    except Exception as error:
        raise explain(error, ref) from error
    return commit, gated


def _terms(snapshot: Snapshot, *, gated: bool) -> Reporting[None]:
    """Notices about the licence, before the weights are downloaded."""
    licence = read_licence(snapshot.folder)
    if is_non_commercial(licence):
        yield Notice(
            f"{snapshot.ref.source} is not for commercial use: its licence is {licence}, see {_page(snapshot.ref)}"
        )
    if gated:
        yield gated_notice(snapshot.ref)


def gated_notice(ref: ModelRef) -> Notice:
    """The notice that a gated model has terms."""
    return Notice(f"{ref.source} is gated: you are bound by the terms that you accepted at {_page(ref)}")


def _page(ref: ModelRef) -> str:
    return f"{constants.ENDPOINT}/{ref.source}"


def _get_online(ref: ModelRef) -> str:
    return f"get it with `specgen pull {ref}` while online (without --offline and HF_HUB_OFFLINE)"


def _require_cached(snapshot: Snapshot, names: Sequence[str], unreachable: SpecgenError | None) -> None:
    """Raise `unreachable`, or NotCached if that is None, unless all of `names` are cached."""
    here = snapshot.cached_names()
    missing = [name for name in names if name not in here]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise unreachable or NotCached(
            f"{snapshot.ref} is not complete in the cache: {missing[0]}{more} is missing",
            hint=_get_online(snapshot.ref),
        )


def _small_files(snapshot: Snapshot, trust_remote_code: bool) -> list[str]:
    """The files that a model needs before its weights. Raises UnsupportedModel if specgen cannot load the weights.

    If the cached file list is missing, config.json and tokenizer.json are always included.
    """
    listing = snapshot.listing()
    names = snapshot.cached_names() if listing is None else list(listing)
    card = [name for name in names if name == CARD]
    if snapshot.ref.file is not None:
        _check_file(snapshot.ref, names if listing is not None else [snapshot.ref.file])
        return card
    if listing is not None:
        check_loadable(str(snapshot.ref), names)
    small = card + [
        name
        for name in names
        if is_small(name) or (name == INDEX and SINGLE not in names) or (name.endswith(".py") and trust_remote_code)
    ]
    if listing is None:
        small += [CONFIG] * (CONFIG not in names) + ["tokenizer.json"] * (not any(map(is_tokenizer, names)))
    return small


def _check_file(ref: ModelRef, names: Sequence[str]) -> None:
    """Raise ModelNotFound unless the repository has the requested GGUF file."""
    if ref.file not in names:
        others = [name for name in names if is_gguf_name(name)]
        raise ModelNotFound(
            f"{ref.source} has no file {ref.file}",
            hint=f"it has {', '.join(others)}" if others else "it has no .gguf files",
        )
    check_parts(ref.file or "")
