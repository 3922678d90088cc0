"""One commit of a hub repository in the Hugging Face cache."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import CachedRepoTreeNotFoundError
from huggingface_hub.file_download import REGEX_COMMIT_HASH, repo_folder_name

from specgen.core.errors import SpecgenError
from specgen.core.files import read_json, read_text, replace_file
from specgen.core.types import ModelRef
from specgen.hub.client import constants, huggingface_hub
from specgen.hub.files import weight_names


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A commit of the model `ref` and its folder in the cache."""

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
        """The path of a .gguf file's header before the file is downloaded, see checkpoint/gguf/remote.py."""
        return self.repository / "headers" / self.commit / (self.ref.file or "")

    def listing(self) -> dict[str, int] | None:
        """Name -> size in bytes of all files of the commit; None if the list is not cached."""
        try:
            files = huggingface_hub.get_cached_repo_tree(
                self.ref.source, revision=self.commit, cache_dir=constants.HF_HUB_CACHE
            )
            return {file.path: int(file.size) for file in files}
        except (CachedRepoTreeNotFoundError, OSError, ValueError, LookupError, TypeError, AttributeError):
            return None  # missing or damaged: the hub is asked again

    def hashes(self) -> dict[str, str]:
        """Name -> SHA-256 of the large files. The hub lists no hash for small ones."""
        listed = self.repository / "trees" / f"{self.commit}.json"  # get_cached_repo_tree omits the hashes
        try:
            files = read_json(listed)["files"]
            return {name: file["lfs_sha256"] for name, file in files.items() if "lfs_sha256" in file}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def cached_names(self) -> list[str]:
        """The names of the cached files of the commit."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return [path.relative_to(self.folder).as_posix() for path in found]

    def weights(self) -> list[str]:
        """The names of the weight files, cached or not. Raises BadFile."""
        if self.ref.file is not None:
            return [self.ref.file]
        listing = self.listing()
        return weight_names(self.folder, self.cached_names() if listing is None else listing)

    def is_complete(self) -> bool:
        """Whether all weight files are cached."""
        here = self.cached_names()
        try:
            return all(name in here for name in self.weights())
        except SpecgenError:
            return False

    def update_ref(self) -> None:
        """Point the revision to this commit in the cache, for offline runs."""
        ref = _ref_file(self.ref)
        if self.commit in (revision_of(self.ref), cached_commit(self.ref)):
            return
        with suppress(OSError):  # a read-only cache still works
            replace_file(ref, self.commit)


def revision_of(ref: ModelRef) -> str:
    """The requested branch, tag or commit."""
    return ref.revision or constants.DEFAULT_REVISION


def is_commit(revision: str) -> bool:
    """Whether `revision` is a full commit hash."""
    return REGEX_COMMIT_HASH.fullmatch(revision) is not None


def cached_commit(ref: ModelRef) -> str | None:
    """The cached commit of `ref`, None without one."""
    revision = revision_of(ref)
    if is_commit(revision):
        return revision if Snapshot(ref, revision).folder.is_dir() else None
    with suppress(OSError, UnicodeDecodeError):
        commit = read_text(_ref_file(ref)).strip()
        return commit if is_commit(commit) else None
    return None


def _ref_file(ref: ModelRef) -> Path:
    return Snapshot(ref, "").repository / "refs" / revision_of(ref)
