"""Curated pairs, read from pairs.toml: a name stands for a target and the draft that fits it."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import tomli

from specgen.core import ModelPair, ModelRef


@cache
def curated() -> Mapping[str, ModelPair]:
    """Every curated pair by its name."""
    tables = tomli.loads(files("specgen").joinpath("pairs.toml").read_text(encoding="utf-8"))
    return {
        name: ModelPair(
            name=name,
            target=ModelRef.parse(table["target"]),
            draft=ModelRef.parse(table["draft"]),
            about=table["about"],
            licence=table["licence"],
        )
        for name, table in tables.items()
    }


def resolve(model: str, draft: str) -> tuple[ModelRef, str]:
    """The target and the drafter that the user's words stand for.

    A curated name is its target; `auto` is the draft of that pair, and `lookup` for any other target. A curated name as
    the draft is that pair's draft.
    """
    pair = curated().get(model)
    if draft == "auto":
        draft = str(pair.draft) if pair else "lookup"
    elif draft in curated():
        draft = str(curated()[draft].draft)
    return (pair.target if pair else ModelRef.parse(model)), draft
