"""Where a model came from: its commit, its licence, and the SHA-256 of every file that has a say in the text."""

import contextlib
import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path

import platformdirs

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.events import LoadedModel
from specgen.hub.files import is_small, read_licence

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Smaller files are hashed every time; the hashes of larger ones are kept on disk.
_LARGE = 1 << 23


def loaded_model(checkpoint: Checkpoint) -> LoadedModel:
    """What there is to say of a model whose files are here. Raises BadFile.

    The first time that a large local file is asked for takes as long as reading it.
    """
    return LoadedModel(
        id=checkpoint.ref.name,
        revision=checkpoint.commit or checkpoint.ref.revision,
        licence=licence(checkpoint),
        files=file_hashes(checkpoint),
    )


def licence(checkpoint: Checkpoint) -> str | None:
    """What the model's card or header says; None where they say nothing. Raises BadFile."""
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
    """Name -> SHA-256 of the weights, the tokenizer and the configuration, of those that are here. Raises BadFile."""
    if checkpoint.is_gguf:
        return {checkpoint.path.name: _of_file(checkpoint.path)} if checkpoint.is_complete else {}
    small = [path for path in checkpoint.path.iterdir() if is_small(path.name)]
    files = {path for path in (*small, *checkpoint.weight_files) if path.is_file()}
    return {path.relative_to(checkpoint.path).as_posix(): _of_file(path) for path in sorted(files)}


def _of_file(path: Path) -> str:
    """The cache of the hub names large files by their hash, which was checked when they were downloaded."""
    blob = path.resolve()
    if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
        return blob.name
    status = blob.stat()
    return _hash(blob, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash(path: Path, size: int, modified: int) -> str:
    kept = _kept() if size >= _LARGE else {}
    known = kept.get(str(path))
    if known is not None and known[:2] == [size, modified]:
        return str(known[2])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if size >= _LARGE:
        _keep(
            {
                **{name: value for name, value in kept.items() if Path(name).exists()},
                str(path): [size, modified, digest],
            }
        )
    return digest


def _store() -> Path:
    return platformdirs.user_cache_path("specgen") / "hashes.json"


def _kept() -> dict[str, list[object]]:
    """Path -> size, time of the last change, hash."""
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(_store().read_text(encoding="utf-8"))
        if isinstance(kept, dict):
            return {name: value for name, value in kept.items() if isinstance(value, list) and len(value) == 3}
    return {}


def _keep(hashes: dict[str, list[object]]) -> None:
    with contextlib.suppress(OSError):  # then the next run computes it again
        _store().parent.mkdir(parents=True, exist_ok=True)
        new = _store().with_name(f"hashes.{os.getpid()}")
        new.write_text(json.dumps(hashes), encoding="utf-8")
        new.replace(_store())
