"""What one check of the doctor comes to."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """`warn` is slower or narrower than it could be, `fail` keeps something from working at all."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """`found` says what there is, `advice` what to do about it, empty where nothing needs doing."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


Check = Callable[[], Finding]
