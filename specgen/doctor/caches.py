"""What lies on the disk: downloaded models, and weights packed from them."""

import os
import shutil
from pathlib import Path

from specgen.core.words import format_bytes
from specgen.doctor.finding import Finding, Verdict
from specgen.hub import cache
from specgen.nn.kernels import pack_file as packed

_LITTLE = 5 << 30


def check_models() -> Finding:
    """The Hugging Face cache."""
    models = cache.cached_models()
    count = f"{len(models)} {'model' if len(models) == 1 else 'models'}"
    found = f"{count}, {format_bytes(sum(model.size for model in models))} in {cache.folder()}"
    return _on_disk("model cache", found, cache.folder(), "set HF_HOME to a folder that you can write to")


def check_packed() -> Finding:
    """The weights that specgen packed for int8."""
    folder = packed.folder()
    size = sum(file.stat().st_size for file in folder.glob("*") if file.is_file()) if folder.is_dir() else 0
    found = f"{format_bytes(size)} in {folder}"
    return _on_disk("packed weights", found, folder, "make it writable: without it every start packs again")


def _on_disk(check: str, found: str, folder: Path, when_closed: str) -> Finding:
    """The verdict on a folder that may not exist yet: can it be written to, and is there room?"""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK):
        return Finding(check, Verdict.WARN, f"{found}, not writable", when_closed)
    free = shutil.disk_usage(there).free
    found = f"{found}, {format_bytes(free)} free there"
    if free < _LITTLE:
        return Finding(check, Verdict.WARN, found, "free some space; specgen rm deletes models")
    return Finding(check, Verdict.OK, found)
