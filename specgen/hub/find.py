"""Models of the Hugging Face hub: which commit is meant, which files are needed, and getting them.

Files lie in the cache that all tools share, under a commit's folder. A model without a revision means the commit that
is pinned, see pins.py. A name such as main moves on to a new commit only when that commit is complete here, so that a
download that failed leaves the older copy usable offline.
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
        except SpecgenError as error:  # not answered, or not allowed, any more
            unreachable = error
            commit = cached_commit(pinned)
    if commit is None:
        raise unreachable or NotCached(f"{ref} is not in the cache ({constants.HF_HUB_CACHE})", hint=_get_online(ref))
    snapshot = Snapshot(ref, commit)
    wanted = _small_files(snapshot, trust_remote_code)
    if offline or unreachable:
        header = [ref.file] if ref.file and not snapshot.header.is_file() else []
        _demand(snapshot, [name for name in wanted if name != CARD] + header, unreachable)
    else:
        yield from download({snapshot: wanted})
        if not snapshot.is_complete():
            if ref.file is not None:
                yield from fetch_header(snapshot)
            yield from _terms(snapshot, gated=gated)
    if unreachable:
        yield Notice(f"{unreachable.message}; going on with the copy of {ref} in the cache")
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
            _demand(snapshot, names, None)
    else:
        yield from download(wanted)
    return snapshots


def pin_models(snapshots: Iterable[Snapshot]) -> None:
    """Let the names of these models mean these commits from now on, and pin the models."""
    for snapshot in snapshots:
        if _pinned(snapshot.ref) == snapshot.ref:
            snapshot.update_ref()
        if snapshot.ref.revision is None:
            pins.add(snapshot.ref.source, snapshot.commit, revision_of(snapshot.ref))


def resolve(ref: ModelRef) -> tuple[str, bool]:
    """The commit that `ref` means on the hub now, and whether it is gated. Raises NotCached offline, and what `find`
    raises."""
    if constants.is_offline_mode():
        raise NotCached(f"HF_HUB_OFFLINE is set, and only the hub knows what {ref} is now", hint="unset it")
    return _resolve(ref)


def _pinned(ref: ModelRef) -> ModelRef:
    """`ref` at the commit to which its model is pinned, if it is, and if no revision is asked for."""
    pin = None if ref.revision else pins.pin_of(ref.source)
    return replace(ref, revision=pin.commit) if pin else ref


def _resolve(ref: ModelRef) -> tuple[str, bool]:
    """The commit that `ref` means now, its files listed, and whether it is gated. Raises what `explain` makes of it."""
    client = api()
    gated = False
    try:
        commit = revision_of(ref)
        if not is_commit(commit) or Snapshot(ref, commit).listing() is None:
            info = client.model_info(ref.source, revision=ref.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            commit, gated = str(info.sha), bool(info.gated)
        if Snapshot(ref, commit).listing() is None:
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
    return commit, gated


def _terms(snapshot: Snapshot, *, gated: bool) -> Reporting[None]:
    """What to know before the weights are downloaded."""
    licence = read_licence(snapshot.folder)
    if is_non_commercial(licence):
        yield Notice(
            f"{snapshot.ref.source} is not for commercial use: its licence is {licence}, see {_page(snapshot.ref)}"
        )
    if gated:
        yield gated_notice(snapshot.ref)


def gated_notice(ref: ModelRef) -> Notice:
    """What to know of a gated model."""
    return Notice(f"{ref.source} is gated: you are bound by the terms that you accepted at {_page(ref)}")


def _page(ref: ModelRef) -> str:
    return f"{constants.ENDPOINT}/{ref.source}"


def _get_online(ref: ModelRef) -> str:
    return f"get it with `specgen pull {ref}` while online (without --offline and HF_HUB_OFFLINE)"


def _demand(snapshot: Snapshot, names: Sequence[str], unreachable: SpecgenError | None) -> None:
    """Raise `unreachable`, or else NotCached, unless all of `names` are here."""
    here = snapshot.cached_names()
    missing = [name for name in names if name not in here]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise unreachable or NotCached(
            f"{snapshot.ref} is not complete in the cache: {missing[0]}{more} is missing",
            hint=_get_online(snapshot.ref),
        )


def _small_files(snapshot: Snapshot, trust_remote_code: bool) -> list[str]:
    """The files that a model needs before its weights. Raises UnsupportedModel where no weights will do.

    Where the cache does not know the names of all files, those without which no model runs are among them too.
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
    """Raise ModelNotFound unless the repository has the GGUF file that is asked for."""
    if ref.file not in names:
        others = [name for name in names if name.endswith(".gguf")]
        raise ModelNotFound(
            f"{ref.source} has no file {ref.file}",
            hint=f"it has {', '.join(others)}" if others else "it has no .gguf files",
        )
    check_parts(ref.file or "")
