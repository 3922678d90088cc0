"""The architecture of a Llama-like decoder, read from its config.json.

`read_architecture` returns a reason instead if the config asks for something that the lean decoder does not do.
transformers then runs the model, so that no model is run in a way that is almost right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from specgen.nn.lean.families import FAMILIES, Family, Norms
from specgen.nn.lean.read_config import Unsupported, flag, positive, whole_number
from specgen.nn.lean.rope import Rope, read_ropes

# Keys that change the computation or the cache of transformers, even if the code of a family does not read them.
_FOREIGN = (
    "quantization_config",
    "compression_config",
    "per_layer_config",
    "use_bidirectional_attention",
    "attn_logit_softcapping",
    "layer_types",
    "sliding_window",
)
# Values of the optional keys for a family that does not read them.
_NEUTRAL: Mapping[str, Any] = {
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
    "layer_types": None,
    "no_rope_layers": None,
    "embedding_multiplier": 1.0,
    "attention_multiplier": None,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
    "query_pre_attn_scalar": None,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "partial_rotary_factor": 1.0,
}
_ACTIVATIONS: Mapping[Any, Literal["silu", "gelu_tanh"]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
}


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer's properties: attention sees `window` keys (None: all); `rope` None is a layer without positions."""

    window: int | None
    rope: Rope | None


@dataclass(frozen=True, slots=True)
class Architecture:
    """All properties of a model besides its weights. Sizes are dimensions of vectors."""

    vocab_size: int
    context_length: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    layers: tuple[LayerSpec, ...]
    norms: Norms
    norm_eps: float
    unit_offset: bool
    """Whether norms store w - 1 instead of w."""
    head_norm: Literal["none", "head", "projection"]
    """The norm of queries and keys: none, over each head, or over all heads together."""
    activation: Literal["silu", "gelu_tanh"]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    fused: bool
    """Whether the checkpoint stores queries, keys and values as one tensor, and gate and up as another."""
    tied: bool
    embedding_scale: float
    attention_scale: float
    attention_cap: float | None
    residual_scale: float
    logits_divisor: float
    logits_cap: float | None


def read_architecture(config: Mapping[str, Any]) -> Architecture | str:
    """The architecture of a config, or the reason why the lean decoder does not run it."""
    try:
        return _read(config)
    except Unsupported as reason:
        return str(reason)


def _read(config: Mapping[str, Any]) -> Architecture:
    family = _family(config)
    options = dict(_NEUTRAL) | {key: config.get(key, default) for key, default in family.reads.items()}
    activation = options.get("hidden_activation", options["hidden_act"])
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise Unsupported(f"the activation {activation!r}")
    heads, kv_heads, head_size = _heads(config, options)
    hidden_size = whole_number(config, "hidden_size")
    return Architecture(
        vocab_size=whole_number(config, "vocab_size"),
        context_length=whole_number(config, "max_position_embeddings"),
        hidden_size=hidden_size,
        intermediate_size=whole_number(config, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        layers=_layers(config, options, family, head_size),
        norms=family.norms,
        norm_eps=positive(config, "rms_norm_eps"),
        unit_offset=family.unit_offset,
        head_norm=family.head_norm,
        activation=_ACTIVATIONS[activation],
        qkv_bias=family.qkv_bias or flag(options, "attention_bias"),
        output_bias=flag(options, "attention_bias"),
        mlp_bias=flag(options, "mlp_bias"),
        fused=family.fused,
        tied=flag(options, "tie_word_embeddings"),
        # Gemma, the only family with offset norms, scales embeddings without a key for it.
        embedding_scale=hidden_size**0.5 if family.unit_offset else positive(options, "embedding_multiplier"),
        attention_scale=_attention_scale(options, head_size),
        attention_cap=_cap(options, "attn_logit_softcapping"),
        residual_scale=positive(options, "residual_multiplier"),
        logits_divisor=positive(options, "logits_scaling"),
        logits_cap=_cap(options, "final_logit_softcapping"),
    )


def _family(config: Mapping[str, Any]) -> Family:
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise Unsupported(f"the model type {kind!r}")
    architectures = config.get("architectures") or [family.architecture]
    if architectures != [family.architecture]:
        raise Unsupported(f"the architecture {architectures!r}")
    for key in _FOREIGN:
        if key not in family.reads and config.get(key):
            raise Unsupported(f"{key} in a config of {kind}")
    return family


def _heads(config: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[int, int, int]:
    heads = whole_number(config, "num_attention_heads")
    kv_heads = heads if options["num_key_value_heads"] is None else whole_number(options, "num_key_value_heads")
    if heads % kv_heads:
        raise Unsupported(f"{heads} heads over {kv_heads} key and value heads")
    if options["head_dim"] is not None:
        return heads, kv_heads, whole_number(options, "head_dim")
    return heads, kv_heads, whole_number(config, "hidden_size") // heads


def _layers(
    config: Mapping[str, Any], options: dict[str, Any], family: Family, head_size: int
) -> tuple[LayerSpec, ...]:
    count = whole_number(config, "num_hidden_layers")
    options["no_rope_layers"] = rotated = _rotated(options, count)
    slides = _slides(options, family, count)
    if any(slides) and options.get("use_sliding_window") is False:
        raise Unsupported("sliding layers without use_sliding_window")
    window = whole_number(options, "sliding_window") if any(slides) else None
    full, sliding = read_ropes(config, options, family, head_size)
    return tuple(
        LayerSpec(window if slid else None, (sliding if slid else full) if turn else None)
        for slid, turn in zip(slides, rotated, strict=True)
    )


def _rotated(options: Mapping[str, Any], count: int) -> list[bool]:
    """For each layer, whether it has positions. `no_rope_layers` is 1 for a layer that has, despite its name."""
    if "no_rope_layer_interval" not in options:
        return [True] * count
    given = options["no_rope_layers"]
    if given is None:
        interval = whole_number(options, "no_rope_layer_interval")
        return [(index + 1) % interval != 0 for index in range(count)]
    if not isinstance(given, list) or len(given) < count:
        raise Unsupported(f"no_rope_layers {given!r}")
    return [bool(turn) for turn in given[:count]]


def _slides(options: Mapping[str, Any], family: Family, count: int) -> list[bool]:
    """For each layer, whether its attention has a window."""
    if family.slides is None:
        return [options["sliding_window"] is not None] * count
    types = options["layer_types"]
    if types is None:
        return [family.slides(index, options) for index in range(count)]
    known = ["full_attention", "sliding_attention"]
    if not isinstance(types, list) or len(types) != count or any(kind not in known for kind in types):
        raise Unsupported(f"layer_types {types!r}")
    return [kind == "sliding_attention" for kind in types]


def _attention_scale(options: Mapping[str, Any], head_size: int) -> float:
    if options["attention_multiplier"] is not None:
        return positive(options, "attention_multiplier")
    if options["query_pre_attn_scalar"] is not None:
        return float(whole_number(options, "query_pre_attn_scalar") ** -0.5)
    return float(head_size**-0.5)


def _cap(options: Mapping[str, Any], key: str) -> float | None:
    return None if options[key] is None else positive(options, key)
