"""Convert text to token ids and back with tokenizer.json, without transformers.

tokenizer.json defines normalizer, pre-tokenizer, model and post-processor. The other files of the folder add tokens,
names and the chat template by the rules of transformers 5 (TokenizersBackend). Some classes of transformers replace
the pipeline of the file (GPT2Tokenizer drops SmolLM2's digit splitting). The models were trained with the file, so
this module uses the file.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.normalizers import NFC

from specgen.core.errors import BadFile, UnreadableText
from specgen.core.files import read_object, read_small, read_text
from specgen.core.words import reason, shorten
from specgen.hub.files import DAMAGED

# SentencePiece's entries for a space and for a byte without a character in the vocabulary.
_SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_CONTINUES = "##"
_MAX_ID = 1 << 24


class TokenBytes:
    """The bytes of the tokens of one tokenizer."""

    def __init__(self, backend: Backend) -> None:
        self._entry = backend.id_to_token
        self._added = frozenset(backend.get_added_tokens_decoder())
        decoder = backend.decoder
        self._in_bytes = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()

    def of(self, token: int) -> bytes:
        """The bytes of `token`, empty for an unknown id. A special token gives its name."""
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
    """Character -> byte in byte-level vocabularies: printable bytes as themselves, the others from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


_BYTE_OF = _bytes_of()


TOKEN_FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
# transformers adds NFC for these classes. A tokenizer.json made from a GGUF lacks it.
NFC_CLASSES = ("Qwen2Tokenizer", "Qwen3_5Tokenizer")
# transformers' clean_up_tokenization, in its order.
CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class Tokenizer:
    """A model's tokenizer. `special_tokens` maps names (bos_token, eos_token, ...) to texts, for chat templates."""

    def __init__(
        self,
        backend: Backend,
        *,
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
        clean_up_spaces: bool = False,
    ) -> None:
        """Wrap `backend` and switch off its truncation and padding.

        `clean_up_spaces` removes the spaces that WordPiece leaves before punctuation. BPE ignores it, because its
        spaces belong to the text.
        """
        # A tokenizer saved after training may truncate or pad every text.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._clean_up_spaces = clean_up_spaces and type(backend.model).__name__ != "BPE"
        self.chat_template = chat_template
        self.special_tokens: Mapping[str, str] = dict(special_tokens or {})

    @classmethod
    def from_folder(cls, path: Path) -> "Tokenizer | None":
        """Read the tokenizer of a model folder. Returns None without a tokenizer.json. Raises BadFile."""
        if not (path / "tokenizer.json").exists():
            return None
        backend = _read_backend(path / "tokenizer.json")
        config_file, older_file = path / "tokenizer_config.json", path / "special_tokens_map.json"
        config = read_object(config_file, hint=DAMAGED, missing_ok=True)
        if backend.normalizer is None and str(config.get("tokenizer_class")).removesuffix("Fast") in NFC_CLASSES:
            backend.normalizer = NFC()
        declared = _declared_tokens(config, config_file)
        older: dict[str, Any] = {}
        if declared is None:
            declared = [token for _, token in sorted(backend.get_added_tokens_decoder().items())]
            older = read_object(older_file, hint=DAMAGED, missing_ok=True)
        named = _named_tokens(config, config_file) | _named_tokens(older, older_file)
        extra = _extra(config, config_file) or _extra(older, older_file)
        _add_tokens(backend, declared, named, extra)
        backend.encode_special_tokens = bool(config.get("split_special_tokens", False))
        return cls(
            backend,
            chat_template=_chat_template(path, config),
            special_tokens={name: token.content for name, token in named.items()},
            clean_up_spaces=bool(config.get("clean_up_tokenization_spaces", False)),
        )

    def encode(self, text: str, *, special: bool) -> list[int]:
        """The ids of `text`. `special` adds BOS and EOS as the model expects; a rendered chat template has them.

        Special tokens in the text become their ids in both cases. Raises BadFile for a lone surrogate, by which
        Python represents undecodable bytes, and UnreadableText if the tokenizer fails on the text.
        """
        try:
            # encode_batch starts threads, and then warns on stderr at every fork.
            return list(self._backend.encode(text, add_special_tokens=special).ids)
        except TypeError:
            raise BadFile("the text is not valid Unicode", hint="save it as UTF-8") from None
        except BaseException as error:
            raise _failure(error, "the model's tokenizer fails on this text") from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens. Invalid or incomplete UTF-8 becomes U+FFFD."""
        try:
            text = self._backend.decode(ids, skip_special_tokens=True)
        except BaseException as error:
            raise _failure(error, "the model's tokenizer fails to decode") from error
        if self._clean_up_spaces:
            for piece in CLEAN_UP:
                text = text.replace(piece, piece.strip())
        return text

    def to_json(self) -> str:
        """The tokenizer as the text of a tokenizer.json, with added tokens."""
        return self._backend.to_str()

    def token_text(self, token_id: int) -> str:
        """The vocabulary entry of an id, for messages."""
        return self._backend.id_to_token(token_id) or "(no token)"

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of an id, which may be part of a character; empty for an unknown id."""
        return self._bytes.of(token_id)

    def token_id(self, text: str) -> int | None:
        """The id of a vocabulary entry, None for an unknown entry."""
        return self._backend.token_to_id(text)

    @property
    def size(self) -> int:
        """The number of tokens, with added ones."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def vocabulary(self) -> Mapping[str, int]:
        """Token -> id, with added tokens. Cached (0.1 s for 152,000 entries); do not modify it."""
        return self._vocabulary

    def added_tokens(self) -> frozenset[str]:
        """The added tokens, mostly special ones. Text is split around them, and they are never split."""
        return frozenset(token.content for token in self._backend.get_added_tokens_decoder().values())

    @cached_property
    def _bytes(self) -> TokenBytes:
        return TokenBytes(self._backend)

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        if (largest := max(vocabulary.values(), default=0)) > _MAX_ID:  # lists of tokens by id are as long
            raise BadFile(f"the tokenizer has the token id {largest}, over {_MAX_ID}", hint=DAMAGED)
        return vocabulary


def _read_backend(file: Path) -> Backend:
    try:
        return Backend.from_buffer(read_small(file))
    except OSError as error:
        raise BadFile(f"cannot read {file}: {reason(error)}", hint=DAMAGED) from error
    except BaseException as error:
        if not _is_of_library(error):
            raise
        raise BadFile(f"{file} is damaged: {reason(error)}", hint=DAMAGED) from error


def _is_of_library(error: BaseException) -> bool:
    """tokenizers raises plain Exception. A panic in its Rust code is a BaseException, of a class with no module."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _failure(error: BaseException, what: str) -> BaseException:
    """The error to raise for one of the library; any other as it is, such as KeyboardInterrupt."""
    if not _is_of_library(error):
        return error
    return UnreadableText(f"{what}: {reason(error)}", hint="change the text, or choose another model")


def _token(value: object, key: str, file: Path) -> AddedToken:
    """A token of a config file, which is its text or an object with flags. Raises BadFile."""
    if isinstance(value, str):
        return AddedToken(value, special=True)
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        flags = {flag: value[flag] for flag in TOKEN_FLAGS[1:] if flag in value}
        if all(isinstance(flag, bool) for flag in flags.values()):
            return AddedToken(value["content"], **flags)
    raise _malformed(file, key, value, "a token, which is a text or an object with `content` and flags")


def _malformed(file: Path, key: str, value: object, expected: str) -> BadFile:
    return BadFile(f"{file}: {key} is {shorten(repr(value), 40)}, not {expected}", hint=DAMAGED)


def _declared_tokens(config: Mapping[str, Any], file: Path) -> list[AddedToken] | None:
    """The tokens of added_tokens_decoder by id, None without this key. Raises BadFile."""
    key = "added_tokens_decoder"
    if key not in config:
        return None
    if not isinstance(config[key], dict):
        raise _malformed(file, key, config[key], "an object")
    tokens: dict[int, AddedToken] = {}
    for index, value in config[key].items():
        if not (index.isascii() and index.isdecimal()):
            raise _malformed(file, f"a key of {key}", index, "a token id")
        tokens[int(index)] = _token(value, f"{key}.{index}", file)
    return [token for _, token in sorted(tokens.items())]


def _named_tokens(config: Mapping[str, Any], file: Path) -> dict[str, AddedToken]:
    """bos_token, eos_token and the other named tokens of a config (image_token, ...). Raises BadFile."""
    named = {name: value for name, value in config.items() if name.endswith("_token")}
    if isinstance(config.get("extra_special_tokens"), dict):
        named |= config["extra_special_tokens"]
    return {name: _token(value, name, file) for name, value in named.items() if isinstance(value, str | dict)}


def _extra(config: Mapping[str, Any], file: Path) -> list[AddedToken]:
    """The special tokens without a name. Older configs use another key. Raises BadFile."""
    for key in ("extra_special_tokens", "additional_special_tokens"):
        if isinstance(config.get(key), list) and config[key]:
            return [_token(value, key, file) for value in config[key]]
    return []


def _add_tokens(
    backend: Backend, declared: Iterable[AddedToken], named: Mapping[str, AddedToken], extra: Iterable[AddedToken]
) -> None:
    """Add the declared, named and extra tokens to `backend`, which then never splits them.

    The flags of a declared token override those in tokenizer.json. A named or extra token is added only if it is not
    declared. A declared token with a name is always special.
    """
    present = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    adding = {token.content: token for token in declared}
    names = {token.content for token in named.values()}
    for token in adding.values():
        token.special = token.special or token.content in names
    for token in named.values():
        if token.content not in present and token.content not in adding:
            token.special = True
            adding[token.content] = token
    for token in extra:
        if token.content not in present:
            adding.setdefault(token.content, token)
    # The library adds tokens in quadratic time, so skip those it has.
    backend.add_tokens([token for token in adding.values() if token != present.get(token.content)])


def _chat_template(path: Path, config: Mapping[str, Any]) -> str | None:
    """The default template. Template files replace the templates in the config. Raises BadFile."""
    templates = {file.stem: file for file in path.glob("additional_chat_templates/*.jinja")}
    if (path / "chat_template.jinja").is_file():
        templates["default"] = path / "chat_template.jinja"
    if templates:
        return _read_template(templates["default"]) if "default" in templates else None
    given = saved = config.get("chat_template")
    if isinstance(saved, list):
        if not all(isinstance(entry, dict) and {"name", "template"} <= entry.keys() for entry in saved):
            raise _malformed(path / "tokenizer_config.json", "chat_template", given, "a list of names and templates")
        saved = {str(entry["name"]): entry["template"] for entry in saved}
    if isinstance(saved, dict):
        saved = saved.get("default")
    if saved is not None and not isinstance(saved, str):
        raise _malformed(path / "tokenizer_config.json", "chat_template", given, "text")
    return saved


def _read_template(file: Path) -> str:
    try:
        return read_text(file)
    except OSError as error:
        raise BadFile(f"cannot read {file}: {reason(error)}", hint=DAMAGED) from error
    except UnicodeDecodeError as error:
        raise BadFile(f"cannot read {file}: it is not UTF-8", hint=DAMAGED) from error
