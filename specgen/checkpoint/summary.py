"""Summarize a model from its config and file headers, without reading weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.provenance import file_hashes, licence
from specgen.checkpoint.weights import tensor_shapes


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """The properties of a model; None means unknown. `parameters` needs the weights or a GGUF header.

    `files` maps names of the files on disk to bytes, `hashes` names to SHA-256.
    """

    id: str
    revision: str | None
    path: Path
    architecture: str | None
    parameters: int | None
    layers: int | None
    hidden_size: int | None
    vocabulary: int | None
    context_length: int | None
    dtype: str | None
    licence: str | None
    files: dict[str, int]
    hashes: dict[str, str]


def summarize(checkpoint: Checkpoint) -> ModelSummary:
    """Summarize a model. Raises BadFile."""
    return _of_gguf(checkpoint) if checkpoint.is_gguf else _of_folder(checkpoint)


def _of_folder(checkpoint: Checkpoint) -> ModelSummary:
    top = checkpoint.config
    nested = top.get("text_config")
    config = {**top, **nested} if isinstance(nested, dict) else top
    architectures = top.get("architectures") or [None]
    dtypes, parameters = _weights(checkpoint)
    return ModelSummary(
        id=checkpoint.ref.name,
        revision=checkpoint.commit,
        path=checkpoint.path,
        architecture=_first(str, {"first": architectures[0], **config}, "first", "model_type"),
        parameters=parameters,
        layers=_first(int, config, "num_hidden_layers", "n_layer"),
        hidden_size=_first(int, config, "hidden_size", "n_embd"),
        vocabulary=_first(int, config, "vocab_size"),
        context_length=_first(int, config, "max_position_embeddings", "n_positions"),
        dtype=dtypes or _first(str, config, "dtype", "torch_dtype"),
        licence=licence(checkpoint),
        files=_files(checkpoint.path),
        hashes=file_hashes(checkpoint),
    )


def _of_gguf(checkpoint: Checkpoint) -> ModelSummary:
    from specgen.checkpoint.gguf.header import read_header  # noqa: PLC0415  0.3 s, only for GGUF

    header = read_header(checkpoint.header)
    architecture = _first(str, header, "general.architecture")
    return ModelSummary(
        id=checkpoint.ref.name,
        revision=checkpoint.commit,
        path=checkpoint.path,
        architecture=architecture,
        parameters=header["parameters"],
        layers=_first(int, header, f"{architecture}.block_count"),
        hidden_size=_first(int, header, f"{architecture}.embedding_length"),
        vocabulary=_first(int, header, "tokenizer.ggml.tokens", f"{architecture}.vocab_size"),
        context_length=_first(int, header, f"{architecture}.context_length"),
        dtype=_first(str, header, "general.file_type"),
        licence=licence(checkpoint),
        files={checkpoint.path.name: checkpoint.weight_bytes} if checkpoint.is_complete else {},
        hashes=file_hashes(checkpoint),
    )


def _first(kind: type, values: Mapping[str, Any], *names: str) -> Any:
    """The value of the first of `names` whose value has type `kind`, else None."""
    return next((values[name] for name in names if isinstance(values.get(name), kind)), None)


def _weights(checkpoint: Checkpoint) -> tuple[str | None, int | None]:
    """The dtypes and the number of parameters of the weights; None if a weight file is missing."""
    files = checkpoint.weight_files
    if not all(file.is_file() for file in files):
        return None, None
    tensors = [tensor for file in files for tensor in tensor_shapes(file).values()]
    counts: dict[str, int] = {}
    for dtype, shape in tensors:
        counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
    dtypes = sorted(counts, key=lambda dtype: -counts[dtype])
    # Quantized checkpoints pack several parameters in one number, so the count would be wrong.
    packed = "quantization_config" in checkpoint.config
    return ", ".join(dtypes) or None, None if packed else sum(counts.values())


def _files(folder: Path) -> dict[str, int]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
