"""Numbers of bytes for people."""


def in_words(count: int) -> str:
    """A size in the unit that suits it, powers of 1,000 as disks and the hub count."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if unit == 1e9 else f"{count / unit:.0f} {name}"
    return f"{count} bytes"
