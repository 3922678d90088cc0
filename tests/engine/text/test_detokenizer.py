"""Streaming text: whole characters, hidden stop strings, and no text lost."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.events import Source, Span
from specgen.engine.text.detokenizer import SpecialTokens, TextStream
from tests import fakes


def sentencepiece() -> Tokenizer:
    """A tokenizer like Llama 2's: a character without a piece becomes its bytes, ▁ is a space."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdeh", "▁a"]
    backend = Backend(
        models.BPE({piece: at for at, piece in enumerate(pieces)}, [("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    backend.add_special_tokens(["<unk>", "</s>"])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(backend, special_tokens={"eos_token": "</s>"})


TOKENIZERS = {"byte level": fakes.tokenizer(), "byte fallback": sentencepiece()}
CHARACTERS = ["a", "b", " ", "é", "你", "好", "😀", "👩‍👩‍👧", "e\u0301", "\n"]
TEXTS = st.lists(st.sampled_from(CHARACTERS), max_size=12).map("".join)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text.replace(" ", "▁") if tokenizer is TOKENIZERS["byte fallback"] else text, special=False)


def stream(
    decode: object, tokens: Sequence[int], stop: Sequence[str] = (), sizes: Sequence[int] = ()
) -> tuple[list[str], int, bool]:
    """The texts of the writes and the flush, the number of tokens used, and whether a stop string ended the text."""
    text = TextStream(decode, stop)  # type: ignore[arg-type]
    written: list[str] = []
    used, at, cuts = 0, 0, list(sizes)
    while at < len(tokens):
        size = cuts.pop(0) if cuts else 1
        part = tokens[at : at + size]
        out = text.write(part, ["draft"] * len(part))
        written.append("".join(span.text for span in out.spans))
        used += out.used
        at += len(part)
        if out.stopped:
            return written, used, True
    written.append("".join(span.text for span in text.flush().spans))
    return written, used, False


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=TEXTS, sizes=st.lists(st.integers(1, 6), max_size=10))
def test_the_pieces_are_whole_characters_and_make_the_text(kind: str, text: str, sizes: list[int]) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = ids_of(tokenizer, text)
    written, used, stopped = stream(tokenizer.decode, ids, sizes=sizes)
    assert "".join(written) == tokenizer.decode(ids)
    assert used == len(ids)
    assert not stopped
    assert not any("\ufffd" in piece for piece in written)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_characters_of_several_tokens_come_whole_and_at_once(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = ids_of(tokenizer, "a😀你b")
    written, _, _ = stream(tokenizer.decode, ids)
    assert [piece for piece in written if piece] == ["a", "😀", "你", "b"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(ids=st.lists(st.integers(0, 258), max_size=12), sizes=st.lists(st.integers(1, 6), max_size=10))
def test_bytes_that_are_no_text_do_no_harm(kind: str, ids: list[int], sizes: list[int]) -> None:
    """Random tokens: nothing crashes or is held forever, and the size of the writes does not matter."""
    tokenizer = TOKENIZERS[kind]
    written, used, _ = stream(tokenizer.decode, ids, sizes=sizes)
    assert used == len(ids)
    assert "".join(written) == "".join(stream(tokenizer.decode, ids)[0])
    assert ("".join(written) == "") == (tokenizer.decode(ids) == "")


def test_tokens_that_straddle_characters_hold_back_only_what_is_unfinished() -> None:
    whole = "日本語文字列"
    data = whole.encode()
    # Every token but the first begins inside a character.
    pieces = [data[:2], *(data[at : at + 3] for at in range(2, len(data), 3))]
    written, _, _ = stream(lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", "replace"), range(len(pieces)))
    assert "".join(written) == whole
    assert [bool(piece) for piece in written[: len(pieces)]] == [False] + [True] * (len(pieces) - 1)


def test_broken_bytes_do_not_swallow_the_character_after_them() -> None:
    tokenizer = TOKENIZERS["byte level"]
    broken = ids_of(tokenizer, "é")[1]
    written, _, _ = stream(tokenizer.decode, [*[broken] * 4, *ids_of(tokenizer, "é")])
    assert "".join(written) == "\ufffd" * 4 + "é"


def test_a_character_is_held_for_four_tokens_at_most() -> None:
    tokenizer = TOKENIZERS["byte level"]
    byte = ids_of(tokenizer, "é")[1]  # a second byte without a first
    written, _, _ = stream(tokenizer.decode, [byte] * 20)
    assert all(any(written[at : at + 5]) for at in range(0, 20, 5))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_special_tokens_show_nothing_and_cost_no_space(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    special = 1
    first, second = ids_of(tokenizer, "b"), ids_of(tokenizer, " a")
    ids = [*first, special, *second, special, special, *second]
    assert "".join(stream(tokenizer.decode, ids)[0]) == tokenizer.decode(ids) == "b a a"


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("hello world", ["o w"], "hell"),  # over several tokens
        ("hello world", ["world"], "hello "),  # at the end
        ("hello world", ["hello"], ""),  # at the start
        ("hello world", ["xyz", "lo", "l"], "he"),  # the first in the text, not in the list
        ("aaab", ["aab"], "a"),  # the start of a stop string that went wrong
        ("hello", ["lox"], None),  # only the start of one
        ("a你b😀c", ["你b"], "a"),
        ("hello", ["é"], None),
    ],
)
def test_stop_strings_cut_the_text_before_them(text: str, stop: list[str], shown: str | None, size: int) -> None:
    tokenizer = TOKENIZERS["byte level"]
    ids = tokenizer.encode(text, special=False)
    written, used, stopped = stream(tokenizer.decode, ids, stop, [size] * len(ids))
    assert "".join(written) == (text if shown is None else shown)
    assert stopped == (shown is not None)
    assert all(each not in "".join(written) for each in stop)
    if stopped:
        # Exactly the tokens up to the one that completes the stop string.
        assert any(each in tokenizer.decode(ids[:used]) for each in stop)
        assert not any(each in tokenizer.decode(ids[: used - 1]) for each in stop)


@given(text=st.text("ab", max_size=20), stop=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_is_shown_is_never_taken_back(text: str, stop: list[str]) -> None:
    """One letter per token: the stop string that is complete first ends the text; among several, the longest."""
    ids = [fakes.encode(letter)[0] for letter in text]
    written, _, stopped = stream(TOKENIZERS["byte level"].decode, ids, stop)
    _, cut = min(((at + len(each), at) for each in stop if (at := text.find(each)) >= 0), default=(0, None))
    assert "".join(written) == text[:cut]
    assert stopped == (cut is not None)


def test_text_without_a_stop_string_is_not_held() -> None:
    """A letter that starts no stop string is certain at once; another waits for the next letter."""
    ids = [fakes.encode(letter)[0] for letter in "xaxab"]
    decode = TOKENIZERS["byte level"].decode
    assert stream(decode, ids, ["ab"])[0] == ["x", "", "ax", "", ""]


def test_spans_keep_the_source_of_their_text() -> None:
    tokens = [fakes.encode(letter)[0] for letter in "abcd"]
    sources: list[Source] = ["draft", "lookup", "corrected", "bonus"]
    text = TextStream(TOKENIZERS["byte level"].decode, ["bcx"])
    assert text.write(tokens[:3], sources[:3]).spans == (Span("a", "draft"),)
    # Held characters keep their sources; the token that releases them does not matter.
    assert text.write(tokens[3:], sources[3:]).spans == (
        Span("b", "lookup"),
        Span("c", "corrected"),
        Span("d", "bonus"),
    )


def test_a_stop_string_that_the_flush_completes_is_cut() -> None:
    """Half a character at the end of the text becomes U+FFFD in the flush."""
    ids = fakes.encode("a") + fakes.encode("é")[:1]
    written, _, _ = stream(TOKENIZERS["byte level"].decode, ids, ["\ufffd"])
    assert "".join(written) == "a"


def test_special_tokens_are_shown_or_matched_in_place() -> None:
    """Between the bytes of a character, at the start of a stop string, and inside one."""
    made = fakes.tokenizer()
    special = SpecialTokens(shown={1000: "[T]"}, matched={1001: "<|x|>"})
    euro = list(made.encode("€", special=False))
    for tokens, stop, shown in [
        ([*made.encode("ab", special=False), 1000, *made.encode("c", special=False)], (), "ab[T]c"),
        ([*euro[:1], 1000], (), "\ufffd[T]"),
        ([*made.encode("ab", special=False), 1001, *made.encode("cd", special=False)], ("<|x|>c",), "ab"),
        ([*made.encode("ab", special=False), 1001, *made.encode("cd", special=False)], ("<|x|>d",), "abcd"),
        ([*made.encode("ab", special=False), 1001], ("b<|x|>",), "a"),
        ([1001, 1001, 1000], ("<|x|><|x|><|x|>",), "[T]"),
    ]:
        for size in (1, 2, len(tokens)):
            stream = TextStream(made.decode, stop, special)
            spans = []
            for start in range(0, len(tokens), size):
                part = tokens[start : start + size]
                written = stream.write(part, ["draft"] * len(part))
                spans += written.spans
                if written.stopped:
                    break
            else:
                spans += stream.flush().spans
            assert "".join(span.text for span in spans) == shown
