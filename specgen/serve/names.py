"""Names of models on their way to a process that stands in another folder, and back."""

import os
from typing import Any

from specgen.core.events import Failed, Notice, Progress, Started
from specgen.core.types import AUTO, LOOKUP, NONE
from specgen.serve.asked import Opened
from specgen.serve.wire import KIND


class Names:
    """The names of the models as another process finds them, which stands in another folder."""

    def __init__(self, target: str, draft: str) -> None:
        self._given: list[tuple[str, str]] = []
        self.can_be_sent = True
        self.target = self._absolute(target)
        self.draft = draft if draft in (AUTO, LOOKUP, NONE) else self._absolute(draft)

    def as_given(self, data: dict[str, Any]) -> dict[str, Any]:
        """What a line of an event says, with the names that the user gave."""
        if not self._given:
            return data
        kind = data[KIND]
        if kind in (Started.__name__, Opened.__name__):
            models = {role: data[role] for role in ("target", "draft") if data[role]}
            return data | {role: model | {"id": self._in_words(model["id"])} for role, model in models.items()}
        if kind in (Notice.__name__, Progress.__name__):
            return {name: self._in_words(value) for name, value in data.items()}
        if kind == Failed.__name__:
            return data | {"error": {name: self._in_words(value) for name, value in data["error"].items()}}
        return data

    def _absolute(self, name: str) -> str:
        if os.path.isabs(name) or name.startswith("~") or not os.path.lexists(name):  # noqa: PTH117 - as below
            return name
        from specgen.config.pairs import find_pair  # noqa: PLC0415 - most names are none of files

        if find_pair(name) is not None:
            return name
        # With these a relative name means something else than the same file's absolute one.
        self.can_be_sent = self.can_be_sent and not set("@:") & set(name)
        absolute = os.path.join(os.getcwd(), name)  # noqa: PTH109, PTH118 - as it is given, dots and all
        self._given += [(absolute, name), (os.path.normpath(absolute), os.path.normpath(name))]
        return absolute

    def _in_words(self, text: Any) -> Any:
        for absolute, name in self._given:
            text = text.replace(absolute, name) if isinstance(text, str) else text
        return text
