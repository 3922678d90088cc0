"""The head that is trained: its parameters, its beginning, its chains of own outputs, and its folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the field's name
from safetensors.torch import save_file

from specgen.core.files import replace_file
from specgen.nn.heads.eagle import EagleHead, HeadShape, Linear, rotation_at
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.weights import EMBEDDING, HEAD, Tensors

STATES = 3
"""The number of states that the head reads."""
# The bound of the output head of a small target, and the one of a large target, in tokens.
_FEWEST_TOKENS, _MOST_TOKENS = 8192, 32768
# The embedding of the next token begins with this part of the weight that the state has.
_BESIDE = 0.1
_LAYER = "layers.0."


def states_read(layers: int) -> tuple[int, ...]:
    """The states that EAGLE-3's authors read: a low, a middle and a high one."""
    return (min(2, layers - 1), layers // 2, max(1, layers - 3))


def choose_vocabulary(counts: Sequence[int], architecture: Architecture) -> torch.Tensor:
    """The ids that the head can propose, rising: the most frequent ones of the answers, then the lowest ones.

    Its output head has about as many weights as its layer, so that neither dominates the time of a pass.
    """
    size, inner = architecture.hidden_size, architecture.intermediate_size
    layer = 8 * size * size + 3 * size * inner
    count = min(max(layer // size // 1024 * 1024, _FEWEST_TOKENS), _MOST_TOKENS, architecture.vocab_size)
    ordered = sorted(range(architecture.vocab_size), key=lambda token: (-counts[token], token))
    return torch.tensor(sorted(ordered[:count]))


class TrainableHead:
    """An EAGLE-3 head with parameters that have gradients, named like tensors of speculators.

    ids: int64 [vocabulary], see `choose_vocabulary`.
    """

    def __init__(self, architecture: Architecture, ids: torch.Tensor, device: torch.device) -> None:
        self.ids = ids
        self.architecture = architecture
        rope = architecture.layers[-1].rope or architecture.layers[0].rope
        assert rope is not None  # noqa: S101  checked by the trainer
        self._shape = HeadShape(
            heads=architecture.heads,
            kv_heads=architecture.kv_heads,
            head_size=architecture.head_size,
            norm_eps=architecture.norm_eps,
            frequencies=rope.frequencies(),
            magnitude=rope.magnitude,
        )
        size, inner = architecture.hidden_size, architecture.intermediate_size
        queries, keyed = architecture.heads * architecture.head_size, architecture.kv_heads * architecture.head_size
        shapes = {
            "fc.weight": (size, STATES * size),
            f"{_LAYER}self_attn.q_proj.weight": (queries, 2 * size),
            f"{_LAYER}self_attn.k_proj.weight": (keyed, 2 * size),
            f"{_LAYER}self_attn.v_proj.weight": (keyed, 2 * size),
            f"{_LAYER}self_attn.o_proj.weight": (size, queries),
            f"{_LAYER}mlp.gate_proj.weight": (inner, size),
            f"{_LAYER}mlp.up_proj.weight": (inner, size),
            f"{_LAYER}mlp.down_proj.weight": (size, inner),
            f"{_LAYER}hidden_norm.weight": (size,),
            f"{_LAYER}input_layernorm.weight": (size,),
            f"{_LAYER}post_attention_layernorm.weight": (size,),
            "norm.weight": (size,),
        }
        self.parameters = {name: torch.zeros(shape, device=device).requires_grad_() for name, shape in shapes.items()}
        self.output_rows = torch.zeros(len(ids), size, device=device)
        """The rows of the target's output head for `ids`, float32 [vocabulary, hidden_size]. They are not trained."""

    @torch.no_grad()
    def begin_as(self, tensors: Tensors) -> None:
        """Begin as the target's last layer, which reads the highest state."""
        size = self.architecture.hidden_size
        last = f"model.layers.{len(self.architecture.layers) - 1}."
        generator = torch.Generator().manual_seed(0)
        for name in "qkv":
            weight = self.parameters[f"{_LAYER}self_attn.{name}_proj.weight"]
            weight[:, size:] = tensors[f"{last}self_attn.{name}_proj.weight"].float()
            drawn = torch.randn(weight.shape[0], size, generator=generator) * size**-0.5
            weight[:, :size] = (_BESIDE * drawn).to(weight.device)
        for name in ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "post_attention_layernorm"):
            self.parameters[f"{_LAYER}{name}.weight"].copy_(tensors[f"{last}{name}.weight"].float())
        self.parameters[f"{_LAYER}hidden_norm.weight"].copy_(tensors[f"{last}input_layernorm.weight"].float())
        self.parameters[f"{_LAYER}input_layernorm.weight"].fill_(1.0)
        self.parameters["norm.weight"].copy_(tensors["model.norm.weight"].float())
        self.parameters["fc.weight"][:, -size:] = torch.eye(size)
        rows = tensors[HEAD if HEAD in tensors else EMBEDDING]
        self.output_rows.copy_(rows[self.ids].float())

    def head(self) -> EagleHead:
        """The network over the parameters as they are. It scores `ids`, in their order, and borrows no embedding."""
        part = {name.removeprefix(_LAYER).removesuffix(".weight"): each for name, each in self.parameters.items()}

        def linear(*names: str) -> Linear:
            weight = torch.cat([part[name] for name in names]) if len(names) > 1 else part[names[0]]
            return lambda rows: F.linear(rows, weight)

        return EagleHead(
            shape=self._shape,
            fuse=linear("fc"),
            qkv=linear(*(f"self_attn.{name}_proj" for name in "qkv")),
            output=linear("self_attn.o_proj"),
            gate_up=linear("mlp.gate_proj", "mlp.up_proj"),
            down=linear("mlp.down_proj"),
            score=lambda rows: F.linear(rows, self.output_rows),
            embed=lambda _: torch.empty(0),
            mlp_norm=part["post_attention_layernorm"],
            token_norm=part["input_layernorm"],
            state_norm=part["hidden_norm"],
            norm=part["norm"],
        )

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the parameters."""
        return {name: each.detach().clone() for name, each in self.parameters.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, each in self.parameters.items():
            each.copy_(state[name])

    def save(self, folder: Path, target: str, config: Mapping[str, Any], states: Sequence[int]) -> None:
        """Write the head as a model of speculators. `config` is the target's."""
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = torch.arange(self.architecture.vocab_size)
        tensors = {name: each.detach().to("cpu", torch.bfloat16) for name, each in self.parameters.items()}
        tensors["lm_head.weight"] = self.output_rows.to("cpu", torch.bfloat16)
        tensors["d2t"] = self.ids - torch.arange(len(self.ids))
        tensors["t2d"] = torch.isin(vocabulary, self.ids)
        partial = folder / "model.safetensors.part"
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.replace(folder / "model.safetensors")
        described = _speculators_config(self.architecture, target, config, states, len(self.ids))
        replace_file(folder / "config.json", json.dumps(described, indent=2) + "\n")


def chain(head: EagleHead, hidden: torch.Tensor, embedded: torch.Tensor, steps: int) -> list[torch.Tensor]:
    """The outputs of `steps` chained steps, each [rows, hidden_size], as in training-time test (Li et al. 2025).

    hidden: what the layer reads of the states, [rows, hidden_size]. embedded: the next tokens, of the same shape. Row
    i of step s + 1 reads the output of row i - 1 of step s. It sees the keys of step 1 up to row i - s, then those of
    its own chain: the state of a drafter after s tokens of its own. The first s rows of step s + 1 mean nothing.
    """
    shape, rows = head.shape, hidden.shape[0]
    positions = torch.arange(rows, device=hidden.device)
    rotation = rotation_at(shape, positions, hidden.dtype)
    behind = positions[:, None] - positions[None, :]
    groups = shape.heads // shape.kv_heads
    true: list[torch.Tensor] = []
    own: list[tuple[torch.Tensor, torch.Tensor]] = []
    outputs: list[torch.Tensor] = []

    def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        step = len(outputs)
        q = queries.transpose(0, 1) * shape.head_size**-0.5
        k, v = (each.transpose(0, 1).repeat_interleave(groups, 0) for each in (keys, values))
        if step == 0:
            true.extend((k, v))
        else:
            own.append((k, v))
        # A finite number, because the first rows of later steps see no key.
        scores = [(q @ true[0].transpose(1, 2)).float().masked_fill(behind < step, -1e30)]
        shifted = [tuple(_later(each, len(own) - 1 - at) for each in pair) for at, pair in enumerate(own)]
        scores += [(q * key).sum(-1, keepdim=True).float() for key, _ in shifted]
        weights = torch.cat(scores, -1).softmax(-1).to(v.dtype)
        mixed = weights[..., :rows] @ true[1]
        for at, (_, value) in enumerate(shifted):
            mixed = mixed + weights[..., rows + at, None] * value
        return mixed.transpose(0, 1).flatten(1)

    for _ in range(steps):
        outputs.append(head.layer(hidden, embedded, rotation, attend))
        hidden = _later(head.fed_back(outputs[-1])[None], 1)[0]
    return outputs


def _later(heads: torch.Tensor, by: int) -> torch.Tensor:
    """`heads` [heads, rows, size] moved to rows that are `by` later."""
    return F.pad(heads, (0, 0, by, 0))[:, : heads.shape[1]] if by else heads


def _speculators_config(
    architecture: Architecture, target: str, config: Mapping[str, Any], states: Sequence[int], vocabulary: int
) -> dict[str, Any]:
    """The config.json of a head for `target`, whose own config is `config`."""
    ropes = {name: config[name] for name in ("rope_theta", "rope_scaling", "rope_parameters") if config.get(name)}
    return {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": "0.3.0",
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [
                {"proposal_type": "greedy", "speculative_tokens": 3, "verifier_accept_k": 1, "accept_tolerance": 0.0}
            ],
            "verifier": {"name_or_path": target, "architectures": config.get("architectures") or ["LlamaForCausalLM"]},
        },
        "transformer_layer_config": {
            "model_type": "llama",
            "hidden_size": architecture.hidden_size,
            "intermediate_size": architecture.intermediate_size,
            "num_hidden_layers": 1,
            "num_attention_heads": architecture.heads,
            "num_key_value_heads": architecture.kv_heads,
            "head_dim": architecture.head_size,
            "hidden_act": "silu",
            "rms_norm_eps": architecture.norm_eps,
            "max_position_embeddings": architecture.context_length,
            "vocab_size": architecture.vocab_size,
            "attention_bias": False,
            "mlp_bias": False,
            **ropes,
        },
        "draft_vocab_size": vocabulary,
        "target_hidden_size": architecture.hidden_size,
        "norm_before_residual": False,
        "norm_before_fc": False,
        "embed_requires_grad": False,
        "eagle_aux_hidden_state_layer_ids": list(states),
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
