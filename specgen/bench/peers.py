"""Generation by transformers as a peer."""

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
from specgen.core.words import first_line

TRANSFORMERS = "transformers"
_LOOKUP_TOKENS = 10  # the value in transformers' documentation of prompt lookup


class _TimedStreamer:
    """A transformers streamer that records the arrival times of tokens. The first chunk is the prompt."""

    def __init__(self) -> None:
        self.chunks: list[tuple[float, list[int]]] = []

    def put(self, value: torch.Tensor) -> None:
        self.chunks.append((time.perf_counter(), [int(token) for token in value.flatten()]))

    def end(self) -> None:
        pass


class TransformersPeer:
    """One generation mode of transformers. Greedy; an end token does not stop it."""

    own = False
    kind = TRANSFORMERS
    reference = PLAIN

    def __init__(self, way: str, measures: tuple[str, ...], model: Any, **arguments: Any) -> None:
        self.name = f"{TRANSFORMERS} {way}"
        self.measures = measures
        self._model = model
        self._arguments = arguments

    def run(self, prompt: Sequence[int], new: int) -> Measurement:
        clock = _TimedStreamer()
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

    def prefill_time(self, prompt: Sequence[int]) -> float:
        """Seconds that the model takes to read `prompt`, in the way that `generate` does."""
        ids = torch.tensor([list(prompt)], device=self._model.device)
        with _quiet(), torch.inference_mode():
            start = time.perf_counter()
            self._model(ids, use_cache=True, logits_to_keep=1).logits[0, -1, -1].item()
            return time.perf_counter() - start


def load_peers(
    checkpoint: Checkpoint, draft: Checkpoint | None, dtype: Dtype, device: torch.device
) -> list[TransformersPeer]:
    """Load plain generation, assisted generation (if there is a draft) and prompt lookup. Raises UnsupportedModel.

    Assisted generation and prompt lookup use the default settings of transformers.
    """
    model = _load(checkpoint, dtype, device)
    peers = [TransformersPeer("plain", (PLAIN,), model)]
    if draft is not None:
        assistant = _load(draft, dtype, device)
        # With a different vocabulary size transformers re-tokenizes text, a different and much slower method.
        if assistant.config.get_text_config().vocab_size == model.config.get_text_config().vocab_size:
            peers.append(TransformersPeer("assisted", (MODEL, HYBRID), model, assistant_model=assistant))
    return [*peers, TransformersPeer("lookup", (LOOKUP,), model, prompt_lookup_num_tokens=_LOOKUP_TOKENS)]


def _load(checkpoint: Checkpoint, dtype: Dtype, device: torch.device) -> Any:
    import transformers  # noqa: PLC0415 - takes seconds; only this peer needs it

    if checkpoint.is_gguf:
        raise UnsupportedModel(
            f"{checkpoint.ref}: the transformers peer cannot read .gguf files",
            hint="use the model in safetensors format",
        )
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with _quiet():
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                checkpoint.path, local_files_only=True, use_safetensors=True, dtype=dtype.value
            )
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise UnsupportedModel(
            f"{checkpoint.ref}: the transformers peer cannot load it: {first_line(error)}", hint="leave out --peer"
        ) from error
    # Replaces the model's recommendations: greedy, no penalties, no end token.
    model.generation_config = transformers.GenerationConfig(do_sample=False)  # type: ignore[no-untyped-call]
    return model.to(device).eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings about internals of transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
