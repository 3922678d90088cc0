"""The prompts that a head is trained on, from the history and from files."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specgen.core.errors import BadFile, SpecgenError, UsageError
from specgen.core.files import parse_json
from specgen.core.types import Message
from specgen.history.recorder import open_history
from specgen.history.store import location

HISTORY = "history"
_FORM = 'write {"prompt": "..."}, {"messages": [...]}, or {"turns": ["..."]} on every line'


@dataclass(frozen=True, slots=True)
class TrainingPrompt:
    """Messages, and the target's own answer to them where the history has it.

    raw: the text of the one message is continued without a chat template.
    """

    messages: tuple[Message, ...]
    answer: str | None = None
    raw: bool = False


def read_prompts(
    sources: Sequence[str], target: str, *, template: str | None = None, search: Sequence[str] = ()
) -> list[TrainingPrompt]:
    """The prompts of all `sources`, each once: files, and `history`, which `template` and `search` filter.

    Answers of the history count where the model `target` gave them, whole. Raises BadFile, UsageError.
    """
    found: dict[str, TrainingPrompt] = {}
    for source in sources:
        prompts = _of_history(target, template, search) if source == HISTORY else _of_file(Path(source).expanduser())
        for prompt in prompts:
            key = json.dumps([(each.role, each.content) for each in prompt.messages])
            if key not in found or found[key].answer is None:
                found[key] = prompt
    if not found:
        raise UsageError(
            f"there are no prompts in {' and '.join(sources)}",
            hint="name a file with one prompt a line: --from prompts.jsonl",
        )
    return list(found.values())


def _of_history(target: str, template: str | None, search: Sequence[str]) -> Iterator[TrainingPrompt]:
    if not location().is_file():
        return
    with open_history() as history:
        for answer in list(history.search(search) if search else history.answers()):
            if template is not None and answer.template != template:
                continue
            whole = answer.reason in ("end", "length") and answer.settings["target"]["id"] == target
            messages = tuple(history.messages(answer.id))
            if messages:
                yield TrainingPrompt(messages, answer.output if whole and answer.output else None, answer.raw)


def _of_file(path: Path) -> Iterator[TrainingPrompt]:
    """The prompts of a file of JSON lines. A conversation of several user turns gives its first."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise BadFile(f"cannot read {path}: {reason}", hint=f"--from takes {HISTORY} or a file") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield TrainingPrompt(_messages(parse_json(line)))
            except (LookupError, ValueError, TypeError, SpecgenError) as error:
                raise BadFile(f"line {number} of {path} has no prompt", hint=_FORM) from error


def _messages(record: Any) -> tuple[Message, ...]:
    """The messages of one record. Raises LookupError, ValueError, TypeError, SpecgenError."""
    if not isinstance(record, dict):
        raise TypeError
    if isinstance(record.get("messages"), list):
        given = record["messages"]
        while given and given[-1].get("role") == "assistant":
            given = given[:-1]
        messages = tuple(Message(each["role"], each["content"]) for each in given)
    else:
        text = record["turns"][0] if isinstance(record.get("turns"), list) else record["prompt"]
        messages = (Message("user", text),)
    if not messages or not all(isinstance(each.content, str) and each.content.strip() for each in messages):
        raise ValueError
    return messages
