"""Loads a head from disk for a loaded target."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the field's name

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.drafter_format import HeadFormat, read_format
from specgen.core.errors import BadFile, DraftMismatch, UnsupportedModel
from specgen.hub.files import DAMAGED, PICKLE
from specgen.nn.device import Placement, compute_threads
from specgen.nn.heads.eagle import EagleHead, HeadShape, Linear
from specgen.nn.interface import UNNORMED, SharedParts
from specgen.nn.lean.architecture import Architecture, read_architecture
from specgen.nn.lean.weights import Tensors

_HINT = "choose another draft"
# The keys of a layer's config that are read. Others describe the target, or what heads do not do.
_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "max_position_embeddings",
)


def load_head(checkpoint: Checkpoint, shared: SharedParts, vocab_size: int, placement: Placement) -> EagleHead:
    """Load a head for a target with `vocab_size` tokens. Its matrices are int8 where `placement` says so.

    Raises UnsupportedModel for a head that specgen does not know, DraftMismatch for one of another target, BadFile.
    """
    found = read_format(checkpoint)
    found.layers_read(shared.layers, shared.hidden_size)
    tensors = _tensors(checkpoint)
    parts = _Parts(checkpoint, found, tensors, placement)
    ids = _target_ids(tensors, vocab_size, checkpoint) if found.mapped else None
    if found.vocabulary and ids is None and found.vocabulary > vocab_size:
        raise DraftMismatch(
            f"{checkpoint.ref} scores {found.vocabulary} tokens and the target has {vocab_size}", hint=_HINT
        )
    return EagleHead(
        shape=_shape(found, checkpoint),
        fuse=parts.linear(["fc"]),
        qkv=parts.layer_linear("self_attn.", "qkv"),
        output=parts.layer_linear("self_attn.", "o"),
        gate_up=parts.layer_linear("mlp.", "gate", "up"),
        down=parts.layer_linear("mlp.", "down"),
        score=shared.score if found.vocabulary is None else parts.linear(["lm_head"]),
        embed=_embedding(tensors["embed_tokens.weight"], placement) if found.own_embedding else shared.embed,
        mlp_norm=parts.norm(found.prefix + "post_attention_layernorm"),
        token_norm=parts.norm(found.prefix + "input_layernorm") if found.kind == "eagle3" else None,
        state_norm=parts.norm(found.prefix + "hidden_norm") if found.kind == "eagle3" else None,
        norm=parts.norm("norm") if found.kind == "eagle3" else None,
        input_norms=parts.input_norms(),
        head_norms=parts.head_norms(),
        ids=None if ids is None else ids.to(placement.device),
    )


def tapped_states(checkpoint: Checkpoint, shared: SharedParts) -> tuple[int, ...]:
    """The states that a head reads, numbered as `Runner.tap` numbers them. Raises DraftMismatch.

    EAGLE-3 heads read what layers pass on. So they mean the last state before the final norm; EAGLE-1 heads after it.
    """
    found = read_format(checkpoint)
    layers = found.layers_read(shared.layers, shared.hidden_size)
    if found.kind == "eagle1":
        return layers
    return tuple(UNNORMED if layer == shared.layers else layer for layer in layers)


class _Parts:
    """Makes the layers of a head from its tensors."""

    def __init__(
        self, checkpoint: Checkpoint, found: HeadFormat, tensors: Mapping[str, torch.Tensor], placement: Placement
    ) -> None:
        self._checkpoint = checkpoint
        self._format = found
        self._tensors = tensors
        self._placement = placement

    def linear(self, names: list[str]) -> Linear:
        """One layer with the rows of the matrices `names`, and their biases where the file has them."""
        device, dtype = self._placement.device, self._placement.dtype
        weight = torch.cat([self._tensor(f"{name}.weight") for name in names])
        biases = [self._tensors[each] for name in names if (each := f"{name}.bias") in self._tensors]
        bias = torch.cat(biases).to(device, dtype) if biases else None
        if self._placement.quantized:
            return _quantized(weight, bias)
        moved = weight.to(device, dtype)
        return lambda rows: F.linear(rows, moved, bias)

    def layer_linear(self, part: str, *names: str) -> Linear:
        whole = list(names[0]) if names == ("qkv",) else list(names)
        return self.linear([f"{self._format.prefix}{part}{name}_proj" for name in whole])

    def norm(self, name: str) -> torch.Tensor:
        return self._tensor(f"{name}.weight").to(self._placement.device, self._placement.dtype)

    def input_norms(self) -> tuple[torch.Tensor, ...]:
        match self._format.input_norm:
            case "one":
                return (self.norm("input_norm"),)
            case "each":
                names = sorted(name for name in self._tensors if name.startswith("fc_norm."))
                return tuple(self.norm(name.removesuffix(".weight")) for name in names)
        return ()

    def head_norms(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        if not self._format.head_norm:
            return None
        prefix = self._format.prefix + "self_attn."
        return self.norm(prefix + "q_norm"), self.norm(prefix + "k_norm")

    def _tensor(self, name: str) -> torch.Tensor:
        if name not in self._tensors:
            raise UnsupportedModel(f"{self._checkpoint.ref} has no tensor {name}", hint=_HINT)
        return self._tensors[name]


def _quantized(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    from specgen.nn.kernels.panel_linear import PanelLinear  # noqa: PLC0415  needs llvmlite
    from specgen.nn.kernels.panels import pack  # noqa: PLC0415
    from specgen.nn.kernels.quantize import quantize_int8  # noqa: PLC0415
    from specgen.nn.kernels.team import team_of  # noqa: PLC0415

    return PanelLinear(pack(quantize_int8(weight.float().numpy())), bias, team_of(compute_threads()))


def _tensors(checkpoint: Checkpoint) -> Mapping[str, torch.Tensor]:
    files = checkpoint.weight_files
    if files[0].name == PICKLE:
        stored: Mapping[str, torch.Tensor] = torch.load(files[0], map_location="cpu", weights_only=True, mmap=True)
        return stored
    found = Tensors(files)
    return {name: found[name] for name in found.names()}


def _embedding(weight: torch.Tensor, placement: Placement) -> Callable[[torch.Tensor], torch.Tensor]:
    table = weight.to(placement.device)
    # A target's vocabulary may be padded beyond the head's. A wrong embedding spoils one guess.
    return lambda ids: F.embedding(ids.clamp(max=len(table) - 1), table).to(placement.dtype)


def _shape(found: HeadFormat, checkpoint: Checkpoint) -> HeadShape:
    architecture = read_layer(found)
    if isinstance(architecture, str):
        raise UnsupportedModel(f"{checkpoint.ref} cannot be run: {architecture}", hint=_HINT)
    rope = architecture.layers[0].rope
    assert rope is not None  # noqa: S101  a Llama layer has positions
    return HeadShape(
        heads=architecture.heads,
        kv_heads=architecture.kv_heads,
        head_size=architecture.head_size,
        norm_eps=architecture.norm_eps,
        frequencies=rope.frequencies(),
        magnitude=rope.magnitude,
        norm_before_residual=found.norm_before_residual,
        norm_output=found.norm_output,
    )


def read_layer(found: HeadFormat) -> Architecture | str:
    """The architecture of the head's layer, or the reason why specgen does not run it."""
    config: Mapping[str, Any] = found.layer_config
    if "sliding_attention" in (config.get("layer_types") or ()):
        return "its attention has a window"
    kept = {key: config[key] for key in _KEYS if config.get(key) is not None}
    fixed = {"model_type": "llama", "num_hidden_layers": 1, "vocab_size": 1, "max_position_embeddings": 2048}
    architecture = read_architecture(fixed | kept)
    if not isinstance(architecture, str) and architecture.activation != "silu":
        return f"the activation {architecture.activation}"
    return architecture


def _target_ids(tensors: Mapping[str, torch.Tensor], vocab_size: int, checkpoint: Checkpoint) -> torch.Tensor:
    """The target's id of every token of the head: int64 [vocabulary].

    `d2t` holds the difference of both ids. Some converters store the target's ids themselves. Both kinds rise strictly,
    and only the right reading stays below the vocabulary and agrees with `t2d`, where the file has it.
    """
    stored = tensors["d2t"].to(torch.int64)
    known = tensors.get("t2d")
    readings = [torch.arange(len(stored)) + stored, stored]
    for ids in readings:
        rises = bool((ids[1:] > ids[:-1]).all()) and int(ids[0]) >= 0 and int(ids[-1]) < vocab_size
        agrees = known is None or torch.equal(known.bool().nonzero()[:, 0], ids)
        if rises and agrees:
            return ids
    raise BadFile(f"{checkpoint.path}: d2t maps to no {len(stored)} tokens of the target's {vocab_size}", hint=DAMAGED)
