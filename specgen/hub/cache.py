"""The models in the Hugging Face cache, which other tools use too: what is there, and deleting some of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from huggingface_hub import CachedRepoInfo, DeleteCacheStrategy, HFCacheInfo, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from specgen.core.errors import ModelNotFound, SpecgenError
from specgen.core.types import ModelRef
from specgen.core.words import did_you_mean
from specgen.hub import pins
from specgen.hub.client import constants
from specgen.hub.files import CONFIG
from specgen.hub.snapshot import Snapshot

_SHORTEST_HASH = 7  # as git abbreviates


@dataclass(frozen=True, slots=True)
class CachedRevision:
    """One commit of a cached model. `names` are the branches and tags that mean it; `is_complete` says that its weights
    are here."""

    commit: str
    names: tuple[str, ...]
    path: Path
    is_complete: bool


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model of the hub in the cache. `size` is in bytes on disk, all revisions together."""

    id: str
    path: Path
    size: int
    last_used: datetime
    revisions: tuple[CachedRevision, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """What deleting models from the cache would do. Nothing happens before `execute`."""

    models: tuple[str, ...]
    strategies: tuple[DeleteCacheStrategy, ...]

    @property
    def freed(self) -> int:
        """In bytes."""
        return sum(int(strategy.expected_freed_size) for strategy in self.strategies)

    def execute(self) -> None:
        """Delete, and unpin what is gone. Raises SpecgenError when something could not be deleted."""
        for strategy in self.strategies:
            strategy.execute()
            left = [path for path in (*strategy.repos, *strategy.snapshots) if path.exists()]
            if left:
                raise SpecgenError(f"{left[0]} could not be deleted", hint="check its permissions")
        removed = {ModelRef.parse(model).source for model in self.models}
        pins.remove(lambda model, commit: model in removed and not Snapshot(ModelRef(model), commit).folder.is_dir())


def folder() -> Path:
    """The folder of the cache, whether or not it exists."""
    return Path(constants.HF_HUB_CACHE)


def cached_models() -> list[CachedModel]:
    """The models in the cache that have a config.json or a .gguf file, by name."""
    models = [_model(repo) for repo in _repositories(_scan())]
    return [model for model in models if model.revisions]


def complete_models() -> set[str]:
    """The ids of the models in the cache whose weights are there."""
    return {model.id for model in cached_models() if any(found.is_complete for found in model.revisions)}


def plan_removal(refs: Sequence[ModelRef]) -> Removal:
    """How to delete `refs` from the cache: all revisions of a model, or one commit, branch or tag of it.

    Raises ModelNotFound for what is not in the cache.
    """
    scan = _scan()
    known = {repo.repo_id: repo for repo in _repositories(scan)}
    chosen: dict[CachedRepoInfo, set[str]] = {}
    for ref in refs:
        repo = known.get(ref.source)
        if repo is None:
            hint = did_you_mean(ref.source, known, "`specgen list` shows what is")
            raise ModelNotFound(f"{ref.source} is not in the cache ({folder()})", hint=hint)
        chosen.setdefault(repo, set()).update(_commits(repo, ref.revision))
    # Each repository by itself: a copy of it under another name has the same commits, and would go too.
    strategies = [replace(scan, repos=frozenset({repo})).delete_revisions(*commits) for repo, commits in chosen.items()]
    return Removal(tuple(str(ref) for ref in refs), tuple(strategies))


def _scan() -> HFCacheInfo:
    try:
        return scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return HFCacheInfo(size_on_disk=0, repos=frozenset(), incomplete_files=frozenset(), warnings=[])


def _repositories(scan: HFCacheInfo) -> list[CachedRepoInfo]:
    return sorted((repo for repo in scan.repos if repo.repo_type == "model"), key=lambda repo: repo.repo_id)


def _commits(repo: CachedRepoInfo, revision: str | None) -> set[str]:
    commits = {
        found.commit_hash
        for found in repo.revisions
        if revision is None or revision in found.refs or _abbreviates(revision, found.commit_hash)
    }
    if not commits:
        raise ModelNotFound(
            f"{repo.repo_id} has no revision {revision} in the cache", hint="`specgen list` shows what is"
        )
    return commits


def _abbreviates(revision: str, commit: str) -> bool:
    """Whether `revision` is the start of a commit, long enough to mean that one."""
    return len(revision) >= _SHORTEST_HASH and commit.startswith(revision)


def _model(repo: CachedRepoInfo) -> CachedModel:
    revisions = []
    for found in sorted(repo.revisions, key=lambda found: -found.last_modified):
        names = {file.file_name for file in found.files}
        is_gguf = any(name.endswith(".gguf") for name in names)
        if is_gguf or CONFIG in names:
            is_complete = is_gguf or Snapshot(ModelRef(repo.repo_id), found.commit_hash).is_complete()
            refs = tuple(sorted(found.refs))
            revisions.append(CachedRevision(found.commit_hash, refs, found.snapshot_path, is_complete))
    last_used = datetime.fromtimestamp(repo.last_accessed, UTC)
    return CachedModel(repo.repo_id, repo.repo_path, repo.size_on_disk, last_used, tuple(revisions))
