"""List and delete models in the Hugging Face cache."""

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
from specgen.hub.files import CONFIG, is_gguf_name
from specgen.hub.snapshot import Snapshot

_SHORTEST_HASH = 7  # git abbreviates to this length


@dataclass(frozen=True, slots=True)
class CachedRevision:
    """One commit of a cached model. `names` are its branches and tags. `is_complete`: all its weights are cached."""

    commit: str
    names: tuple[str, ...]
    path: Path
    is_complete: bool


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model of the hub in the cache. `size` is the bytes on disk of all revisions."""

    id: str
    path: Path
    size: int
    last_used: datetime
    revisions: tuple[CachedRevision, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """A planned deletion of cached models. Nothing is deleted before `execute`."""

    models: tuple[str, ...]
    strategies: tuple[DeleteCacheStrategy, ...]

    @property
    def freed(self) -> int:
        """The disk space to be freed, in bytes."""
        return sum(int(strategy.expected_freed_size) for strategy in self.strategies)

    def execute(self) -> None:
        """Delete the models and their pins. Raises SpecgenError if a file could not be deleted."""
        for strategy in self.strategies:
            strategy.execute()
            left = [path for path in (*strategy.repos, *strategy.snapshots) if path.exists()]
            if left:
                raise SpecgenError(f"{left[0]} could not be deleted", hint="check its permissions")
        removed = {ModelRef.parse(model).source for model in self.models}
        pins.remove(lambda model, commit: model in removed and not Snapshot(ModelRef(model), commit).folder.is_dir())


def folder() -> Path:
    """The cache folder, which may not exist yet."""
    return Path(constants.HF_HUB_CACHE)


def cached_models() -> list[CachedModel]:
    """The cached models that have a config.json or a .gguf file, sorted by name."""
    models = [_model(repo) for repo in _repositories(_scan())]
    return [model for model in models if model.revisions]


def complete_models() -> set[str]:
    """The ids of the cached models with all their weights."""
    return {model.id for model in cached_models() if any(found.is_complete for found in model.revisions)}


def plan_removal(refs: Sequence[ModelRef]) -> Removal:
    """Plan the deletion of `refs`: all revisions of a model, or one commit, branch or tag.

    Raises ModelNotFound for a model or revision that is not cached.
    """
    scan = _scan()
    known = {repo.repo_id: repo for repo in _repositories(scan)}
    chosen: dict[CachedRepoInfo, set[str]] = {}
    for ref in refs:
        repo = known.get(ref.source)
        if repo is None:
            hint = did_you_mean(ref.source, known, "`specgen list` shows the cached models")
            raise ModelNotFound(f"{ref.source} is not in the cache ({folder()})", hint=hint)
        chosen.setdefault(repo, set()).update(_commits(repo, ref.revision))
    # One strategy a repository: a renamed copy has the same commits and would be deleted too.
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
            f"{repo.repo_id} has no revision {revision} in the cache", hint="`specgen list` shows the cached models"
        )
    return commits


def _abbreviates(revision: str, commit: str) -> bool:
    """Whether `revision` is an abbreviation of `commit`."""
    return len(revision) >= _SHORTEST_HASH and commit.startswith(revision)


def _model(repo: CachedRepoInfo) -> CachedModel:
    revisions = []
    for found in sorted(repo.revisions, key=lambda found: -found.last_modified):
        names = {file.file_name for file in found.files}
        is_gguf = any(map(is_gguf_name, names))
        if is_gguf or CONFIG in names:
            is_complete = is_gguf or Snapshot(ModelRef(repo.repo_id), found.commit_hash).is_complete()
            refs = tuple(sorted(found.refs))
            revisions.append(CachedRevision(found.commit_hash, refs, found.snapshot_path, is_complete))
    last_used = datetime.fromtimestamp(repo.last_accessed, UTC)
    return CachedModel(repo.repo_id, repo.repo_path, repo.size_on_disk, last_used, tuple(revisions))
