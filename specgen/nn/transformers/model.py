"""Models of any architecture, run by transformers through plain `forward` calls."""

import contextlib
import inspect
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GgufConfig

from specgen.checkpoint.checkpoint import Checkpoint, quant_method
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import SpecgenError, UnsupportedModel
from specgen.core.tokens import Tokens
from specgen.core.words import shorten
from specgen.nn.device import Placement
from specgen.nn.interface import UNNORMED, ForwardCall, SharedParts, StateListener
from specgen.nn.tap import Tap, check_layers
from specgen.nn.transformers.cache import RunnerCache

# Tokens of a prompt that are fed at a time, which bounds the memory of attention masks and activations.
_CHUNK = 1024
# Largest relative difference of logits between two ways to feed the same tokens, at least this many units in the last
# place. Rounding causes 1e-6 in float32 and a few units in shorter formats. A lost state causes 0.04 and more. If in
# doubt nothing is drafted, which is always right.
_SAME_STATE = 1e-3
_SAME_STATE_UNITS = 4
# These packages for quantized weights repeat warnings about which a user can do nothing.
_CHATTY = ("bitsandbytes", "torch.utils._pytree")
# Names of the norm after the last layer, in the order in which they are tried.
_FINAL_NORMS = ("norm", "final_layernorm", "ln_f", "final_norm", "norm_f")

transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


class TransformersModel:
    """A `LanguageModel` over a transformers model; see nn/interface.py.

    `can_verify` is False for recurrent models whose state cannot be restored after a rejected token. They generate one
    token a round.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = next((name for name in ("past_key_values", "cache_params") if name in parameters), None)
        self._keeps_logits = "logits_to_keep" in parameters
        self._takes_positions = "position_ids" in parameters
        self._cache = self._new_cache()
        # The caches of all contexts, the least recently used first. `_cache` is one of them.
        self._caches = [self._cache]
        self._held = 1
        head = model.get_output_embeddings()
        self.vocab_size = int(head.weight.shape[0] if head is not None else model.config.vocab_size)
        self._tap = Tap()
        self.can_verify = self._cache_name is not None and (self._cache.croppable or self._restores_states())

    @property
    def context_length(self) -> int | None:
        """The context length in tokens, None for a model without one, such as a recurrent model."""
        length = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        return length if isinstance(length, int) and length > 0 else None

    def begin_answer(self) -> None:
        """Nothing: transformers promises no bits."""

    @property
    def shared(self) -> SharedParts:
        model, head = self._model, self._model.get_output_embeddings()
        config = model.config.get_text_config()
        return SharedParts(
            model.get_input_embeddings(),
            _final_norm(model),
            lambda states: head(states).float(),
            config.hidden_size,
            config.num_hidden_layers,
            model.device,
            model.dtype,
        )

    def tap(self, layers: Sequence[int], listener: StateListener | None) -> None:
        check_layers(layers, self._model.config.get_text_config().num_hidden_layers)
        if UNNORMED in layers:
            _final_norm(self._model)  # raises for a model without one
        self._tap = Tap(layers, listener)

    def _new_cache(self) -> RunnerCache:
        return RunnerCache(lambda: DynamicCache(config=self._model.config))

    def hold(self, count: int) -> int:
        self._held = max(1, count)
        self._caches = self._caches[-self._held :]
        return self._held

    def cached(self, tokens: Tokens) -> int:
        return max(tokens.common_prefix(cache.tokens) for cache in self._caches)

    def forward_many(self, calls: Sequence[ForwardCall]) -> list[torch.Tensor]:
        """As LanguageModel says, one context after the other: few architectures pad a batch without other bits."""
        return [self.forward(tokens, last) for tokens, last in calls]

    def _choose_cache(self, tokens: Tokens) -> RunnerCache:
        """The cache that `tokens` continues, otherwise a new one, or the least recently used one if all are in use."""
        chosen = next((cache for cache in reversed(self._caches) if tokens.shares_log(cache.tokens)), None)
        if chosen is None:
            nearest = max(self._caches, key=lambda cache: tokens.common_prefix(cache.tokens))
            if len(nearest.tokens) == tokens.common_prefix(nearest.tokens):
                chosen = nearest
            else:
                chosen = self._new_cache() if len(self._caches) < self._held else self._caches[0]
        self._caches = [*(cache for cache in self._caches if cache is not chosen), chosen]
        return chosen

    @torch.inference_mode()
    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        self._cache = self._choose_cache(tokens)
        return self._score(tokens, last) if last else self._score(tokens, 1)[:0]

    def _score(self, tokens: Tokens, last: int) -> torch.Tensor:
        try:
            self._cache.roll_back(tokens, len(tokens) - last)
            if len(self._cache) and len(tokens) - len(self._cache) > 1 and not self.can_verify:
                self._cache.drop()
            if last > 1 and self.can_verify and not self._cache.croppable:
                self._save_before(tokens.prefix(len(tokens) - last))
            return self._feed(tokens, last)
        except BaseException:
            self._cache.drop()
            raise

    def _save_before(self, tokens: Tokens) -> None:
        """Feed `tokens` and keep a copy of the recurrent state, because later tokens may be rejected."""
        if len(tokens) > len(self._cache):
            self._feed(tokens, 1)
        self._cache.save()

    def _feed(self, tokens: Tokens, last: int) -> torch.Tensor:
        """Feed the tokens that are not in the cache, in chunks, and return the logits [last, vocab]."""
        while self.can_verify and len(tokens) - len(self._cache) - last >= _CHUNK:
            self._call(tokens.prefix(len(self._cache) + _CHUNK), 1)
            self._cache.roll_back(tokens, len(tokens))
        return self._call(tokens, last)

    def _call(self, tokens: Tokens, last: int) -> torch.Tensor:
        arguments: dict[str, Any] = {}
        start = 0
        if self._cache_name is not None:
            start = len(self._cache)
            arguments[self._cache_name] = self._cache.states
            arguments["use_cache"] = True
        if self._keeps_logits:
            arguments["logits_to_keep"] = last
        if self._takes_positions:
            # Some models (Bamba) count from 0 in every call without them.
            arguments["position_ids"] = torch.arange(start, len(tokens), device=self._model.device)[None]
        if self._tap.layers:
            arguments["output_hidden_states"] = True
        ids = torch.tensor([tokens.ids(start)], device=self._model.device)
        with _watch_norm(self._model, self._tap) as states:
            output = self._model(input_ids=ids, **arguments)
        if self._cache_name is not None:
            self._cache.fed(tokens)
        if self._tap.layers:
            states.update(enumerate(output.hidden_states))
            self._tap.tell(tokens, start, [states[layer][0] for layer in self._tap.layers])
        logits: torch.Tensor = output.logits[0, -last:].float()
        return logits

    @torch.inference_mode()
    def _restores_states(self) -> bool:
        """Whether a restored recurrent state gives the same logits, also for several tokens at once.

        A trial on a few tokens decides. Some models drop their state if they are fed several tokens (Mamba). Others
        keep it outside of the cache (RecurrentGemma).
        """
        tokens = Tokens([1 + i % max(1, self.vocab_size - 1) for i in range(8)])
        whole = self._call(tokens, 2)
        self._cache.drop()
        self._call(tokens.prefix(5), 1)
        self._cache.save()
        self._call(tokens.prefix(5) + tokens.ids()[:3], 1)
        self._cache.roll_back(tokens, 5)
        pieces = self._call(tokens, 2)
        self._cache.drop()
        difference = (whole - pieces).abs().max() / whole.abs().max().clamp(min=1e-6)
        return bool(difference < max(_SAME_STATE, _SAME_STATE_UNITS * torch.finfo(self._model.dtype).eps))


def _final_norm(model: Any) -> Any:
    """The norm after the last layer. Raises UnsupportedModel for a model that names it otherwise."""
    decoder = model.get_decoder()
    norm = next((found for name in _FINAL_NORMS if (found := getattr(decoder, name, None)) is not None), None)
    if norm is None:
        raise UnsupportedModel(
            f"{type(model).__name__} has no final norm that specgen knows, so a head cannot read its states",
            hint="choose another draft",
        )
    return norm


@contextlib.contextmanager
def _watch_norm(model: Any, tap: Tap) -> Iterator[dict[int, torch.Tensor]]:
    """The input of the final norm in the block, as the state UNNORMED, where `tap` wants it."""
    seen: dict[int, torch.Tensor] = {}
    if UNNORMED not in tap.layers:
        yield seen
        return
    handle = _final_norm(model).register_forward_pre_hook(lambda _, inputs: seen.update({UNNORMED: inputs[0]}))
    try:
        yield seen
    finally:
        handle.remove()


def load_model(checkpoint: Checkpoint, placement: Placement, *, trust_remote_code: bool) -> TransformersModel:
    """Load the weights of `checkpoint` onto the device. Raises UnsupportedModel if transformers cannot load them."""
    arguments: dict[str, Any] = {"dtype": placement.dtype, "trust_remote_code": trust_remote_code}
    quantized = quant_method(checkpoint) is not None
    if placement.spread:
        arguments["device_map"] = "auto"
    elif quantized:  # quantized weights cannot be moved later
        arguments["device_map"] = {"": placement.device}
    if quantized:
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
    if checkpoint.is_gguf:
        arguments["gguf_file"] = checkpoint.path.name
        arguments["quantization_config"] = GgufConfig(dequantize=True)
    folder = checkpoint.path.parent if checkpoint.is_gguf else checkpoint.path
    with _unsupported(checkpoint):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # _check_loaded names the tensor
            **arguments,
        )
    model, loading = loaded
    _check_loaded(checkpoint, model, loading)
    model = (model if "device_map" in arguments else model.to(placement.device)).eval()
    with _unsupported(checkpoint):  # some models require their own kind of cache
        return TransformersModel(model)


def _check_loaded(checkpoint: Checkpoint, model: Any, loading: dict[str, Any]) -> None:
    """Raise UnsupportedModel for missing tensors, other shapes than the config's, and tensors that a layer ignores."""
    if mismatched := sorted(loading.get("mismatched_keys") or ()):
        name, found, expected = mismatched[0]
        raise UnsupportedModel(
            f"{checkpoint.path}: the tensor {name} has the shape {list(found)}, its config asks for {list(expected)}",
            hint="choose another model",
        )
    if missing := sorted(loading["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UnsupportedModel(
            f"{checkpoint.ref}: the weights lack {missing[0]}{more}", hint="pull it again, or choose another model"
        )
    if quant_method(checkpoint) is not None:
        return
    owners = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    for name in sorted(loading.get("unexpected_keys") or ()):
        parent = name.rpartition(".")[0]
        if any(owner == parent or owner.endswith(f".{parent}") for owner in owners) or _is_beyond(model, name):
            raise UnsupportedModel(
                f"{checkpoint.path}: the tensor {name} is not part of this architecture, so the text would be wrong",
                hint="choose another model",
            )


def _is_beyond(model: Any, name: str) -> bool:
    """Whether the tensor `name` belongs to a layer beyond the last one, except layers for multi-token prediction."""
    path = name.split(".")
    at = next((index for index, part in enumerate(path) if part.isdecimal()), 0)
    prefix = ".".join(path[:at])
    extra = getattr(model.config.get_text_config(), "num_nextn_predict_layers", None) or 0
    return any(
        len(module) + extra <= int(path[at])
        for owner, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and prefix and (owner == prefix or owner.endswith(f".{prefix}"))
    )


def convert_tokenizer(checkpoint: Checkpoint, *, trust_remote_code: bool) -> Tokenizer:
    """The tokenizer of a model without tokenizer.json, such as a GGUF file. Raises UnsupportedModel."""
    folder = checkpoint.header.parent if checkpoint.is_gguf else checkpoint.path
    arguments = {"gguf_file": checkpoint.header.name} if checkpoint.is_gguf else {}
    with _unsupported(checkpoint):
        converted = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code, **arguments
        )
    backend = getattr(converted, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedModel(f"{checkpoint.ref}: its tokenizer has no fast version", hint="choose another model")
    special = {name: str(token) for name, token in converted.special_tokens_map.items() if isinstance(token, str)}
    template = converted.chat_template if isinstance(converted.chat_template, str) else None
    return Tokenizer(backend, special_tokens=special, chat_template=template)


@contextlib.contextmanager
def _unsupported(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn any exception of transformers into one line, but those for too little memory."""
    try:
        # transformers shows a progress bar for a GGUF file, whatever its settings.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except Exception as error:  # transformers and its packages raise exceptions of any class for a faulty config
        if isinstance(error, SpecgenError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = shorten(" ".join(lines[:2] if lines[0].endswith(":") else lines[:1]), 200)
        reason = f"unknown value {reason}" if isinstance(error, KeyError) else reason
        raise UnsupportedModel(f"{checkpoint.ref} cannot be loaded: {reason}", hint="choose another model") from error
