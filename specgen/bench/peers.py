"""transformers' own generation, on the same prompts in the same run."""

import contextlib
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from specgen.bench.contenders import HYBRID, LOOKUP, MODEL, PLAIN
from specgen.bench.measure import Measurement
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.errors import UnsupportedModel
from specgen.core.events import Stats
from specgen.core.types import Dtype

TRANSFORMERS = "transformers"
# What transformers' documentation proposes for prompt lookup.
_LOOKUP_TOKENS = 10


class _Clock:
    """A streamer of transformers that notes when tokens come. What comes first is the prompt."""

    def __init__(self) -> None:
        self.chunks: list[tuple[float, list[int]]] = []

    def put(self, value: torch.Tensor) -> None:
        self.chunks.append((time.perf_counter(), [int(token) for token in value.flatten()]))

    def end(self) -> None:
        pass


class Peer:
    """One way of transformers to generate, greedily, as many tokens as are asked for."""

    ours = False
    kind = TRANSFORMERS
    reference = PLAIN

    def __init__(self, way: str, measures: tuple[str, ...], model: Any, **arguments: Any) -> None:
        self.name = f"{TRANSFORMERS} {way}"
        self.measures = measures
        self._model = model
        self._arguments = arguments

    def run(self, prompt: Sequence[int], new: int) -> Measurement:
        clock = _Clock()
        ids = torch.tensor([list(prompt)], device=self._model.device)
        with _quiet(), torch.inference_mode():
            start = time.perf_counter()
            self._model.generate(
                ids, attention_mask=torch.ones_like(ids), streamer=clock, max_new_tokens=new, **self._arguments
            )
        chunks = clock.chunks[1:]
        made = tuple(token for _, chunk in chunks for token in chunk)
        stats = Stats(
            prompt_tokens=len(prompt),
            generated_tokens=len(made),
            rounds=len(chunks),
            time_to_first_token_s=chunks[0][0] - start,
            first_round_tokens=len(chunks[0][1]),
            elapsed_s=chunks[-1][0] - start,
        )
        return Measurement(made, stats)

    def read_time(self, prompt: Sequence[int]) -> float:
        """The seconds that the model takes to read `prompt`, as `generate` would have it read."""
        ids = torch.tensor([list(prompt)], device=self._model.device)
        with _quiet(), torch.inference_mode():
            start = time.perf_counter()
            self._model(ids, use_cache=True, logits_to_keep=1).logits[0, -1, -1].item()
            return time.perf_counter() - start


def load_peers(checkpoint: Checkpoint, draft: Checkpoint | None, dtype: Dtype, device: torch.device) -> list[Peer]:
    """Plain generation, assisted generation where there is a draft, prompt lookup. Raises UnsupportedModel.

    Both ways to draft have transformers' own settings.
    """
    model = _load(checkpoint, dtype, device)
    peers = [Peer("plain", (PLAIN,), model)]
    if draft is not None:
        assistant = _load(draft, dtype, device)
        # With rows of another width transformers drafts by text, which is another and much slower way.
        if assistant.config.get_text_config().vocab_size == model.config.get_text_config().vocab_size:
            peers.append(Peer("assisted", (MODEL, HYBRID), model, assistant_model=assistant))
    return [*peers, Peer("lookup", (LOOKUP,), model, prompt_lookup_num_tokens=_LOOKUP_TOKENS)]


def _load(checkpoint: Checkpoint, dtype: Dtype, device: torch.device) -> Any:
    import transformers  # noqa: PLC0415 - seconds, for those only who ask for it

    if checkpoint.is_gguf:
        raise UnsupportedModel(
            f"{checkpoint.ref}: the peer reads no .gguf files", hint="name the model in the hub's format"
        )
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with _quiet():
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                checkpoint.path, local_files_only=True, use_safetensors=True, dtype=dtype.value
            )
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnsupportedModel(
            f"{checkpoint.ref}: the peer cannot load it: {reason}", hint="leave out --peer"
        ) from error
    # Nothing that the model recommends: greedy, no penalties, and no token ends the text before its time.
    model.generation_config = transformers.GenerationConfig(do_sample=False)  # type: ignore[no-untyped-call]
    return model.to(device).eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that are about transformers' own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
