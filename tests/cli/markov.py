"""Tiny checkpoints that think, answer and end: a Markov chain over letters, stirred by a small transformer.

A letter of the answer is followed by another one, most often the next in ANSWERS, and the last by the end token. After
`<think>` the letters are those of THOUGHTS, and `</think>` follows the last. The layers add noise that depends on the
context, so a fault of a cache changes the text.
"""

import json
from itertools import pairwise
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer

from tests.checkpoints import perturb
from tests.fakes import CHAT_TEMPLATE, END, START, backend

OPEN, CLOSE = "<think>", "</think>"
THOUGHTS, ANSWERS = "adgjbehkcfil", "nrvyosxqptwu"
TEMPLATES = {
    "none": CHAT_TEMPLATE,
    "by the template": CHAT_TEMPLATE.replace("assistant\n{% endif", f"assistant\n{OPEN}{{% endif"),
    "by the model": CHAT_TEMPLATE + f"{{# {OPEN} {CLOSE} #}}",
}
"""How the thinking is opened -> the chat template."""


def tokenizer() -> Tokenizer:
    made = Tokenizer.from_str(backend().to_str())
    made.add_tokens([OPEN, CLOSE])
    return made


def make_checkpoint(folder: Path, thinking: str, *, draft: bool = False) -> Path:
    """A target whose thinking is opened as TEMPLATES says, or a draft that mostly agrees with it."""
    made = tokenizer()
    size = made.get_vocab_size()
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.02,
        tie_word_embeddings=False,
        bos_token_id=None,
        pad_token_id=None,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(torch.eye(size))
        model.get_output_embeddings().weight.copy_(_chain(made, opens=thinking == "by the model") / size**0.5)
    if draft:
        perturb(model, 0.05)
    model.save_pretrained(folder)
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "chat_template": TEMPLATES[thinking]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    return folder


def _chain(made: Tokenizer, *, opens: bool) -> torch.Tensor:
    """float32 [vocab, vocab]: the logit of each token after each other one."""

    def ids(text: str) -> list[int]:
        return [made.encode(letter).ids[0] for letter in text]

    generator = torch.Generator().manual_seed(2)
    chain = torch.rand(made.get_vocab_size(), made.get_vocab_size(), generator=generator)
    end, start, opening, closing = (made.token_to_id(token) for token in (END, START, OPEN, CLOSE))
    chain[[start, opening]] -= 6.0
    chain[[end, closing]] -= 2.0
    for letters, last in ((ids(THOUGHTS), closing), (ids(ANSWERS), end)):
        chain[letters] += 2.0
        for letter, likeliest in pairwise([*letters, last]):
            chain[letters, letter] += 4.0 + 2.0 * torch.rand(len(letters), generator=generator)
            chain[likeliest, letter] += 13.0 if likeliest == last else 3.0
    chain[ids("{")] += 1.5
    line_end = made.encode("\n").ids[0]
    chain[opening if opens else ids(ANSWERS), line_end] += 18.0
    chain[ids(THOUGHTS), opening] += 10.0
    chain[ids(ANSWERS), closing] += 10.0
    return chain
