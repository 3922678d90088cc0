"""Shell completion: names of models, profiles, templates and settings. Imports nothing slow."""

import os
from collections.abc import Iterable
from pathlib import Path

from specgen.config import settings

_REPOSITORY = "models--"


def models(incomplete: str) -> list[str]:
    """Curated pairs and cached models."""
    return _matching(model_names(), incomplete)


def drafts(incomplete: str) -> list[str]:
    return _matching(("auto", "lookup", "none", *model_names()), incomplete)


def cached(incomplete: str) -> list[str]:
    return _matching(_cached_names(), incomplete)


def profiles(incomplete: str) -> list[str]:
    return _matching(settings.profile_names(), incomplete)


def templates(incomplete: str) -> list[str]:
    from specgen.config.templates import names  # noqa: PLC0415 - --help does not need it

    return _matching(names(), incomplete)


def setting_keys(incomplete: str) -> list[str]:
    return _matching(settings.KEYS, incomplete)


def model_names() -> list[str]:
    """The names of curated pairs and cached models, without any connection."""
    from specgen.config.pairs import curated  # noqa: PLC0415 - --help does not need it

    pairs = [name for pair in curated().values() for name in (pair.name, *pair.aliases)]
    return [*pairs, *_cached_names()]


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _cached_names() -> list[str]:
    """The names of the cache's folders. huggingface_hub would take 0.3 s to import."""
    folder = os.environ.get("HF_HUB_CACHE")
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    place = Path(folder) if folder else Path(home) / "hub"
    found = place.expanduser().glob(f"{_REPOSITORY}*")
    return sorted(path.name.removeprefix(_REPOSITORY).replace("--", "/") for path in found)
