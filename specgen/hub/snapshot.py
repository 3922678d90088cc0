"""One commit of a repository of the hub, in the cache that all tools share."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import CachedRepoTreeNotFoundError
from huggingface_hub.file_download import REGEX_COMMIT_HASH, repo_folder_name

from specgen.core.errors import SpecgenError
from specgen.core.types import ModelRef
from specgen.hub.client import constants, huggingface_hub
from specgen.hub.files import weight_names


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A commit and its folder in the cache. `ref` is how it was asked for."""

    ref: ModelRef
    commit: str

    @property
    def repository(self) -> Path:
        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.ref.source, repo_type="model")

    @property
    def folder(self) -> Path:
        return self.repository / "snapshots" / self.commit

    @property
    def header(self) -> Path:
        """Where the header of a .gguf file is kept until the file is here, see gguf_remote.py."""
        return self.repository / "headers" / self.commit / (self.ref.file or "")

    def listing(self) -> dict[str, int] | None:
        """Name -> size in bytes of all files of the commit; None when the cache does not know them."""
        try:
            files = huggingface_hub.get_cached_repo_tree(
                self.ref.source, revision=self.commit, cache_dir=constants.HF_HUB_CACHE
            )
        except CachedRepoTreeNotFoundError:
            return None
        return {file.path: file.size for file in files}

    def hashes(self) -> dict[str, str]:
        """Name -> SHA-256 of the files for which the hub lists it: the large ones."""
        listed = self.repository / "trees" / f"{self.commit}.json"  # of which get_cached_repo_tree tells only a part
        try:
            files = json.loads(listed.read_text(encoding="utf-8"))["files"]
            return {name: file["lfs_sha256"] for name, file in files.items() if "lfs_sha256" in file}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def cached_names(self) -> list[str]:
        """The files of the commit that are in the cache."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return [path.relative_to(self.folder).as_posix() for path in found]

    def weights(self) -> list[str]:
        """The names of the weight files, here or not. Raises BadFile."""
        if self.ref.file is not None:
            return [self.ref.file]
        listing = self.listing()
        return weight_names(self.folder, self.cached_names() if listing is None else listing)

    def is_complete(self) -> bool:
        """Whether all weights are here."""
        here = self.cached_names()
        try:
            return all(name in here for name in self.weights())
        except SpecgenError:
            return False

    def update_ref(self) -> None:
        """Let the revision mean this commit from now on, offline."""
        ref = _ref_file(self.ref)
        if revision_of(self.ref) == self.commit or (ref.is_file() and ref.read_text() == self.commit):
            return
        with suppress(OSError):  # a cache that cannot be written still serves
            ref.parent.mkdir(parents=True, exist_ok=True)
            new = ref.with_name(f"{ref.name}.{os.getpid()}")
            new.write_text(self.commit)
            new.replace(ref)  # another process never reads half a hash


def revision_of(ref: ModelRef) -> str:
    """The branch, tag or commit that `ref` asks for."""
    return ref.revision or constants.DEFAULT_REVISION


def is_commit(revision: str) -> bool:
    """Whether it is a full hash, which always means the same."""
    return REGEX_COMMIT_HASH.fullmatch(revision) is not None


def cached_commit(ref: ModelRef) -> str | None:
    """The commit that `ref` means offline; None where the cache has none."""
    revision = revision_of(ref)
    if is_commit(revision):
        return revision if Snapshot(ref, revision).folder.is_dir() else None
    with suppress(OSError):
        return _ref_file(ref).read_text().strip()
    return None


def _ref_file(ref: ModelRef) -> Path:
    return Snapshot(ref, "").repository / "refs" / revision_of(ref)
