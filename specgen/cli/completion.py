"""What the shell offers for a word: models, profiles, templates and settings. Nothing slow is imported here."""

import os
from pathlib import Path

from specgen.config import settings

_REPOSITORY = "models--"


def models(incomplete: str) -> list[str]:
    """Curated pairs, and what is in the Hugging Face cache."""
    return [name for name in model_names() if name.startswith(incomplete)]


def drafts(incomplete: str) -> list[str]:
    return [name for name in ("auto", "lookup", "none", *model_names()) if name.startswith(incomplete)]


def cached(incomplete: str) -> list[str]:
    return [name for name in _cached_names() if name.startswith(incomplete)]


def profiles(incomplete: str) -> list[str]:
    return [name for name in settings.profile_names() if name.startswith(incomplete)]


def templates(incomplete: str) -> list[str]:
    from specgen.config.templates import names  # noqa: PLC0415 - --help asks for no names

    return [name for name in names() if name.startswith(incomplete)]


def setting_keys(incomplete: str) -> list[str]:
    return [key for key in settings.KEYS if key.startswith(incomplete)]


def model_names() -> list[str]:
    """Every name of a model that is known here without asking anybody."""
    from specgen.config.pairs import curated  # noqa: PLC0415 - --help asks for no names

    pairs = [name for pair in curated().values() for name in (pair.name, *pair.aliases)]
    return [*pairs, *_cached_names()]


def _cached_names() -> list[str]:
    """From the names of the cache's folders: huggingface_hub takes 0.3 s to import."""
    folder = os.environ.get("HF_HUB_CACHE")
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    place = Path(folder) if folder else Path(home) / "hub"
    found = place.expanduser().glob(f"{_REPOSITORY}*")
    return sorted(path.name.removeprefix(_REPOSITORY).replace("--", "/") for path in found)
