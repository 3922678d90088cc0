"""Words for messages."""

from specgen.core.words import did_you_mean, first_line, format_bytes, plural, reason


def test_counts_and_sizes() -> None:
    assert [plural(n, "answer") for n in (0, 1, 2)] == ["0 answers", "1 answer", "2 answers"]
    assert plural(2, "copy", "copies") == "2 copies"
    assert [format_bytes(n) for n in (999, 1_500, 2_600_000, 1_240_000_000)] == [
        "999 bytes",
        "2 kB",
        "3 MB",
        "1.2 GB",
    ]


def test_the_nearest_name_or_another_hint() -> None:
    assert did_you_mean("temprature", ["temperature", "seed"], "h") == "did you mean 'temperature'?"
    assert did_you_mean("xyz", ["temperature"], "h") == "h"


def test_the_first_line_of_an_exception() -> None:
    assert first_line(ValueError("\n  a\nb")) == "a"
    assert first_line(ValueError()) == "ValueError"
    assert reason(OSError(2, "No such file")) == "No such file"
