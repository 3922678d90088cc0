import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specgen.render.terminal import BIDI_CONTROLS, sanitize

PRINTABLE = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=[chr(code) for code in BIDI_CONTROLS])
CONTROLS = st.sampled_from([*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *map(chr, BIDI_CONTROLS), "\ud800"])


@given(st.text(PRINTABLE | st.sampled_from("\n\t")))
def test_printable_text_is_untouched(text: str) -> None:
    assert sanitize(text) == text


@given(st.text(PRINTABLE | CONTROLS))
def test_nothing_that_drives_a_terminal_is_left(text: str) -> None:
    safe = sanitize(text)
    assert not [char for char in safe if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"]
    assert not {ord(char) for char in safe} & set(BIDI_CONTROLS)
    safe.encode()


@given(st.text(PRINTABLE | CONTROLS))
def test_what_is_safe_stays_as_it_is(text: str) -> None:
    assert sanitize(sanitize(text)) == sanitize(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("\x9b2J", "\\x9b2J"),
        ("a\x00b\x7f", "a␀b␡"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("over\rwrite", "over␍write"),
        ("a\ud800b", "a\ufffdb"),
        ("tab\tnew\nline", "tab\tnew\nline"),
    ],
)
def test_controls_are_shown(text: str, shown: str) -> None:
    assert sanitize(text) == shown
