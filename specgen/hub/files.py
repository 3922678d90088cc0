"""The files of a repository that a model needs, and the licence in its model card."""

import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from specgen.core.errors import BadFile, SpecgenError, UnsupportedModel
from specgen.core.files import read_object, read_small

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
"""Pickled weights. Only those of a trained drafter are read, and nothing but tensors is unpickled."""
CONFIG = "config.json"
DAMAGED = "download the model again"  # the hint for a damaged file
_SMALL = (
    CONFIG,
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "vocab*",
    "merges.txt",
)
_GGUF = ".gguf"
_TOKENIZERS = ("tokenizer.json", "*.model", "*.tiktoken", "vocab*")
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
# Suffix of weights -> the framework, and the option by which transformers 4 reads them. transformers 5 cannot.
_FRAMEWORKS = {".h5": ("TensorFlow", "from_tf=True"), ".msgpack": ("Flax", "from_flax=True")}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def is_small(name: str) -> bool:
    """Whether this is the name of a small file that models need: config, tokenizer, chat template."""
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in _SMALL)


def is_tokenizer(name: str) -> bool:
    """Whether this is the name of a tokenizer file."""
    return any(fnmatchcase(name, pattern) for pattern in _TOKENIZERS)


def is_gguf_name(name: str) -> bool:
    """Whether a file has the suffix .gguf, in any case."""
    return name.lower().endswith(_GGUF)


def check_parts(name: str, count: int = 0) -> None:
    """Raise UnsupportedModel for one part of a split .gguf file: its name says so, or its header's `count` of parts."""
    part = _PART.search(name)
    count = max(count, int(part[1]) if part else 0)
    if count > 1:
        raise UnsupportedModel(
            f"{name} is one of {count} parts",
            hint="join them with `llama-gguf-split --merge`, or choose a model in one file",
        )


def check_loadable(model: str, names: Collection[str]) -> None:
    """Raise UnsupportedModel unless files of these `names` form a model that specgen loads."""
    top = [name for name in names if "/" not in name]
    if SINGLE not in top and INDEX not in top and not _may_be_drafter(top):
        raise _no_weights(model, top)
    if CONFIG not in top:
        raise UnsupportedModel(f"{model} has no config.json", hint="choose a model in the format of transformers")


def _may_be_drafter(names: Collection[str]) -> bool:
    """Whether a repository with pickled weights may hold a trained drafter: these have no tokenizer of their own."""
    return PICKLE in names and not any(is_tokenizer(name) or name.lower().endswith(_GGUF) for name in names)


def _no_weights(model: str, names: list[str]) -> SpecgenError:
    if "adapter_config.json" in names:
        return UnsupportedModel(f"{model} is an adapter, not a whole model", hint="merge it into its base model first")
    if files := sorted(name for name in names if is_gguf_name(name)):
        more = f" (or another of {len(files)})" if len(files) > 1 else ""
        return UnsupportedModel(
            f"{model} has GGUF weights only", hint=f"name the file{more}: {model.partition('@')[0]}:{files[0]}"
        )
    if any(name.endswith(_PICKLES) for name in names):
        return pickled(model)
    for suffix, (framework, option) in _FRAMEWORKS.items():
        if any(name.endswith(suffix) for name in names):
            return UnsupportedModel(
                f"{model} has weights of {framework} only (*{suffix})",
                hint=f"convert them with transformers 4: AutoModel.from_pretrained(..., {option}).save_pretrained(...)",
            )
    return UnsupportedModel(f"{model} has no {SINGLE} and no {INDEX}", hint="choose a model with safetensors weights")


def pickled(model: str) -> SpecgenError:
    """The error for pickled weights of a model."""
    return UnsupportedModel(
        f"{model} has pickle weights only (*.bin, *.pt), which can run code when they are loaded",
        hint="choose a model with safetensors weights",
    )


def weight_names(folder: Path, names: Collection[str]) -> list[str]:
    """The weight files among `names` that are loaded.

    model.safetensors wins over the shards of the index. Other files (consolidated.safetensors, other formats) are
    ignored. The index is read from `folder`. Raises BadFile for an invalid index.
    """
    if SINGLE not in names and INDEX not in names and _may_be_drafter(names):
        return [PICKLE]
    if SINGLE in names or INDEX not in names:
        return [SINGLE]
    index = read_object(folder / INDEX, hint=DAMAGED)
    weight_map = index.get("weight_map")
    shards = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not shards or not all(isinstance(shard, str) and _is_inside(shard) for shard in shards):
        raise BadFile(f"{folder / INDEX} names no weight files", hint=DAMAGED)
    return sorted(shards)


def _is_inside(name: str) -> bool:
    """An index is untrusted: its names must stay inside the model's folder."""
    path = PurePosixPath(name)
    return name.endswith(".safetensors") and not path.is_absolute() and ".." not in path.parts


CARD = "README.md"
# Matches names of licences. Only the model's page has the terms.
_NON_COMMERCIAL = re.compile(r"\bnc\b|non-?(commercial|production)|research|academic|\b(mnpl|mrl)\b", re.IGNORECASE)


def read_licence(folder: Path) -> str | None:
    """The licence that the front matter of the model card names, None without one."""
    try:
        lines = read_small(folder / CARD).decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    end = lines.index("---", 1) if lines[:1] == ["---"] and "---" in lines[1:] else 0
    front = dict(line.split(":", 1) for line in lines[1:end] if ":" in line and not line.startswith((" ", "-")))
    name = front.get("license_name") or front.get("license") or ""
    return name.strip().strip("\"'") or None


def is_non_commercial(licence: str | None) -> bool:
    """Whether the name of a licence says that commercial use is forbidden."""
    return licence is not None and _NON_COMMERCIAL.search(licence) is not None
