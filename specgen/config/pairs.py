"""Curated pairs of pairs.toml: a name for a target and its draft."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from specgen.core.files import canonical_path
from specgen.core.types import AUTO, LOOKUP, NONE, ModelPair, ModelRef


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model of pairs.toml. `bytes` is the size of its weight files, `seen` the pages that state these facts."""

    id: str
    licence: str
    parameters: int
    bytes: int
    gated: bool
    seen: tuple[str, ...]

    @property
    def verified(self) -> bool:
        return bool(self.seen)


@cache
def _tables() -> Mapping[str, Mapping[str, Any]]:
    from importlib.resources import files  # noqa: PLC0415 - most commands name no curated pair

    import tomli  # noqa: PLC0415 - as above

    return tomli.loads(files("specgen.config").joinpath("pairs.toml").read_text(encoding="utf-8"))


@cache
def known_models() -> Mapping[str, KnownModel]:
    """Every model of a curated pair, by id."""
    return {
        name: KnownModel(
            name,
            table["licence"],
            table["parameters"],
            table["bytes"],
            table["gated"],
            tuple(table.get("seen", ())),
        )
        for name, table in _tables()["models"].items()
    }


@cache
def curated() -> Mapping[str, ModelPair]:
    """Every curated pair, by name."""
    return {
        name: ModelPair(
            name=name,
            aliases=tuple(table.get("aliases", ())),
            target=ModelRef.parse(table["target"]),
            draft=None if table["draft"] == LOOKUP else ModelRef.parse(table["draft"]),
            about=table["about"],
            why=table["why"],
            chats=table.get("chats", True),
        )
        for name, table in _tables()["pairs"].items()
    }


def heads_of(target: ModelRef) -> tuple[ModelRef, ...]:
    """The published heads for `target`, at any revision."""
    tables = _tables()["heads"]
    return tuple(ModelRef.parse(name) for name, table in tables.items() if table["target"] == target.source)


def models_of(pair: ModelPair) -> tuple[KnownModel, ...]:
    """The target of a pair, and its draft model if it has one."""
    refs = (pair.target, pair.draft) if pair.draft else (pair.target,)
    return tuple(known_models()[ref.source] for ref in refs)


def is_verified(pair: ModelPair) -> bool:
    """Whether the facts of both models come from the pages of their publishers."""
    return all(model.verified for model in models_of(pair))


def find_pair(model: str) -> ModelPair | None:
    """The curated pair with this name or alias, case-insensitive."""
    name = model.lower()
    return next((pair for pair in curated().values() if name == pair.name or name in pair.aliases), None)


def pair_of_target(ref: ModelRef) -> ModelPair | None:
    """The curated pair with this target, at any revision."""
    source = ref.source.lower()
    return next((pair for pair in curated().values() if pair.target.source.lower() == source), None)


def canonical_name(model: str) -> str:
    """The absolute path for the name of an existing file or folder; any other name unchanged.

    Processes in other folders understand it, and two spellings of a path become one name.
    """
    path = None if model in (AUTO, LOOKUP, NONE) else canonical_path(model)
    return str(path) if path and find_pair(model) is None else model


def resolve(model: str) -> ModelRef:
    """The target that `model` names: the target of a curated pair, or the model itself."""
    pair = find_pair(model)
    return pair.target if pair else ModelRef.parse(canonical_name(model))


def resolve_draft(draft: str) -> str:
    """The draft that `draft` names: the draft of a curated pair, or the draft itself."""
    pair = find_pair(draft)
    if pair is None:
        return canonical_name(draft)
    return str(pair.draft) if pair.draft else LOOKUP
