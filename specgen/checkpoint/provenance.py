"""The provenance of a model: commit, licence, and the SHA-256 of its files."""

import contextlib
import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.events import LoadedModel
from specgen.core.files import cache_folder, read_json, replace_file
from specgen.hub.files import is_small, read_licence

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Hashes of files from this size on, in bytes, are stored on disk.
_LARGE = 1 << 23


def loaded_model(checkpoint: Checkpoint) -> LoadedModel:
    """The provenance of a complete model. Raises BadFile.

    The first call for a large local file reads all of it.
    """
    return LoadedModel(
        id=checkpoint.ref.name,
        revision=checkpoint.commit or checkpoint.ref.revision,
        licence=licence(checkpoint),
        files=file_hashes(checkpoint),
    )


def licence(checkpoint: Checkpoint) -> str | None:
    """The licence in the model card or the GGUF header, None without one. Raises BadFile."""
    if not checkpoint.is_gguf:
        return read_licence(checkpoint.path)
    from specgen.checkpoint.gguf.header import open_header  # noqa: PLC0415  0.3 s, only for GGUF

    stated = open_header(checkpoint.header).values.get("general.license")
    if isinstance(stated, str):
        return stated
    if checkpoint.commit is None:
        return None
    from specgen.hub.snapshot import Snapshot  # noqa: PLC0415 - as above, not for local files

    return read_licence(Snapshot(checkpoint.ref, checkpoint.commit).folder)


def file_hashes(checkpoint: Checkpoint) -> dict[str, str]:
    """Name -> SHA-256 of the files on disk: weights, tokenizer and configuration. Raises BadFile."""
    if checkpoint.is_gguf:
        return {checkpoint.path.name: _file_hash(checkpoint.path)} if checkpoint.is_complete else {}
    small = [path for path in checkpoint.path.iterdir() if is_small(path.name)]
    files = {path for path in (*small, *checkpoint.weight_files) if path.is_file()}
    return {path.relative_to(checkpoint.path).as_posix(): _file_hash(path) for path in sorted(files)}


def _file_hash(path: Path) -> str:
    """The SHA-256 of a file. The hub cache names large files by their hash, verified at download."""
    blob = path.resolve()
    if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
        return blob.name
    status = blob.stat()
    return _hash(blob, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, modified: int) -> str:
    kept = _stored_hashes() if size >= _LARGE else {}
    known = kept.get(str(path))
    if known is not None and known[:2] == [size, modified]:
        return str(known[2])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if size >= _LARGE:
        _store_hashes(
            {
                **{name: value for name, value in kept.items() if Path(name).exists()},
                str(path): [size, modified, digest],
            }
        )
    return digest


def _hashes_file() -> Path:
    return cache_folder() / "hashes.json"


def _stored_hashes() -> dict[str, list[object]]:
    """Path -> size in bytes, modification time in ns, hash."""
    with contextlib.suppress(OSError, ValueError):
        kept = read_json(_hashes_file())
        if isinstance(kept, dict):
            return {name: value for name, value in kept.items() if isinstance(value, list) and len(value) == 3}
    return {}


def _store_hashes(hashes: dict[str, list[object]]) -> None:
    with contextlib.suppress(OSError):  # the next run computes it again
        replace_file(_hashes_file(), json.dumps(hashes))
