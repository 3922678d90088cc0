"""A session whose loaded pair several callers use in turn."""

import contextlib
from collections.abc import Generator, Iterator, MutableMapping
from typing import Any

from specgen.checkpoint.checkpoint import Checkpoint, find
from specgen.core.errors import SpecgenError
from specgen.core.events import Event, LoadedModel
from specgen.core.progress import Reporting
from specgen.core.types import EngineOptions
from specgen.engine.pacing.controller import Controller, make_controller
from specgen.serve.worker.compute import ComputeThread, run_apart
from specgen.session.loading import Opener, with_draft
from specgen.session.pair import Pair
from specgen.session.session import Pacing, Session


class SharedSession(Session):
    """A session that drafts for each caller with the caller's own draft length and controllers.

    It computes in `compute`, with `threads` threads of torch.
    """

    _caller: Pacing | None = None
    _models: tuple[LoadedModel | None, ...] = ()

    def __init__(
        self,
        target: str,
        draft: str,
        options: EngineOptions,
        *,
        opener: Opener,
        compute: ComputeThread,
        threads: int,
    ) -> None:
        super().__init__(target, draft, options, opener=opener)
        self._compute, self._threads = compute, threads

    @property
    def pacing(self) -> Pacing:
        return self._caller or super().pacing

    @contextlib.contextmanager
    def drafting(
        self, num_draft_tokens: int | None, controllers: MutableMapping[int | None, Controller]
    ) -> Iterator[None]:
        """Use a caller's pacing meanwhile. `controllers` of the caller are kept by draft length."""
        controller = controllers.setdefault(num_draft_tokens, make_controller(num_draft_tokens))
        self._caller = Pacing(num_draft_tokens, controller)
        try:
            yield
        finally:
            self._caller = None

    def open_on(self, pair: Pair) -> Generator[Event, None, None]:
        """Open on the loaded target of `pair` and its cache. Raises SpecgenError.

        Afterwards only this session may use that target.
        """
        yield from self._replace_pair(run_apart(with_draft(pair, self._draft, self._options), self._threads))

    def is_current(self) -> Generator[Event, None, bool]:
        """Whether opening again would load the same files: pins move, and files change."""
        pair = self.pair
        try:
            for checkpoint in filter(None, (pair.checkpoint, pair.draft_checkpoint)):
                if (yield from find_again(checkpoint, self._options)) != checkpoint:
                    return False
            return self._models == (pair.loaded_target, pair.loaded_draft)
        except (SpecgenError, OSError):  # opening it again reports the fault
            return False

    def run(self, *arguments: Any, **named: Any) -> Generator[Event, None, None]:
        yield from self._compute.run(super().run(*arguments, **named), self._threads)

    def _replace_pair(self, opening: Generator[Event, None, Pair]) -> Generator[Event, None, None]:
        yield from super()._replace_pair(opening)
        self._models = self.pair.loaded_target, self.pair.loaded_draft


def find_again(checkpoint: Checkpoint, options: EngineOptions) -> Reporting[Checkpoint]:
    """The checkpoint that the name of a loaded one means now."""
    return find(checkpoint.ref, offline=options.offline, trust_remote_code=options.trust_remote_code)
