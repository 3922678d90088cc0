"""The bytes of a token in every kind of vocabulary."""

from tokenizers import AddedToken, Tokenizer, decoders, models

from specgen.checkpoint.tokenizer import TokenBytes
from tests.fakes import backend


def test_tokens_of_a_byte_level_vocabulary_join_to_the_bytes_of_the_text() -> None:
    for text in ("hello world", "caf\u00e9 \U0001f98a\n\t\u00a0\u00ad", "\u4f60\u597d"):
        told = TokenBytes(backend())
        assert b"".join(map(told.of, backend().encode(text).ids)) == text.encode()


def test_sentencepiece_has_a_sign_for_spaces_and_tokens_for_bytes() -> None:
    vocabulary = {"<unk>": 0, "\u2581hello": 1, "\u2581": 2, "<0xF0>": 3, "<0x0A>": 4, "\u00e9": 5}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken("<0xEND>\u2581")])
    told = TokenBytes(made)
    assert [told.of(token) for token in range(1, 8)] == [
        b" hello",
        b" ",
        b"\xf0",
        b"\n",
        "\u00e9".encode(),
        "<0xEND>\u2581".encode(),
        b"",
    ]


def test_wordpiece_marks_what_goes_on() -> None:
    made = Tokenizer(models.WordPiece(vocab={"[UNK]": 0, "play": 1, "##ing": 2}, unk_token="[UNK]"))
    made.decoder = decoders.WordPiece()
    assert [TokenBytes(made).of(token) for token in (1, 2)] == [b"play", b"ing"]
