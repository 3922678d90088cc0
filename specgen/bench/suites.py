"""Suites of prompts: the bundled ones, or a file of JSON lines."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from specgen.core.defaults import SUITE
from specgen.core.errors import BadFile, UsageError
from specgen.core.types import Message
from specgen.session.pair import Pair
from specgen.session.prompt import chat_prompt

FULL = "full"
_QUICK = 2  # prompts of each category that the quick suite takes from the full one
_FORM = 'write {"prompt": "...", "category": "..."}, or {"question_id": 1, "category": "...", "turns": ["..."]}'


@dataclass(frozen=True, slots=True)
class SuitePrompt:
    """One user message and its category. `id` is unique in its suite.

    `distribution` is "in" for text like a draft's training data, and "out" for rare domains, rare languages and random
    text. It is None for an unmarked prompt.
    """

    id: str
    category: str
    text: str
    distribution: str | None = None


def read_suite(name: str) -> list[SuitePrompt]:
    """Read the suite `quick` or `full`, or the file `name`. Prompts keep their order. Raises BadFile.

    A file has one JSON object a line. It has the key `prompt` and optionally `category`, or the keys of Spec-Bench, of
    which only the first turn is read. `distribution` may be "in" or "out". Blank lines are skipped.
    """
    if name in (SUITE, FULL):
        prompts = _parse(files("specgen.bench").joinpath("full.jsonl").read_text(encoding="utf-8"), name)
        return choose(prompts, [], _QUICK if name == SUITE else None)
    try:
        text = Path(name).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: ~ of an unknown user
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", error)
        raise BadFile(f"cannot read {name}: {reason}", hint=f"--suite takes {SUITE}, {FULL} or a file") from error
    return _parse(text, name)


def choose(prompts: Sequence[SuitePrompt], categories: Sequence[str], most: int | None) -> list[SuitePrompt]:
    """Select the prompts of `categories` (all if empty), at most `most` of each. Raises UsageError."""
    known = list(dict.fromkeys(prompt.category for prompt in prompts))
    if unknown := [category for category in categories if category not in known]:
        raise UsageError(f"the suite has no category '{unknown[0]}'", hint=f"there is: {', '.join(known)}")
    chosen: list[SuitePrompt] = []
    for category in categories or known:
        chosen += [prompt for prompt in prompts if prompt.category == category][:most]
    return chosen


def alternate_categories(prompts: Sequence[SuitePrompt]) -> list[SuitePrompt]:
    """Reorder `prompts` round-robin by category, so that the first few cover every category."""
    kinds = dict.fromkeys(prompt.category for prompt in prompts)
    turns = zip_longest(*([prompt for prompt in prompts if prompt.category == kind] for kind in kinds))
    return [prompt for prompt in chain.from_iterable(turns) if prompt is not None]


def prompt_ids(pair: Pair, prompt: SuitePrompt, new: int) -> tuple[tuple[int, ...], int]:
    """Encode `prompt` with the chat template. Also return the room for a prompt, in tokens, if `new` tokens follow.

    Raises UsageError when no room is left.
    """
    room = pair.context_length - new
    if room < 1:
        raise UsageError(f"-n {new} leaves no room in a context of {pair.context_length}", hint="ask for fewer tokens")
    return chat_prompt(pair.tokenizer, [Message("user", prompt.text)]).ids, room


def _parse(text: str, name: str) -> list[SuitePrompt]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    prompts = [_prompt(line, number, name) for number, line in lines]
    if not prompts:
        raise BadFile(f"{name} contains no prompts", hint=_FORM)
    _check_unique(prompts, name)
    return prompts


def _prompt(line: str, number: int, name: str) -> SuitePrompt:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BadFile(f"{name}, line {number} is not JSON: {error}", hint="put one object on each line") from error
    value = value if isinstance(value, dict) else {}
    text = _first(value["turns"]) if "turns" in value else value.get("prompt")
    category, distribution = value.get("category", "other"), value.get("distribution")
    if not isinstance(text, str) or not text.strip() or not isinstance(category, str):
        raise BadFile(f"{name}, line {number} is not a prompt", hint=_FORM)
    if distribution not in ("in", "out", None):
        raise BadFile(
            f"{name}, line {number} has the distribution {distribution!r}", hint='write "in" or "out", or leave it out'
        )
    return SuitePrompt(str(value.get("question_id", number)), category, text, distribution)


def _first(turns: Any) -> Any:
    return turns[0] if isinstance(turns, list) and turns else None


def _check_unique(prompts: Iterable[SuitePrompt], name: str) -> None:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise BadFile(
                f"{name} has two prompts with the question_id {prompt.id}", hint="give each prompt a unique question_id"
            )
        seen.add(prompt.id)
