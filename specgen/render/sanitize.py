"""Model text made safe for a terminal: what would drive it is shown instead."""

import unicodedata

# Overrides and isolates reorder the text around them, so that it reads differently from what it says (Trojan Source).
BIDI_CONTROLS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))


def _visible(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)  # the Control Pictures block mirrors C0
    if code == 0x7F:
        return "\u2421"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_CONTROLS = [code for code in range(0x100) if unicodedata.category(chr(code)) == "Cc" and chr(code) not in "\n\t"]
_TABLE = {code: _visible(code) for code in (*_CONTROLS, *BIDI_CONTROLS)} | dict.fromkeys(
    range(0xD800, 0xE000), "\ufffd"
)


def sanitize(text: str) -> str:
    """`text` with every control character but newline and tab made visible, and everything else untouched.

    ESC becomes U+241B (␛), C1 controls and bidi overrides become `\\x9b` and `\\u202e`, a lone surrogate becomes
    U+FFFD. `\\r\\n` is a newline; any other `\\r` is shown, because it would let text overwrite what stands before it.
    """
    return text.replace("\r\n", "\n").translate(_TABLE)
