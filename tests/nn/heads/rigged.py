"""A target and a head whose weights are right only if every convention is right.

The target picks the successor of the last token. Its states are the token's embedding, and from state 3 on also a
constant that layer 2 adds. Embeddings have a constant in dimension 0, and a code of the token in dimensions CODE.
The constant of layer 2 goes into dimensions ADDED. All embeddings have one length, so norms scale all alike.
"""

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.checkpoints import write_tokenizer
from tests.fakes import VOCAB
from tests.heads import LAYERS, SIZE, Tensors, kept_ids, random_tensors

CODE = slice(1, 17)
ADDED = slice(17, 32)
# Makes attention look at its own position alone: all queries and keys are one vector before they are turned.
_SHARP = 60.0


def codes() -> torch.Tensor:
    """float32 [vocab, code]: one direction for each token."""
    drawn = torch.randn(VOCAB, CODE.stop - CODE.start, generator=torch.Generator().manual_seed(5))
    return drawn / drawn.norm(dim=1, keepdim=True)


def successors() -> torch.Tensor:
    """The token that follows each: a cycle through the tokens that the head can propose."""
    kept = kept_ids(VOCAB)
    after = torch.full((VOCAB,), int(kept[0]))
    after[kept] = kept.roll(-1)
    return after


def write_target(folder: Path) -> Path:
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=SIZE,
        intermediate_size=8,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        eos_token_id=0,
        bos_token_id=None,
    )
    model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.model.embed_tokens.weight[:, CODE] = codes()
        attention = model.model.layers[2].self_attn
        attention.v_proj.weight[:, 0] = 1.0
        attention.o_proj.weight[ADDED, 0] = 1.0
        model.lm_head.weight[successors(), CODE] = 20 * codes()
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def added() -> float:
    """What layer 2 adds to each dimension of ADDED: the normed constant of an embedding of length sqrt(2)."""
    return float((2 / SIZE + 1e-6) ** -0.5)


def head_tensors() -> Tensors:
    """A head that picks the successor of the next token, unless state 2 has the constant of layer 2, or state 3 not."""
    tensors = random_tensors(VOCAB)
    for name, tensor in tensors.items():
        if "norm" in name:
            tensor.fill_(1.0)
        elif name not in ("d2t", "t2d"):
            tensor.zero_()
    first = ADDED.start
    # A wrong state adds much of the code of token 1 to what the layer keeps.
    wrong = 50 * codes()[1]
    fuse = tensors["fc.weight"]
    fuse[CODE, first] = wrong
    fuse[CODE, SIZE + first] = -wrong
    fuse[CODE, 2 * SIZE + first] = 2 * wrong
    fuse[CODE, 0] = -wrong * added()
    for name in "qk":
        tensors[f"layers.0.self_attn.{name}_proj.weight"][:, 0] = _SHARP
    # Values carry the code of the next token, less what the step before left: a normed code has length sqrt(SIZE).
    places = torch.arange(16)
    values = tensors["layers.0.self_attn.v_proj.weight"]
    values[places, CODE.start + places] = 1.0
    values[places, SIZE + CODE.start + places] = -added() / SIZE**0.5
    # Query heads 0 and 1 share the first value head, 2 and 3 the second.
    output = tensors["layers.0.self_attn.o_proj.weight"]
    output[CODE.start + torch.arange(8), torch.arange(8)] = 1.0
    output[CODE.start + 8 + torch.arange(8), 16 + torch.arange(8)] = 1.0
    ids = kept_ids(VOCAB)
    place = torch.full((VOCAB,), -1)
    place[ids] = torch.arange(len(ids))
    tensors["lm_head.weight"][place[successors()[ids]], CODE] = codes()[ids]
    return tensors
