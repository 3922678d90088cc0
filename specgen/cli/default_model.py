"""The default target: a suggestion that fits this machine, if the user names none."""

import sys

from specgen.cli.options import ModelOptions
from specgen.cli.ui import agreed
from specgen.core.errors import UsageError
from specgen.core.types import Device, ModelPair
from specgen.core.words import format_bytes
from specgen.render.terminal import is_terminal

# Parameters. On a CPU every token reads all weights, so larger models are slow.
_MOST_ON_CPU = 4e9
_PERMISSIVE = ("apache-2.0", "mit")


def named_model(models: ModelOptions) -> str:
    """The target of the user or a setting, otherwise a suggestion that the user accepts.

    In a pipe only --yes accepts. Raises UsageError without a target.
    """
    if models.model is not None:
        return models.model
    asks = is_terminal(sys.stdin) and is_terminal(sys.stderr)
    pair = suggest(models) if asks or models.yes else None
    if pair and (models.yes or agreed(_question(pair), default=True)):
        return pair.name
    raise UsageError("no model is named", hint="try -m stories, or name one of the hub: -m org/name")


def suggest(models: ModelOptions) -> ModelPair | None:
    """The largest curated pair that fits the free memory; a cached pair comes first.

    Only verified chat models under a permissive licence that are not gated.
    """
    from specgen.config.pairs import curated, is_verified, models_of  # noqa: PLC0415
    from specgen.hub.cache import complete_models  # noqa: PLC0415
    from specgen.nn.device import choose_device  # noqa: PLC0415 - imports torch
    from specgen.session.memory_plan import fits_roughly  # noqa: PLC0415

    device = choose_device(models.device)
    cached = complete_models()
    most = _MOST_ON_CPU if device.type == Device.CPU else float("inf")

    def is_cached(pair: ModelPair) -> bool:
        return all(model.id in cached for model in models_of(pair))

    def is_suitable(pair: ModelPair) -> bool:
        both = models_of(pair)
        permissive = all(model.licence in _PERMISSIVE and not model.gated for model in both)
        return pair.chats and is_verified(pair) and permissive and both[0].parameters <= most

    found = [pair for pair in curated().values() if is_suitable(pair) and (is_cached(pair) or not models.offline)]
    found = [pair for pair in found if fits_roughly(pair, device)]
    return max(found, key=lambda pair: (is_cached(pair), models_of(pair)[0].parameters), default=None)


def _question(pair: ModelPair) -> str:
    from specgen.config.pairs import models_of  # noqa: PLC0415
    from specgen.hub.cache import complete_models  # noqa: PLC0415

    cached = complete_models()
    both = models_of(pair)
    missing = sum(model.bytes for model in both if model.id not in cached)
    names = " with ".join(model.id for model in both)
    licences = ", ".join(dict.fromkeys(model.licence for model in both))
    size = f"{format_bytes(missing)} to download" if missing else "cached already"
    return f"No model is named. {names} fits this machine ({size}, {licences}). {pair.about} Use it?"
