"""Inline Markdown (emphasis, code, links) as pieces of styled text."""

import re
from typing import NamedTuple

BOLD, ITALIC, CODE, STRUCK, LINK, DIM = "1", "3", "36", "9", "4", "2"
# Characters after which an opening mark without an end counts as plain text.
_MAX_HELD = 200


class Piece(NamedTuple):
    """Text in a style (SGR codes, joined by semicolons). `indent` begins each row after a wrap."""

    text: str
    style: str = ""
    indent: str = ""
    wraps: bool = True


_INLINE = re.compile(
    r"""
    \\(?P<escaped>[*_`#~|<>])
    | (?P<ticks>(?<!`)`+(?!`))(?P<code>.+?)(?<!`)(?P=ticks)(?!`)
    | \*\*(?=[^\s*])(?P<strong>.+?)(?<=\S)\*\*(?!\*)
    | (?<!\w)__(?=\S)(?P<strong2>.+?)(?<=\S)__(?!\w)
    | \*(?=[^\s*])(?P<em>(?:[^*]|\*\*.+?\*\*)+?)(?<=[^\s])\*(?!\*)
    | (?<!\w)_(?=[^\s_])(?P<em2>[^_]+?|.+?)(?<=[^\s])_(?!\w)
    | ~~(?=\S)(?P<struck>.+?)(?<=\S)~~
    | (?<!!)\[(?P<label>[^\]\[]+)\]\((?P<url>[^()\s]+)\)
    """,
    re.VERBOSE,
)
_STYLES = {"strong": BOLD, "strong2": BOLD, "em": ITALIC, "em2": ITALIC, "struck": STRUCK}
# Possible start of markup that is not complete yet.
_OPENING = re.compile(r"`|\*(?=[^\s*]|\*[^\s])|(?<!\w)_(?=\S)|~~(?=\S)|\[(?![^\]]*\][^(])|\\$")
_SPECIAL = re.compile(r"[\\`*_~\[]")


def inline(text: str, style: str = "", *, complete: bool = True) -> tuple[list[Piece], int]:
    """The pieces of `text`, and the number of its characters that they cover.

    Unless `text` is the `complete` rest of the line, markup that may be incomplete is left out.
    """
    pieces: list[Piece] = []
    at = plain = 0
    while special := _SPECIAL.search(text, at):
        at = special.start()
        found = _INLINE.match(text, at)
        if found is None:
            if not complete and _OPENING.match(text, at) and len(text) - at < _MAX_HELD:
                break
            run = re.compile(r"(.)\1*").match(text, at)
            at = run.end() if run else at + 1
            continue
        if plain < at:
            pieces.append(Piece(text[plain:at], style))
        pieces += _styled(found, style)
        at = plain = found.end()
    else:
        at = len(text)
    if plain < at:
        pieces.append(Piece(text[plain:at], style))
    return pieces, at


def _styled(found: re.Match[str], style: str) -> list[Piece]:
    groups = found.groupdict()
    if groups["escaped"]:
        return [Piece(groups["escaped"], style)]
    if groups["code"]:
        return [Piece(groups["code"], _join(style, CODE))]
    if groups["label"]:
        label, url = inline(groups["label"], _join(style, LINK))[0], groups["url"]
        return label if url == groups["label"] else [*label, Piece(f" ({url})", _join(style, DIM))]
    name = next(name for name in _STYLES if groups[name])
    return inline(groups[name], _join(style, _STYLES[name]))[0]


def _join(*styles: str) -> str:
    return ";".join(style for style in styles if style)
