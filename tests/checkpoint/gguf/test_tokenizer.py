"""Tokenizers from GGUF headers give the ids of the original tokenizer.json, or of transformers' conversion."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from specgen.checkpoint.gguf.tokenizer import end_ids as gguf_end_ids
from specgen.checkpoint.gguf.tokenizer import pre_tokenizer_warning, read_tokenizer, share_tokenizer
from specgen.checkpoint.vocabulary import shared_range
from specgen.session.generation_defaults import end_ids
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
    """The tokenizer of fakes.py with a last token of two digits, which some pre-tokenizers split."""
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


def sentencepiece(folder: Path, architecture: str, more: tuple[str, ...] = (), **values: Any) -> Path:
    """A vocabulary with bytes, control and user-defined tokens, and scores in another order than the ids."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, *more]
    writer = gguf.GGUFWriter(folder / "m.gguf", architecture)
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(PIECES) - 2), 4, 3, *[3] * len(more)]
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


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
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


def original(path: Path, *, strip: bool = False, metaspace: bool = False) -> Tokenizer:
    """The tokenizer.json of Llama 2, Phi-3 (`strip`) or Mistral v0.3 (`metaspace`) with the vocabulary of `path`."""
    read = read_tokenizer(path)
    assert read is not None
    content = json.loads(read.to_json())
    for token in content["added_tokens"]:
        token["rstrip"] = strip and token["special"] and token["content"] not in ("<unk>", "<s>")
    space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    content["normalizer"] = None if metaspace else {"type": "Sequence", "normalizers": [prepend, replace]}
    content["pre_tokenizer"] = space if metaspace else None
    return Tokenizer.from_str(json.dumps(content))


@pytest.mark.parametrize(
    ("architecture", "more", "options"),
    [("llama", (), {}), ("phi3", (), {"strip": True}), ("llama", ("[INST]",), {"metaspace": True})],
    ids=["llama-2", "phi-3", "mistral-v0.3"],
)
def test_text_after_special_tokens_is_read_as_by_the_original(
    tmp_path: Path, architecture: str, more: tuple[str, ...], options: dict[str, bool]
) -> None:
    path = sentencepiece(tmp_path, architecture, more, add_bos_token=True)
    tokenizer, expected = read_tokenizer(path), original(path, **options)
    assert tokenizer is not None
    for text in [*SENTENCES, "<|user|> the dog", "<|user|>\n\nthe dog<s> the", "the<|user|>the</s>  the"]:
        ids = tokenizer.encode(text, special=True)
        assert ids == expected.encode(text).ids
        assert tokenizer.decode(ids) == expected.decode(ids, skip_special_tokens=True)
    after = "".join(tokenizer.token_text(token) for token in tokenizer.encode("<|user|>the", special=False))
    assert after == ("<|user|>the" if "metaspace" in options else "<|user|>\u2581the")


def test_no_space_goes_before_a_text_whose_header_says_so(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(sentencepiece(tmp_path, "llama", add_space_prefix=False, add_bos_token=False))
    assert tokenizer is not None
    assert [tokenizer.token_text(token) for token in tokenizer.encode("the", special=True)] == ["the"]
    assert tokenizer.decode(tokenizer.encode(" the", special=True)) == " the"


@pytest.mark.parametrize(
    ("pre", "says"),
    [
        ("gpt-2", ""),
        ("default", ""),
        ("a new one", "m.gguf names the unknown pre-tokenizer 'a new one': text may be split wrongly"),
        (None, "m.gguf does not name its pre-tokenizer: text is split as by GPT-2"),
    ],
)
def test_an_unknown_split_is_reported(tmp_path: Path, pre: str | None, says: str) -> None:
    path = byte_level(tmp_path, pre or "gpt-2")
    if pre is None:
        path.write_bytes(path.read_bytes().replace(b"tokenizer.ggml.pre", b"tokenizer.ggml.prx"))
    warning = pre_tokenizer_warning(path)
    assert warning.startswith(says)
    assert bool(warning) == bool(says)


def test_only_models_whose_tokens_are_equal_share_a_tokenizer(tmp_path: Path) -> None:
    paths = []
    for name, options in (
        ("a", {}),
        ("same", {}),
        ("split", {"pre": "qwen2"}),
        ("tokens", {"tokenizer": with_numbers()}),
        ("bos", {"add_bos_token": True}),
    ):
        (tmp_path / name).mkdir()
        paths.append(byte_level(tmp_path / name, **options))
    assert [share_tokenizer(paths[0], path) for path in paths] == [True, True, False, False, False]
    tokenizer = read_tokenizer(paths[0])
    assert tokenizer is not None
    assert tokenizer.size == shared_range(tokenizer, tokenizer)


def test_a_header_ends_answers_with_all_its_end_tokens(tmp_path: Path) -> None:
    hub = json.loads(fakes.backend().to_str())
    names = sorted(hub["model"]["vocab"], key=hub["model"]["vocab"].get)
    for index, text in ((5, "<|im_end|>"), (6, "<end_of_turn>"), (7, "<think>")):
        hub["model"]["vocab"][text] = hub["model"]["vocab"].pop(names[index])
    hub["model"]["merges"] = [each for each in hub["model"]["merges"] if not {names[i] for i in (5, 6, 7)} & set(each)]
    words = set(hub["model"]["vocab"])
    hub["model"]["merges"] = [each for each in hub["model"]["merges"] if {*each, "".join(each)} <= words]
    (tmp_path / "m").mkdir()
    writer = gguf.GGUFWriter(tmp_path / "m" / "m.gguf", "llama")
    add_byte_level(writer, Tokenizer.from_str(json.dumps(hub)), kinds={5: 4, 6: 4, 7: 4})
    writer.add_uint32("tokenizer.ggml.eot_token_id", 8)
    writer.add_uint32("tokenizer.ggml.eom_token_id", 9)
    checkpoint = finish(writer, tmp_path / "m" / "m.gguf")
    tokenizer = read_tokenizer(checkpoint.path)
    assert tokenizer is not None
    assert end_ids(checkpoint, tokenizer) == {0, 5, 6, 8, 9}
    assert tokenizer.decode([5, 6, 8, 9]) == "", "end tokens are not printed, whatever their type"
    assert tokenizer.decode([7]) == "<think>"


def test_a_message_of_gpt_oss_does_not_end_the_answer(tmp_path: Path) -> None:
    path = sentencepiece(tmp_path, "llama", ("<|end|>", "<|return|>", "<|call|>"))
    tokenizer = read_tokenizer(path)
    assert tokenizer is not None
    ends = {tokenizer.token_text(token) for token in gguf_end_ids(path, tokenizer)}
    assert ends == {"</s>", "<|return|>", "<|call|>"}
