"""Find smaller models of a family: beside a local one and in the cache by config, on the hub by name."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from specgen.checkpoint.checkpoint import Checkpoint, check_gguf
from specgen.core.errors import SpecgenError
from specgen.core.types import ModelRef
from specgen.hub.cache import cached_models
from specgen.hub.client import api, explain
from specgen.hub.files import is_gguf_name

# The size in a name: 7B, 1.5B, 135M, 0.6b.
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([BbMm])(?![A-Za-z0-9])")
# Entries of a folder that are considered. A folder of models has fewer.
_MOST_ENTRIES = 1000
_SCALES = {"b": 1e9, "m": 1e6}


def cached_siblings(target: Checkpoint) -> Iterator[Checkpoint]:
    """The complete, smaller models in the cache with the target's `model_type`. Their tokenizers are not compared."""
    is_smaller = _smaller_kin(target)
    for model in cached_models():
        if model.id != target.ref.source:
            copies = (Checkpoint(ModelRef(model.id), each.path, each.commit) for each in model.revisions)
            yield from islice(filter(is_smaller, copies), 1)


def local_siblings(target: Checkpoint) -> Iterator[Checkpoint]:
    """The complete, smaller models of the target's `model_type` in the folder that has the local `target`."""
    try:
        beside = sorted(islice(target.path.absolute().parent.iterdir(), _MOST_ENTRIES))
    except OSError:
        return
    paths = (path for path in beside if is_gguf_name(path.name) or (path / "config.json").is_file())
    found = (Checkpoint(ModelRef(str(path)), path) for path in paths if path != target.path.absolute())
    yield from filter(_smaller_kin(target), found)


def _smaller_kin(target: Checkpoint) -> Callable[[Checkpoint], bool]:
    """Whether a checkpoint is complete, has the target's `model_type`, and is smaller. A damaged one is not."""
    kind, size = _model_type(_config(target)), _weight_bytes(target)

    def is_smaller(other: Checkpoint) -> bool:
        try:
            if other.is_gguf:
                check_gguf(other.path)
            return (
                kind is not None
                and other.is_complete
                and _weight_bytes(other) < size
                and _model_type(_config(other)) == kind
            )
        except (SpecgenError, OSError):
            return False

    return is_smaller


def hub_siblings(ref: ModelRef, most: int) -> list[ModelRef]:
    """At most `most` models of the hub whose names differ from `ref` only by a smaller size, smallest first.

    Makes one request; for a .gguf file one more per model, to find its file. Raises the errors of `explain`.
    """
    owner, _, name = ref.source.partition("/")
    size = _size(name)
    if size is None:
        return []
    stem = name[: _size_match(name).start()]
    try:
        listed = [str(model.id) for model in api().list_models(author=owner, search=stem.rstrip("-_."), limit=200)]
        siblings = _smaller(ref, listed, size)[:most]
        return siblings if ref.file is None else [found for each in siblings if (found := _sibling_file(ref, each))]
    except Exception as error:
        raise explain(error, ref) from error


def _sibling_file(ref: ModelRef, sibling: ModelRef) -> ModelRef | None:
    """`sibling` with the file whose name differs from that of `ref` only by the size; None without exactly one."""
    shape = _without_size(ref.file or "")
    names = [name for name in api().list_repo_files(sibling.source) if _without_size(name) == shape]
    return replace(sibling, file=names[0]) if len(names) == 1 else None


def _smaller(ref: ModelRef, listed: list[str], size: float) -> list[ModelRef]:
    owner = ref.source.partition("/")[0]
    smaller = {
        number: listed_id
        for listed_id in listed
        if listed_id.startswith(f"{owner}/") and _without_size(listed_id) == _without_size(ref.source)
        if (number := _size(listed_id.partition("/")[2])) is not None and number < size
    }
    return [ModelRef(smaller[number]) for number in sorted(smaller)]


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The model's config, {} for a .gguf file that specgen cannot convert. Raises BadFile."""
    if not checkpoint.is_gguf:
        return checkpoint.config
    from specgen.checkpoint.gguf.config import read_config  # noqa: PLC0415  0.3 s, only for GGUF

    config = read_config(checkpoint.header)
    return {} if isinstance(config, str) else config


def _weight_bytes(checkpoint: Checkpoint) -> int:
    """The size of the weights in bytes. Weights of a .gguf file count two bytes a parameter."""
    if not checkpoint.is_gguf:
        return checkpoint.weight_bytes
    from specgen.checkpoint.gguf.header import read_header  # noqa: PLC0415 - as above

    return 2 * int(read_header(checkpoint.header)["parameters"])


def _size_match(name: str) -> re.Match[str]:
    found = _SIZE.search(name)
    assert found is not None, "only names with a size come here"  # noqa: S101
    return found


def _size(name: str) -> float | None:
    """The number of parameters in a model's name, None without one."""
    found = _SIZE.search(name)
    return float(found[1]) * _SCALES[found[2].lower()] if found else None


def _without_size(source: str) -> str:
    """A name with its size replaced by #."""
    return _SIZE.sub("#", source, count=1).lower()


def _model_type(config: dict[str, Any]) -> str | None:
    nested = config.get("text_config")
    kind = config.get("model_type") if not isinstance(nested, dict) else nested.get("model_type")
    return kind if isinstance(kind, str) else None
