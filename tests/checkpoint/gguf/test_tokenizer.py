"""Tokenizers out of GGUF headers: the ids of the tokenizer.json they came from, or of transformers' conversion."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from specgen.checkpoint.gguf.tokenizer import read_tokenizer
from tests import fakes
from tests.fakes import CHAT_TEMPLATE, END, START
from tests.gguf_files import add_byte_level, finish

TEXTS = [
    "the quick brown fox, and THE LAZY dog's parser's don't WE'LL",
    "def parse(path):\n    return 12345 + x**2  # the error\n\n\n\t\tpass\r\n",
    "  the   dog  1  22   333 ",
    "na\u00efve cafe\u0301 \u65e5\u672c\u8a9e \U0001f600 \u2581 \u00b2\u00bd \u0663",
    f"{START}user\nhello{END}\n",
    "",
    "\n",
    "   ",
]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def with_numbers() -> Tokenizer:
    """The tokenizer of fakes.py, whose last token is two digits, which not every split lets be one."""
    content = json.loads(fakes.backend().to_str())
    model = content["model"]
    index = model["vocab"].pop("".join(model["merges"].pop()))
    model["vocab"]["12"] = index
    model["merges"].append(["1", "2"])
    return Tokenizer.from_str(json.dumps(content))


def isolated(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def digits() -> Any:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])


def byte_level(folder: Path, pre: str = "gpt-2", tokenizer: Tokenizer | None = None, **values: Any) -> Path:
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama")
    add_byte_level(writer, tokenizer or fakes.backend(), pre)
    for name, value in values.items():
        (writer.add_bool if isinstance(value, bool) else writer.add_uint32)(f"tokenizer.ggml.{name}", value)
    return finish(writer, folder / "m.gguf").path


@pytest.mark.parametrize(
    ("pre", "split", "nfc"),
    [
        ("gpt-2", lambda: pre_tokenizers.ByteLevel(add_prefix_space=False), False),
        ("default", lambda: pre_tokenizers.ByteLevel(add_prefix_space=False), False),
        ("smollm", digits, False),
        ("llama-bpe", lambda: isolated(LLAMA3), False),
        ("qwen2", lambda: isolated(LLAMA3.replace("{1,3}", "")), True),
    ],
)
def test_ids_are_those_of_the_tokenizer_json(tmp_path: Path, pre: str, split: Callable[[], Any], nfc: bool) -> None:
    hub = with_numbers()
    hub.pre_tokenizer = split()
    if nfc:
        hub.normalizer = normalizers.NFC()
    tokenizer = read_tokenizer(byte_level(tmp_path, pre, with_numbers()))
    assert tokenizer is not None
    for text in TEXTS:
        ids = tokenizer.encode(text, special=True)
        assert ids == hub.encode(text).ids
        assert tokenizer.decode(ids) == hub.decode(ids)
    assert tokenizer.vocabulary() == hub.get_vocab()
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.special_tokens == {"eos_token": END}


def test_a_piece_that_is_a_token_is_one_in_llama3_whatever_the_merges_say(tmp_path: Path) -> None:
    content = json.loads(fakes.backend().to_str())
    word = content["model"]["merges"][-1]
    content["model"]["merges"].pop()
    cut = Tokenizer.from_str(json.dumps(content))
    text = "".join(word).replace("\u0120", " ")
    for pre, count in (("llama-bpe", 1), ("gpt-2", 2)):
        (tmp_path / pre).mkdir()
        tokenizer = read_tokenizer(byte_level(tmp_path / pre, pre, cut))
        assert tokenizer is not None
        assert len(tokenizer.encode(text, special=False)) == count


@pytest.mark.parametrize(
    ("pre", "values", "before", "after"),
    [
        ("gpt-2", {"bos_token_id": 1}, [], []),
        ("gpt-2", {"bos_token_id": 1, "add_bos_token": True}, [1], []),
        ("gpt-2", {"add_eos_token": True}, [], [0]),
        ("gpt-2", {"add_bos_token": True}, [], []),  # there is none
        ("llama-bpe", {"bos_token_id": 1}, [1], []),
        ("llama-bpe", {"bos_token_id": 1, "add_bos_token": False}, [], []),
    ],
)
def test_what_goes_around_a_text(
    tmp_path: Path, pre: str, values: dict[str, Any], before: list[int], after: list[int]
) -> None:
    tokenizer = read_tokenizer(byte_level(tmp_path, pre, **values))
    assert tokenizer is not None
    plain = tokenizer.encode("dog", special=False)
    assert tokenizer.encode("dog", special=True) == [*before, *plain, *after]


@pytest.mark.parametrize("pre", ["bloom", "a new one"])
def test_an_unknown_split_is_left_to_transformers(tmp_path: Path, pre: str) -> None:
    assert read_tokenizer(byte_level(tmp_path, pre)) is None


def test_merges_that_do_not_fit_are_left_to_transformers(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b"])
    writer.add_token_merges(["a c"])
    assert read_tokenizer(finish(writer, tmp_path / "m.gguf").path) is None


PIECES = [
    "\u2581",
    "t",
    "h",
    "e",
    "th",
    "the",
    "\u2581the",
    "\u2581t",
    "o",
    "d",
    "g",
    "do",
    "\u2581dog",
    "\u2581d",
    "og",
]
PIECES += ["\u2581\u2581", "\u2581\u2581\u2581", "1", "2", "12", "\n", ".", "<", ">", "|", "<think>", "<|user|>"]


def sentencepiece(folder: Path, architecture: str, **values: Any) -> Path:
    """A vocabulary with bytes, control and user-defined tokens, and scores that are no order of ids."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    writer = gguf.GGUFWriter(folder / "m.gguf", architecture)
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(PIECES) - 2), 4, 3]
    # Enough for the configs of transformers, which are made on the way to a tokenizer.
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_head_count(4)
    writer.add_tokenizer_model("llama")
    if architecture.startswith("gemma"):  # as its files write several spaces
        tokens = ["  " if token == "\u2581\u2581" else token for token in tokens]
    writer.add_token_list(tokens)
    writer.add_token_scores([-float((7 * index) % 31) for index in range(len(tokens))])
    writer.add_token_types(kinds)
    for name, index in (("bos", 1), ("eos", 2), ("unknown", 0), ("padding", 0)):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", index)
    for name, value in values.items():
        writer.add_bool(f"tokenizer.ggml.{name}", value)
    return finish(writer, folder / "m.gguf").path


SENTENCES = [
    "the dog",
    "  the  dogthe\n\n12 21.",
    "<|user|>the dog<think> dog</s>\n the",
    "\U0001f600 caf\u00e9",
    "",
    "   ",
]


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma2", "gemma3"])
def test_sentencepiece_is_read_as_by_transformers(tmp_path: Path, architecture: str) -> None:
    path = sentencepiece(tmp_path, architecture, add_bos_token=True)
    expected = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    tokenizer = read_tokenizer(path)
    assert tokenizer is not None
    for text in SENTENCES:
        ids = tokenizer.encode(text, special=True)
        assert ids == expected(text).input_ids
        assert tokenizer.decode(ids) == expected.decode(ids, skip_special_tokens=True)
    assert tokenizer.special_tokens["bos_token"] == "<s>"


def test_no_space_goes_before_a_text_whose_header_says_so(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(sentencepiece(tmp_path, "llama", add_space_prefix=False, add_bos_token=False))
    assert tokenizer is not None
    assert [tokenizer.token_text(token) for token in tokenizer.encode("the", special=True)] == ["the"]
    assert tokenizer.decode(tokenizer.encode(" the", special=True)) == " the"
