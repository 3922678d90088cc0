"""What a folder with a trained drafter holds, told by its tensors and shapes first, by its config second.

EAGLE-3 heads (Li et al. 2025) come in four layouts: those of their authors, of SpecForge, of speculators and of
DeepSpec. EAGLE-1 and EAGLE-2 (Li et al. 2024) share one layout. Configs are often wrong about sizes, shapes are not.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.pickled import pickled_shapes
from specgen.checkpoint.weights import tensor_shapes
from specgen.core.errors import BadFile, DraftMismatch, UnsupportedModel
from specgen.hub.files import PICKLE, pickled

Layout = Literal["official", "SpecForge", "speculators", "DeepSpec"]
Shapes = Mapping[str, tuple[int, ...]]

_LAYERS = "eagle_aux_hidden_state_layer_ids"
# Keys that only configs of heads have.
_HEAD_KEYS = ("draft_vocab_size", "truncated_vocab_size", "eagle_config", "speculators_model_type", _LAYERS)
_FUSE = "fc.weight"
_QUERIES = "self_attn.q_proj.weight"
_MATRICES = ("k_proj", "v_proj", "o_proj")
_HINT = "choose another draft"


@dataclass(frozen=True, slots=True)
class HeadFormat:
    """A head as it lies on disk. Sizes are dimensions of vectors.

    kind: `eagle3` reads several states of the target through one matrix; `eagle1` reads its last, normed state.
    prefix: the beginning of the names of the layer's tensors. layer_config: the part of config.json that describes the
    layer. inputs: the width of all states together. layers: the numbers of these states as the config gives them, None
    where it gives none. shift: what to add to them to number them like transformers' `hidden_states`.
    vocabulary: the number of tokens that the head can propose, None where it uses the target's output head.
    mapped: whether `d2t` maps these tokens to the target's. norm_before_residual, norm_output: see nn/heads/eagle.py.
    """

    kind: Literal["eagle3", "eagle1"]
    layout: Layout
    prefix: str
    layer_config: Mapping[str, Any]
    hidden_size: int
    inputs: int
    layers: tuple[int, ...] | None
    shift: int
    vocabulary: int | None
    mapped: bool
    norm_before_residual: bool
    norm_output: bool
    input_norm: Literal["none", "one", "each"]
    head_norm: bool
    own_embedding: bool

    def layers_read(self, target_layers: int, target_size: int) -> tuple[int, ...]:
        """The states that the head reads, numbered like transformers' `hidden_states`.

        Raises DraftMismatch for a target whose layers or states do not fit.
        """
        if self.kind == "eagle1":
            if self.inputs != target_size:
                raise DraftMismatch(self._other_size(target_size), hint=_HINT)
            return (target_layers,)
        count, rest = divmod(self.inputs, target_size)
        if rest or not count:
            raise DraftMismatch(self._other_size(target_size), hint=_HINT)
        layers = tuple(layer + self.shift for layer in self.layers) if self.layers else _default_layers(target_layers)
        if len(layers) != count:
            raise DraftMismatch(
                f"the head reads {count} states of {target_size} numbers, and its config names {len(layers)} layers",
                hint=_HINT,
            )
        if not all(0 <= layer <= target_layers for layer in layers):
            raise DraftMismatch(
                f"the head reads layer {max(layers)} and the target has {target_layers}: it is for another target",
                hint=_HINT,
            )
        return layers

    def _other_size(self, target_size: int) -> str:
        return f"the head reads states of {self.inputs} numbers, which {target_size} of the target do not divide"


def _default_layers(count: int) -> tuple[int, ...]:
    """The states of EAGLE-3's authors: a low, a middle and a high one."""
    return (2, count // 2, count - 3)


def is_head(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is a head: by its tensors, or by its config where they cannot be read."""
    if checkpoint.is_gguf:
        return False
    if checkpoint.is_complete:
        with suppress(BadFile):  # loading reports it
            return _FUSE in head_shapes(checkpoint)
    config = checkpoint.config
    names = [str(name) for name in config.get("architectures") or []]
    pickled = checkpoint.weight_files[0].name == PICKLE and config.get("num_hidden_layers") == 1
    return pickled or any(key in config for key in _HEAD_KEYS) or any("Eagle" in name for name in names)


def refuse_pickle(checkpoint: Checkpoint) -> None:
    """Raise UnsupportedModel for pickled weights of anything but a head, BadFile for a damaged head."""
    if checkpoint.is_gguf or checkpoint.weight_files[0].name != PICKLE:
        return
    if not is_head(checkpoint):
        raise pickled(str(checkpoint.ref))
    if checkpoint.is_complete:
        head_shapes(checkpoint)


def head_shapes(checkpoint: Checkpoint) -> Shapes:
    """The names and shapes of a head's tensors. Raises BadFile."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in checkpoint.weight_files:
        if path.name == PICKLE:
            shapes |= pickled_shapes(path)
        else:
            shapes |= {name: tuple(shape) for name, (_, shape) in tensor_shapes(path).items()}
    return shapes


def read_format(checkpoint: Checkpoint) -> HeadFormat:
    """Read what a complete head is. Raises UnsupportedModel, naming what specgen does not know, and BadFile."""
    config, shapes = checkpoint.config, head_shapes(checkpoint)
    prefix = "midlayer." if any(name.startswith("midlayer.") for name in shapes) else "layers.0."
    _check(checkpoint, shapes, prefix)
    nested = config.get("transformer_layer_config")
    hidden = shapes[prefix + "self_attn.o_proj.weight"][0]
    wide = shapes[prefix + _QUERIES][1] == 2 * hidden
    layers, shift, layout = _layer_numbers(config, prefix)
    inputs = shapes[_FUSE][1]
    input_norm: Literal["none", "one", "each"] = "none"
    if "input_norm.weight" in shapes:
        input_norm = "one"
    elif "fc_norm.0.weight" in shapes:
        input_norm = "each"
    head = shapes.get("lm_head.weight")
    return HeadFormat(
        kind="eagle3" if wide else "eagle1",
        layout=layout,
        prefix=prefix,
        layer_config=nested if isinstance(nested, dict) else config,
        hidden_size=hidden,
        inputs=inputs if wide else inputs - hidden,
        layers=layers,
        shift=shift,
        vocabulary=head[0] if head and wide else None,
        mapped="d2t" in shapes,
        norm_before_residual=config.get("norm_before_residual") is True,
        norm_output=config.get("norm_output") is True,
        input_norm=input_norm,
        head_norm=prefix + "self_attn.q_norm.weight" in shapes,
        own_embedding="embed_tokens.weight" in shapes and wide,
    )


def _check(checkpoint: Checkpoint, shapes: Shapes, prefix: str) -> None:
    """Raise UnsupportedModel unless `shapes` are those of one EAGLE layer."""
    needed = [_FUSE, prefix + _QUERIES, *(f"{prefix}self_attn.{name}.weight" for name in _MATRICES)]
    needed += [f"{prefix}mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    if missing := [name for name in needed if name not in shapes]:
        raise UnsupportedModel(f"{checkpoint.ref} is no head that specgen knows: it has no {missing[0]}", hint=_HINT)
    if "layers.1.mlp.down_proj.weight" in shapes:
        raise UnsupportedModel(f"{checkpoint.ref} has several layers, and specgen runs heads of one", hint=_HINT)
    if "mask_hidden" in shapes:
        raise UnsupportedModel(f"{checkpoint.ref} is a P-EAGLE head, which specgen does not run", hint=_HINT)
    hidden = shapes[prefix + "self_attn.o_proj.weight"][0]
    if shapes[_FUSE][0] != hidden or shapes[prefix + _QUERIES][1] not in (hidden, 2 * hidden):
        raise UnsupportedModel(
            f"{checkpoint.ref}: {_FUSE} {list(shapes[_FUSE])} and {prefix}{_QUERIES}"
            f" {list(shapes[prefix + _QUERIES])} do not fit a hidden size of {hidden}",
            hint=_HINT,
        )


def _layer_numbers(config: Mapping[str, Any], prefix: str) -> tuple[tuple[int, ...] | None, int, Layout]:
    """The layers that a config names, what to add to number them like `hidden_states`, and the layout.

    speculators numbers states. SpecForge numbers the layers whose output is read; newer files, whose first number is
    not 1, number states. DeepSpec numbers layers too.
    """
    nested = config.get("eagle_config")
    if "speculators_model_type" in config or "speculators_config" in config:
        return _numbers(config.get(_LAYERS)), 0, "speculators"
    if isinstance(nested, dict):
        layers = _numbers(nested.get(_LAYERS, nested.get("layer_ids")))
        return layers, 1 if layers and layers[0] == 1 else 0, "SpecForge"
    if "target_layer_ids" in config:
        return _numbers(config["target_layer_ids"]), 1, "DeepSpec"
    layout: Layout = "official" if prefix == "midlayer." else "DeepSpec"
    return _numbers(config.get(_LAYERS)), 0, layout


def _numbers(value: object) -> tuple[int, ...] | None:
    """A list of layers, None for a missing one. Raises UnsupportedModel for anything else."""
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(type(layer) is int for layer in value):
        raise UnsupportedModel(f"the head's config names the layers {value!r}", hint=_HINT)
    return tuple(value)


def describe_head(checkpoint: Checkpoint) -> dict[str, str]:
    """What specgen understands of a head, in words. Raises UnsupportedModel, BadFile."""
    if not checkpoint.is_complete:
        return {"drafter": "a head; its tensors tell more once they are downloaded"}
    found = read_format(checkpoint)
    if found.kind == "eagle1":
        states = "the last, after the final norm"
    elif found.layers is None:
        states = "2, n / 2 and n - 3 of a target with n layers"
    else:
        numbers = ", ".join(str(layer + found.shift) for layer in found.layers)
        states = f"{numbers} (numbered as layers in the file)" if found.shift else numbers
    switches = {
        "of each state": found.input_norm == "each",
        "of all states": found.input_norm == "one",
        "before the residual": found.norm_before_residual,
        "of what is fed back": found.norm_output,
        "of queries and keys": found.head_norm,
    }
    of = f"{found.vocabulary} tokens" if found.vocabulary else "the target's output head"
    return {
        "drafter": f"{'EAGLE-3' if found.kind == 'eagle3' else 'EAGLE-1'} head in the layout of {found.layout}",
        "states read": states,
        "proposes": f"{of}, mapped to the target's" if found.mapped else of,
        "norms": ", ".join(name for name, on in switches.items() if on) or "the usual ones",
        "embedding": "its own" if found.own_embedding else "the target's",
    }
