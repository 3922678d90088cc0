"""The bytes that one token stands for, whole characters or not."""

import re

from tokenizers import Tokenizer as Backend

# What SentencePiece writes for a space, and for a byte that its vocabulary has no character for.
_SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_CONTINUES = "##"


class TokenBytes:
    """What the tokens of one tokenizer stand for."""

    def __init__(self, backend: Backend) -> None:
        self._entry = backend.id_to_token
        self._added = frozenset(backend.get_added_tokens_decoder())
        decoder = backend.decoder
        self._in_bytes = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()

    def of(self, token: int) -> bytes:
        """The bytes of `token`, empty for an id that stands for nothing. A special token is its own name."""
        entry: str | None = self._entry(token)
        if entry is None:
            return b""
        if token in self._added:
            return entry.encode()
        if self._in_bytes:
            return bytes(_BYTE_OF[character] for character in entry if character in _BYTE_OF)
        if found := _BYTE.fullmatch(entry):
            return bytes([int(found[1], 16)])
        return entry.removeprefix(_CONTINUES).replace(_SPACE, " ").encode()


def _bytes_of() -> dict[str, int]:
    """What byte-level vocabularies write for each byte: its own character where it can be seen, else one after 255."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


_BYTE_OF = _bytes_of()
