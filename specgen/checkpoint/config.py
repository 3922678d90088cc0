"""Validate config.json before anything is computed or allocated from it."""

from collections.abc import Iterable, Mapping
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any

from specgen.core.errors import BadFile
from specgen.core.words import shorten

MAX_LAYERS = 2_000
# Key -> largest plausible value. The smallest is 1. A list has one value per layer.
_SIZES: Mapping[str, int] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), MAX_LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_key_value_heads"), 1 << 16),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "head_dim"), 1 << 20),
    "intermediate_size": 1 << 24,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 40,
    "n_positions": 1 << 40,
}
_POSITIVE = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "query_pre_attn_scalar", "rope_theta")
# Objects with parameters of rotary positions; each may have one object for each kind of attention.
_ROPES = ("rope_parameters", "rope_scaling", "full_attention", "sliding_attention")
_ROPE_POSITIVE = ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "model_type": (str,),
    "architectures": (list,),
    "text_config": (dict,),
    "quantization_config": (dict,),
    "eos_token_id": (int, list),
    "bos_token_id": (int, list),
    "torch_dtype": (str,),
    "dtype": (str, dict),
}
_WORDS = {str: "text", list: "a list", dict: "an object", int: "a whole number"}


def check_config(config: Mapping[str, Any], path: Path, names: Mapping[str, str] = MappingProxyType({})) -> None:
    """Raise BadFile, naming `path` and the key, for a value of the wrong type or an impossible size.

    `names` maps a key to its name in the file, where that differs.
    """
    for key, kinds in _TYPES.items():
        value = config.get(key)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise _bad(path, names.get(key, key), value, " or ".join(_WORDS[kind] for kind in kinds))
    for key, kind in (("architectures", str), ("eos_token_id", int)):
        items = config.get(key)
        if isinstance(items, list) and not all(isinstance(item, kind) for item in items):
            raise _bad(
                path, names.get(key, key), items, f"a list with only {'texts' if kind is str else 'whole numbers'}"
            )
    for key, largest in _SIZES.items():
        value = config.get(key)
        for item in value if isinstance(value, list) else [value]:
            if item is not None and (not isinstance(item, int) or isinstance(item, bool) or not 1 <= item <= largest):
                raise _bad(path, names.get(key, key), item, f"a whole number from 1 to {largest}")
    _check_positive(config, _POSITIVE, path, names)
    _check_ropes(config, path)
    if isinstance(nested := config.get("text_config"), dict):
        check_config(nested, path)


def _check_ropes(config: Mapping[str, Any], path: Path, within: str = "") -> None:
    for key in _ROPES:
        if isinstance(ropes := config.get(key), dict):
            names = {name: f"{within}{key}.{name}" for name in _ROPE_POSITIVE}
            _check_positive(ropes, _ROPE_POSITIVE, path, names)
            _check_ropes(ropes, path, f"{within}{key}.")


def _check_positive(config: Mapping[str, Any], keys: Iterable[str], path: Path, names: Mapping[str, str]) -> None:
    for key in keys:
        value = config.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf):
            raise _bad(path, names.get(key, key), value, "a number above 0")


def _bad(path: Path, key: str, value: object, expected: str) -> BadFile:
    return BadFile(
        f"{path}: {key} is {shorten(repr(value), 40)}, not {expected}",
        hint="correct the file, or download the model again",
    )
