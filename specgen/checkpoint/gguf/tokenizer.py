"""Build the tokenizer in the header of a .gguf file, without transformers.

A header has the vocabulary, the merges or scores, and the name of the pre-tokenizer. The patterns are those of the
hub's tokenizer.json files and of llama.cpp's llama-vocab.cpp, which agree. A SentencePiece vocabulary gets the same
pipeline as in transformers (integrations/gguf/gguf_tokenizer_mapping.py).
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from specgen.checkpoint.gguf.header import Header, open_header
from specgen.checkpoint.tokenizer import Tokenizer

_PREFIX = "tokenizer.ggml."
_CONTROL, _USER_DEFINED = 3, 4
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# The texts that llama.cpp (llama-vocab.cpp) takes for end tokens, whatever the header says.
_END_TEXTS = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<EOT>",
    "<|EOT|>",
    "< EOT >",
    "_<EOT>",
)
# In gpt-oss <|end|> ends a message, and the answer goes on with the next one.
_HARMONY = {"<|return|>", "<|call|>"}
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_SPACE = "\u2581"  # SentencePiece's space
# Mistral's vocabularies with this token put a space before the first word only.
_INSTRUCTION = "[INST]"
_NO_STRIP = ("<unk>", "<s>", "<|endoftext|>")  # the special tokens of Phi-3 that keep the whitespace after them

_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _END
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _END
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _END
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _END
)


@dataclass(frozen=True, slots=True)
class _PreTokenizer:
    """The pre-tokenizer for a value of `tokenizer.ggml.pre`. `pattern` None is GPT-2's, built into ByteLevel."""

    pattern: str | None
    digits: bool = False
    """Whether every digit is split off first."""
    whole_words: bool = False
    """Whether a word in the vocabulary is one token, regardless of the merges (`ignore_merges`)."""
    bos: bool = False
    """Whether texts begin with BOS if the header does not say."""
    nfc: bool = False


_GPT2, _DIGITS = _PreTokenizer(None), _PreTokenizer(None, digits=True)
_LLAMA3_BPE = _PreTokenizer(_LLAMA3, whole_words=True, bos=True)
_PRE_TOKENIZERS: Mapping[str, _PreTokenizer] = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "olmo": _GPT2,
    "mpt": _GPT2,
    "jais": _GPT2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "codeshell": _DIGITS,
    "exaone": _DIGITS,
    "minerva-7b": _DIGITS,
    "llama3": _LLAMA3_BPE,
    "llama-v3": _LLAMA3_BPE,
    "llama-bpe": _LLAMA3_BPE,
    "falcon3": _LLAMA3_BPE,
    "dbrx": _PreTokenizer(_LLAMA3),
    "smaug-bpe": _PreTokenizer(_LLAMA3),
    "qwen2": _PreTokenizer(_QWEN2, nfc=True),
    "stablelm2": _PreTokenizer(_QWEN2),
    "megrez": _PreTokenizer(_QWEN2),
    "deepseek-r1-qwen": _PreTokenizer(_QWEN2),
    "tekken": _PreTokenizer(_TEKKEN, whole_words=True, bos=True),
    "gpt-4o": _PreTokenizer(_GPT4O),
    "llama4": _PreTokenizer(_GPT4O),
}


def read_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer of the model in `path`, None for an unsupported kind. Raises BadFile."""
    header = open_header(path)
    values = {name.removeprefix(_PREFIX): value for name, value in header.values.items() if name.startswith(_PREFIX)}
    tokens: list[str] = header.array(_PREFIX + "tokens") if _PREFIX + "tokens" in header.lengths else []
    model = values.get("model")
    split = _PRE_TOKENIZERS.get(values.get("pre", "default")) if model == "gpt2" else None
    if (split is None and model != "llama") or not tokens or len(set(tokens)) < len(tokens):
        return None
    try:
        backend = _byte_level(header, tokens, split) if split else _sentencepiece(header, tokens, values)
    except Exception:  # the library raises plain Exception, here for merges outside the vocabulary
        return None
    phi3 = split is None and header.values.get("general.architecture") == "phi3"
    indices = {name: values.get(key) for name, key in _NAMED.items()}
    named = {name: tokens[i] for name, i in indices.items() if isinstance(i, int) and 0 <= i < len(tokens)}
    ends = {tokens[i] for key in _END_KEYS if isinstance(i := values.get(key), int) and 0 <= i < len(tokens)}
    _add_tokens(backend, header, tokens, {*named.values(), *ends, *_END_TEXTS}, strip=phi3)
    bos = values.get("add_bos_token", split.bos if split else True)
    _add_bos_and_eos(backend, named, bos=bos is True, eos=values.get("add_eos_token") is True)
    template = header.values.get("tokenizer.chat_template")
    return Tokenizer(backend, chat_template=template if isinstance(template, str) else None, special_tokens=named)


def share_tokenizer(one: Path, other: Path) -> bool:
    """Whether two models have the same tokens, merges and rules, byte for byte. Raises BadFile."""
    headers = open_header(one), open_header(other)
    kinds = {header.values.get("general.architecture") for header in headers}
    return len(kinds) == 1 and len({header.digest(_PREFIX) for header in headers}) == 1


def pre_tokenizer_warning(path: Path) -> str:
    """What to tell the user of a byte-level tokenizer whose pre-tokenizer is missing or unknown, else "".

    Raises BadFile.
    """
    header = open_header(path)
    if header.values.get(_PREFIX + "model") != "gpt2":
        return ""
    pre = header.values.get(_PREFIX + "pre")
    if pre is None:
        return f"{path.name} does not name its pre-tokenizer: text is split as by GPT-2, which may cost quality"
    if pre not in _PRE_TOKENIZERS:
        return f"{path.name} names the unknown pre-tokenizer {pre!r}: text may be split wrongly, which costs quality"
    return ""


def end_ids(path: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end an answer: those that the header names, and well-known texts. Raises BadFile."""
    values = open_header(path).values
    found = {index for key in _END_KEYS if isinstance(index := values.get(_PREFIX + key), int)}
    texts = {text: index for text in _END_TEXTS if (index := tokenizer.token_id(text)) is not None}
    if texts.keys() >= _HARMONY:
        texts.pop("<|end|>", None)
    return frozenset({*found, *texts.values()})


def _ids(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def _listed_merges(header: Header) -> list[tuple[str, str]]:
    """The merges as pairs. The left part may contain a space, but not start with one."""
    merges: list[str] = header.array(_PREFIX + "merges")
    cuts = [merge.find(" ", 1) for merge in merges]
    return [(merge[:cut], merge[cut + 1 :]) for merge, cut in zip(merges, cuts, strict=True)]


def _byte_level(header: Header, tokens: list[str], split: _PreTokenizer) -> Backend:
    backend = Backend(BPE(vocab=_ids(tokens), merges=_listed_merges(header), ignore_merges=split.whole_words))
    steps: list[pre_tokenizers.PreTokenizer] = []
    if split.digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if split.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    if split.nfc:
        backend.normalizer = normalizers.NFC()
    return backend


def _sentencepiece(header: Header, tokens: list[str], values: Mapping[str, Any]) -> Backend:
    prefix = values.get("add_space_prefix", True) is True
    architecture = str(header.values.get("general.architecture"))
    gemma = architecture.startswith("gemma")
    if gemma:  # tokens of several spaces are written as spaces; the pipeline replaces spaces by _SPACE
        tokens = [_SPACE * len(token) if " " in token and not token.strip() else token for token in tokens]
    if _PREFIX + "merges" in header.lengths:
        merges = _listed_merges(header)
    else:
        # Gemma's scores do not give the order of merges, but its ids do.
        scores = [-float(index) for index in range(len(tokens))] if gemma else header.array(_PREFIX + "scores")
        merges = _scored_merges(tokens, scores)
    unknown = {"unk_token": "<unk>"} if gemma else {}
    backend = Backend(BPE(vocab=_ids(tokens), merges=merges, fuse_unk=True, byte_fallback=True, **unknown))
    replace = normalizers.Replace(" ", _SPACE)
    decoding: list[decoders.Decoder] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if gemma:
        backend.normalizer = replace
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        if prefix and _INSTRUCTION in tokens:
            backend.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first", split=False)
        else:  # a space before every piece of text between special tokens, as in Llama 2
            backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), replace] if prefix else [replace])
        decoding += [decoders.Strip(" ", left=1)] if prefix else []
    backend.decoder = decoders.Sequence(decoding)
    return backend


def _scored_merges(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """The merges of a vocabulary, best first, in the order of transformers' generate_merges."""
    ids = _ids(tokens)
    found = [
        ((score, len(left), len(right)), (left, right))
        for token, score in zip(tokens, scores, strict=True)
        for left, right in sorted(_halves(token, ids), key=lambda halves: (ids[halves[0]], ids[halves[1]]))
    ]
    return [pair for _, pair in sorted(found, key=lambda merge: merge[0], reverse=True)]


def _halves(token: str, ids: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for cut in range(1, len(token)):
        left, right = token[:cut], token[cut:]
        if left in ids and right in ids:
            yield left, right


def _add_tokens(backend: Backend, header: Header, tokens: list[str], named: Set[str], *, strip: bool) -> None:
    """Add control, user-defined and `named` tokens to `backend`, which then never splits them.

    User-defined tokens are not special: they are part of decoded text. `strip` is for Phi-3, whose special tokens take
    the whitespace after them.
    """
    kinds = header.array(_PREFIX + "token_type") if _PREFIX + "token_type" in header.lengths else []
    special = named | {token for token, kind in zip(tokens, kinds, strict=False) if kind == _CONTROL}
    known = set(backend.get_vocab())
    pieces = [(token, True) for token in tokens if token in special]
    pieces += [
        (token, False)
        for token, kind in zip(tokens, kinds, strict=False)
        if kind == _USER_DEFINED and token not in special and token in known
    ]
    backend.add_tokens(
        [
            AddedToken(token, normalized=False, special=special, rstrip=strip and special and token not in _NO_STRIP)
            for token, special in pieces
        ]
    )


def _add_bos_and_eos(backend: Backend, named: Mapping[str, str], *, bos: bool, eos: bool) -> None:
    """Add BOS and EOS to encoded text that has no chat template."""
    before = [named["bos_token"]] if bos and "bos_token" in named else []
    after = [named["eos_token"]] if eos and "eos_token" in named else []
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys([*before, *after])],
    )
