"""A pair that another process has loaded."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from specgen.core.types import EngineOptions, ModelRef
from specgen.serve.asked import Opened

if TYPE_CHECKING:
    from specgen.checkpoint.tokenizer import Tokenizer


class WarmPair:
    """What is known of it here, named as in loading.Pair; its tokenizer is read when it is asked for."""

    def __init__(self, opened: Opened, options: EngineOptions) -> None:
        self.loaded_target = opened.target
        self.loaded_draft = opened.draft
        self.drafter_name = opened.drafter
        self.context_length = opened.context_length
        self._path = Path(opened.path)
        self._options = options

    @functools.cached_property
    def tokenizer(self) -> "Tokenizer":
        from specgen.checkpoint.checkpoint import Checkpoint  # noqa: PLC0415 - a chat alone needs it
        from specgen.session.prompt import read_tokenizer  # noqa: PLC0415

        return read_tokenizer(Checkpoint(ModelRef.parse(self.loaded_target.id), self._path), self._options)
