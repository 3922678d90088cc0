"""From --json-schema, --regex and --grammar to a constraint that makes sense."""

import os
from pathlib import Path

from specgen.cli.inputs import read_text
from specgen.cli.options import ConstraintOptions
from specgen.core.errors import Incomplete, UsageError
from specgen.core.events import Finished, Reason
from specgen.core.types import Constraint

_WHY: dict[Reason, str] = {
    "length": "the token limit",
    "context": "the end of the context",
    "stop": "a stop string",
    "interrupted": "the interrupt",
}


def read_constraint(options: ConstraintOptions) -> Constraint | None:
    """The constraint that `options` name, if any. Raises UsageError for a bad one, BadFile for a file not there."""
    given: list[Constraint] = []
    if options.json_schema is not None:
        given.append(
            Constraint("json-schema", _text(options.json_schema, options.json_schema.lstrip()[:1] in ("{", "[")))
        )
    if options.regex is not None:
        given.append(Constraint("regex", options.regex))
    if options.grammar is not None:
        given.append(Constraint("grammar", _text(options.grammar, ":" in options.grammar)))
    if not given:
        return None
    if len(given) > 1:
        raise UsageError("an answer has one constraint", hint="give one of --json-schema, --regex and --grammar")
    from specgen.engine.sampling.grammar import compile_grammar  # noqa: PLC0415 - most prompts need not load it

    compile_grammar(given[0])
    return given[0]


def check_complete(finished: Finished) -> None:
    """Raises Incomplete where the answer ended before its constraint let it."""
    if finished.complete:
        return
    at = f"cut the answer at token {finished.stats.generated_tokens}"
    raise Incomplete(
        f"{_WHY.get(finished.reason, finished.reason)} {at}, before its constraint lets it end",
        hint="raise -n, or ask for less" if finished.reason == "length" else "ask for less",
    )


def _text(given: str, is_text: bool) -> str:
    """`given` itself where it can only be the text, else what the file of that name holds."""
    return given if is_text and not os.path.lexists(given) else read_text(Path(given))
