"""Prompts to measure with: those that come with specgen, or a file of JSON lines."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from specgen.core.defaults import SUITE
from specgen.core.errors import BadFile, UsageError

FULL = "full"
# Of each kind, of the full suite, the first so many are the quick one.
_QUICK = 2
_FORM = 'write {"prompt": "...", "category": "..."}, or {"question_id": 1, "category": "...", "turns": ["..."]}'


@dataclass(frozen=True, slots=True)
class SuitePrompt:
    """A user's message, and the kind of work that it asks for. `id` is unique in its suite.

    `distribution` is `in` or `out`: of what drafts are mostly made for, or of what they seldom met (rare domains and
    languages, random text); None where nobody marked it.
    """

    id: str
    category: str
    text: str
    distribution: str | None = None


def read_suite(name: str) -> list[SuitePrompt]:
    """The suite `quick` or `full`, or the prompts of the file `name`, in the order written. Raises BadFile.

    A file has one JSON object a line, of Spec-Bench's form, of which only the first turn is read (a later one answers
    an answer), or with the keys `prompt` and, if there is one, `category`; either may have `distribution`, in or out.
    Blank lines count for nothing.
    """
    if name in (SUITE, FULL):
        prompts = _parse(files("specgen.bench").joinpath("full.jsonl").read_text(encoding="utf-8"), name)
        return choose(prompts, [], _QUICK if name == SUITE else None)
    try:
        text = Path(name).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: ~ of a user there is not
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", error)
        raise BadFile(f"cannot read {name}: {reason}", hint=f"--suite takes {SUITE}, {FULL} or a file") from error
    return _parse(text, name)


def choose(prompts: Sequence[SuitePrompt], categories: Sequence[str], most: int | None) -> list[SuitePrompt]:
    """Those of `categories`, all where there is none, and at most `most` of each. Raises UsageError."""
    known = list(dict.fromkeys(prompt.category for prompt in prompts))
    if unknown := [category for category in categories if category not in known]:
        raise UsageError(f"the suite has no category '{unknown[0]}'", hint=f"there is: {', '.join(known)}")
    chosen: list[SuitePrompt] = []
    for category in categories or known:
        chosen += [prompt for prompt in prompts if prompt.category == category][:most]
    return chosen


def in_turn(prompts: Sequence[SuitePrompt]) -> list[SuitePrompt]:
    """`prompts` with those of each category in turn, so that the first few are of every kind."""
    kinds = dict.fromkeys(prompt.category for prompt in prompts)
    turns = zip_longest(*([prompt for prompt in prompts if prompt.category == kind] for kind in kinds))
    return [prompt for prompt in chain.from_iterable(turns) if prompt is not None]


def _parse(text: str, name: str) -> list[SuitePrompt]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    prompts = [_prompt(line, number, name) for number, line in lines]
    if not prompts:
        raise BadFile(f"{name} holds no prompts", hint=_FORM)
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
        raise BadFile(f"{name}, line {number} is no prompt", hint=_FORM)
    if distribution not in ("in", "out", None):
        raise BadFile(
            f"{name}, line {number} has the distribution {distribution!r}", hint='it is "in", "out" or left out'
        )
    return SuitePrompt(str(value.get("question_id", number)), category, text, distribution)


def _first(turns: Any) -> Any:
    return turns[0] if isinstance(turns, list) and turns else None


def _check_unique(prompts: Iterable[SuitePrompt], name: str) -> None:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise BadFile(f"{name} has two prompts with the question_id {prompt.id}", hint="give each its own")
        seen.add(prompt.id)
