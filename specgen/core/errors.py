"""Every failure that a user can cause, with its exit code and the next step.

SpecgenError
├── UsageError          2   invalid options or arguments
├── ModelNotFound       3   no such repository, revision, folder or file
├── AccessDenied        4   gated repository, or a token that is missing or wrong
├── NotCached           5   offline and not in the cache
├── DownloadFailed      6   the hub is unreachable, or the connection broke too often
├── DraftMismatch       7   the draft does not share the target's token ids
├── OutOfMemory         8   the models do not fit the device
├── PromptTooLong       9   the prompt alone fills the context
├── BadFile            10   a file that cannot be read or written, or has wrong content
├── UnsupportedModel   11   weights or an architecture that specgen cannot load
├── DeviceUnavailable  12   a device that this machine or torch build does not have
├── Incomplete         13   a limit cut an answer before its schema, regex or grammar was satisfied
├── SomeFailed         14   some records of a map have no answer
└── NoCodeBlock        15   an answer without the requested code block

1 is any other failure, 130 an interrupt (Ctrl-C), 143 a SIGTERM to map.
"""

from typing import ClassVar


class SpecgenError(Exception):
    """A failure shown to the user as one line: the message, then `hint`, the next step.

    Subclasses set only `exit_code`, so that scripts can tell the kinds apart.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(SpecgenError):
    exit_code = 2


class ModelNotFound(SpecgenError):
    exit_code = 3


class AccessDenied(SpecgenError):
    exit_code = 4


class NotCached(SpecgenError):
    exit_code = 5


class DownloadFailed(SpecgenError):
    exit_code = 6


class DraftMismatch(SpecgenError):
    exit_code = 7


class OutOfMemory(SpecgenError):
    exit_code = 8


class PromptTooLong(SpecgenError):
    exit_code = 9


class BadFile(SpecgenError):
    exit_code = 10


class UnsupportedModel(SpecgenError):
    exit_code = 11


class UnreadableText(UnsupportedModel):
    """The model's tokenizer fails on one text. Other texts may work."""


class DeviceUnavailable(SpecgenError):
    exit_code = 12


class Incomplete(SpecgenError):
    exit_code = 13


class SomeFailed(SpecgenError):
    exit_code = 14


class NoCodeBlock(SpecgenError):
    exit_code = 15


INTERRUPTED = 130
TERMINATED = 143
