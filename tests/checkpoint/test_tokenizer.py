"""Every comparison is with transformers' AutoTokenizer, on tokenizers small enough to make here."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import BadFile, UnsupportedModel

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two  spaces\n\tand a tab \n",
    "naïve e\u0301 你好 👩‍👩‍👧 \x00",
    "<s>hello</s> there<s> <|im_start|>user\nhi <|im_end|>",
    "<tool> hello <tool>hello",
    "don 't , no . 1234",
]


def byte_level_bpe() -> Backend:
    """A tokenizer like Llama 3's: byte-level BPE with a BOS post-processor."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["hello there, hello world and a tab"] * 3, trainer)
    backend.add_tokens([AddedToken("<tool>", special=False)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
    )
    return backend


BYTE_LEVEL = Tokenizer(byte_level_bpe())


def sentencepiece_bpe() -> Backend:
    """A tokenizer like Llama 2's: BPE over characters, unknown ones as bytes, a space as ▁."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"helowrdtan,!"]
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("▁", "hello"), ("▁", "w"), ("▁", "t")]
    pieces += ["".join(merge) for merge in merges]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Backend(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return backend


def metaspace_bpe() -> Backend:
    backend = sentencepiece_bpe()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    return backend


def prepend_bpe() -> Backend:
    backend = sentencepiece_bpe()
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return backend


def word_piece() -> Backend:
    pieces = ["[UNK]", "hello", "there", ",", ".", "don", "'", "t", "no", "##llo"]
    backend = Backend(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    return backend


def folder(path: Path, backend: Backend, config: dict[str, Any] | None = None, **files: object) -> Path:
    """A model folder with `backend`. `files` are named without .json."""
    backend.save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"} | (config or {})
    for name, content in {"config": {"model_type": "llama"}, "tokenizer_config": config, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def opened(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(path)
    assert tokenizer is not None
    return tokenizer


def assert_as_transformers(path: Path) -> Tokenizer:
    ours, theirs = opened(path), AutoTokenizer.from_pretrained(path)
    for text in TEXTS:
        for special in (True, False):
            ids = theirs(text, add_special_tokens=special)["input_ids"]
            assert ours.encode(text, special=special) == ids
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.vocabulary() == theirs.get_vocab()
    assert ours.special_tokens == theirs.special_tokens_map
    return ours


@pytest.mark.parametrize("make", [byte_level_bpe, metaspace_bpe, prepend_bpe, word_piece])
def test_ids_and_text_are_those_of_transformers(tmp_path: Path, make: Any) -> None:
    assert_as_transformers(folder(tmp_path, make()))


def test_llama_class_with_metaspace(tmp_path: Path) -> None:
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "unk_token": "<unk>"}
    assert_as_transformers(folder(tmp_path, metaspace_bpe(), config))


def test_qwen_class_normalizes_even_where_its_file_does_not_say_so(tmp_path: Path) -> None:
    backend = byte_level_bpe()
    split = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split + r"|\s*[\r\n]+|\s+(?!\S)|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    config = {"tokenizer_class": "Qwen2Tokenizer", "unk_token": None, "pad_token": "</s>"}
    ours = assert_as_transformers(folder(tmp_path, backend, config))
    assert ours.encode("e\u0301", special=False) == ours.encode("é", special=False)


@given(text=st.text(st.characters(exclude_categories=("Cs",))))
def test_byte_level_gives_any_text_back(text: str) -> None:
    ids = BYTE_LEVEL.encode(text, special=True)
    assert BYTE_LEVEL.decode(ids) == text.replace("<s>", "").replace("</s>", "")


def test_saved_truncation_and_padding_are_off(tmp_path: Path) -> None:
    backend = byte_level_bpe()
    backend.enable_truncation(3)
    backend.enable_padding(length=64, pad_token="</s>", pad_id=1)
    config = {"pad_token": "</s>"}
    ids = assert_as_transformers(folder(tmp_path, backend, config)).encode("hello there, world and a tab", special=True)
    assert 3 < len(ids) < 64


def test_added_tokens_of_the_config_win(tmp_path: Path) -> None:
    declared = {
        "0": {"content": "<s>", "special": True, "normalized": False},
        "300": {"content": "<tool>", "lstrip": True, "rstrip": True, "normalized": False, "special": True},
        "400": {"content": "<|im_start|>", "special": True, "normalized": False},
        "401": {"content": "<|im_end|>", "special": False, "normalized": False},
    }
    config = {"added_tokens_decoder": declared, "eos_token": "<|im_end|>", "pad_token": "[PAD]"}
    stale = {"eos_token": "</s>"}  # not read where the config declares its tokens
    ours = assert_as_transformers(folder(tmp_path, byte_level_bpe(), config, special_tokens_map=stale))
    assert ours.special_tokens["eos_token"] == "<|im_end|>"
    start = ours.token_id("<|im_start|>")
    assert start is not None
    assert ours.encode("<|im_start|>", special=False) == [start]


def test_special_tokens_map_names_and_adds_tokens(tmp_path: Path) -> None:
    older = {
        "eos_token": {"content": "<tool>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    }
    ours = assert_as_transformers(
        folder(tmp_path, byte_level_bpe(), {"image_token": "<img>"}, special_tokens_map=older)
    )
    assert ours.special_tokens == {"bos_token": "<s>", "eos_token": "<tool>", "image_token": "<img>"}
    assert ours.decode(ours.encode("<|im_start|>hello<tool>", special=True)) == "hello"


def test_named_tokens_may_stand_in_an_object(tmp_path: Path) -> None:
    config = {"extra_special_tokens": {"image_token": "<|im_start|>"}}
    ours = assert_as_transformers(folder(tmp_path, byte_level_bpe(), config))
    assert ours.special_tokens["image_token"] == "<|im_start|>"


def test_a_name_alone_does_not_change_a_token_of_tokenizer_json(tmp_path: Path) -> None:
    config = {"added_tokens_decoder": {"0": {"content": "<s>", "special": True}}}
    named = {"eos_token": "<tool>", "extra_special_tokens": ["<tool>"]}
    ours = assert_as_transformers(folder(tmp_path, byte_level_bpe(), config | named))
    assert ours.decode(ours.encode("<tool>", special=False)) == "<tool>"


def test_bos_flags_of_the_config_are_left_to_the_post_processor(tmp_path: Path) -> None:
    config = {"add_bos_token": False, "add_eos_token": True}
    ours = assert_as_transformers(folder(tmp_path, byte_level_bpe(), config))
    assert ours.encode("", special=True) == [0]


def test_split_special_tokens(tmp_path: Path) -> None:
    ours = assert_as_transformers(folder(tmp_path, byte_level_bpe(), {"split_special_tokens": True}))
    assert len(ours.encode("<s>", special=False)) > 1


def test_spaces_are_cleaned_up_for_word_piece_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = {"clean_up_tokenization_spaces": True}
    words = opened(folder(tmp_path, word_piece(), config))
    assert words.decode(words.encode("hello , there .", special=False)) == "hello, there."
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.decode(theirs("hello , there .")["input_ids"], skip_special_tokens=True) == "hello, there."
    capfd.readouterr()
    pieces = opened(folder(tmp_path, byte_level_bpe(), config))
    assert pieces.decode(pieces.encode("hello , there .", special=False)) == "hello , there ."
    assert capfd.readouterr() == ("", "")


def test_tokens_by_id_and_by_text(tmp_path: Path) -> None:
    tokenizer = opened(folder(tmp_path, byte_level_bpe()))
    assert tokenizer.token_text(0) == "<s>"
    assert tokenizer.token_text(99_999) == "(no token)"
    assert tokenizer.token_id("</s>") == 1
    assert tokenizer.token_id("no such token") is None
    assert tokenizer.decode([99_999, *tokenizer.encode("hi", special=True), 99_999]) == "hi"


def test_a_converted_backend_needs_no_folder() -> None:
    tokenizer = Tokenizer(byte_level_bpe(), chat_template="{{ bos_token }}", special_tokens={"bos_token": "<s>"})
    assert tokenizer.encode("hello", special=True)[0] == 0
    assert (tokenizer.chat_template, tokenizer.special_tokens) == ("{{ bos_token }}", {"bos_token": "<s>"})


@pytest.mark.parametrize(
    ("saved", "files", "expected"),
    [
        (None, {}, None),
        ("plain", {}, "plain"),
        ([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}], {}, "d"),
        ("plain", {"chat_template.jinja": "file"}, "file"),
        (None, {"chat_template.jinja": "file", "additional_chat_templates/rag.jinja": "r"}, "file"),
        ([{"name": "rag", "template": "r"}], {}, None),
        ("plain", {"additional_chat_templates/rag.jinja": "r"}, None),
    ],
)
def test_the_default_chat_template(tmp_path: Path, saved: object, files: dict[str, str], expected: str | None) -> None:
    folder(tmp_path, byte_level_bpe(), {"chat_template": saved} if saved else {})
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert opened(tmp_path).chat_template == expected
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    if expected is None:
        with pytest.raises(ValueError, match="chat template"):
            theirs.get_chat_template()
    else:
        assert theirs.get_chat_template() == expected


def test_no_tokenizer_json_is_for_the_caller_to_convert(tmp_path: Path) -> None:
    assert Tokenizer.from_folder(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [("tokenizer.json", "{"), ("tokenizer_config.json", "{"), ("tokenizer_config.json", "[]")],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    folder(tmp_path, byte_level_bpe())
    (tmp_path / name).write_text(content)
    with pytest.raises(BadFile, match=name.replace(".", r"\.")) as caught:
        Tokenizer.from_folder(tmp_path)
    assert "download the model again" in caught.value.hint


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(BadFile, match="not valid Unicode"):
        Tokenizer(byte_level_bpe()).encode("a\udc80b", special=True)


TOKENIZER_CONFIG = "tokenizer_config.json"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", {}, "tokenizer.json is damaged: "),
        ("tokenizer.json", {"version": "1.0", "model": {"type": "Odd"}}, "tokenizer.json is damaged: "),
        (TOKENIZER_CONFIG, {"added_tokens_decoder": []}, "added_tokens_decoder is [], not an object"),
        (
            TOKENIZER_CONFIG,
            {"added_tokens_decoder": {"x": "a"}},
            "a key of added_tokens_decoder is 'x', not",
        ),
        (TOKENIZER_CONFIG, {"added_tokens_decoder": {"1": {}}}, "added_tokens_decoder.1 is {}, not a token"),
        (TOKENIZER_CONFIG, {"added_tokens_decoder": {"1": {"content": 3}}}, "is {'content': 3}, not a token"),
        (TOKENIZER_CONFIG, {"eos_token": {"content": "a", "lstrip": "no"}}, "eos_token is {'content': 'a', 'lstrip'"),
        (TOKENIZER_CONFIG, {"bos_token": {"text": "a"}}, "bos_token is {'text': 'a'}, not a token"),
        (TOKENIZER_CONFIG, {"additional_special_tokens": [1]}, "additional_special_tokens is 1, not a token"),
        ("special_tokens_map.json", {"pad_token": {}}, "special_tokens_map.json: pad_token is {}, not a token"),
        (TOKENIZER_CONFIG, {"chat_template": [{"name": "default"}]}, "not a list of names and templates"),
        (TOKENIZER_CONFIG, {"chat_template": ["default"]}, "chat_template is ['default'], not a list of names"),
        (TOKENIZER_CONFIG, {"chat_template": 3}, "chat_template is 3, not text"),
    ],
)
def test_a_malformed_value_is_named(tmp_path: Path, name: str, content: Any, says: str) -> None:
    folder(tmp_path, byte_level_bpe())
    (tmp_path / TOKENIZER_CONFIG).unlink(missing_ok=True)
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(BadFile) as caught:
        Tokenizer.from_folder(tmp_path)
    assert f"{tmp_path}/{name}" in caught.value.message
    assert says in caught.value.message
    assert "\n" not in str(caught.value)


def test_a_template_that_is_not_text_is_named(tmp_path: Path) -> None:
    folder(tmp_path, byte_level_bpe())
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(BadFile, match=r"cannot read .*/chat_template\.jinja: it is not UTF-8"):
        Tokenizer.from_folder(tmp_path)


def test_a_panic_of_the_library_is_an_error_of_the_model(tmp_path: Path) -> None:
    backend = byte_level_bpe()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    folder(tmp_path, backend)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer is not None
    with pytest.raises(UnsupportedModel, match=r"the model's tokenizer fails on this text: .+; change the text"):
        tokenizer.encode("a" * 40 + "b", special=True)
    assert tokenizer.encode("b", special=True)


def test_token_ids_have_a_limit(tmp_path: Path) -> None:
    content = json.loads(byte_level_bpe().to_str())
    content["model"]["vocab"][next(iter(content["model"]["vocab"]))] = (1 << 32) - 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer is not None
    with pytest.raises(BadFile, match="the tokenizer has the token id 4294967295, over 16777216"):
        tokenizer.vocabulary()


def test_a_tokenizer_that_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    for make in (lambda file: file.symlink_to("/dev/zero"), os.mkfifo):
        make(tmp_path / "tokenizer.json")
        with pytest.raises(BadFile, match=r"cannot read .*tokenizer\.json: not a regular file"):
            Tokenizer.from_folder(tmp_path)
        (tmp_path / "tokenizer.json").unlink()
