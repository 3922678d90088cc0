"""The schema of pairs.toml, and the names of pairs."""

import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import tomli

import specgen
from specgen.config.pairs import (
    curated,
    find_pair,
    heads_of,
    is_verified,
    known_models,
    models_of,
    pair_of_target,
    resolve,
)
from specgen.core.types import LOOKUP, ModelRef
from specgen.hub.client import huggingface_hub

TABLES: dict[str, dict[str, dict[str, Any]]] = tomli.loads(
    files("specgen.config").joinpath("pairs.toml").read_text(encoding="utf-8")
)
ROOT = Path(specgen.__file__).parent.parent
MODEL = {"licence": str, "parameters": int, "bytes": int, "gated": bool}
FAMILIES = (
    "qwen2.5-7b",
    "qwen2.5-coder-7b",
    "qwen3-8b",
    "llama3.1-8b",
    "llama3.2-3b",
    "llama3.3-70b",
    "gemma3-4b",
    "smollm2-1.7b",
    "mistral-small-3.2",
    "olmo2-7b",
    "granite4-micro",
    "falcon3-7b",
    "deepseek-r1-7b",
    "phi4",
    "gpt-oss-20b",
    "pythia-2.8b",
    "gpt2-xl",
    "stories",
)


@pytest.mark.parametrize("name", TABLES["models"])
def test_a_model_has_facts_and_says_where_they_were_read(name: str) -> None:
    table = dict(TABLES["models"][name])
    if "seen" in table or "read" in table:
        seen, read = table.pop("seen"), table.pop("read")
        assert seen
        assert all(
            page.startswith("https://") or (Path(specgen.__file__).parent.parent / page).is_file() for page in seen
        )
        assert isinstance(read, datetime.date)
        assert read >= datetime.date(2026, 11, 24)
    assert {key: type(value) for key, value in table.items()} == MODEL
    assert table["licence"]
    assert 0 < table["parameters"] < table["bytes"] * 2
    assert name.startswith("bundled:") or huggingface_hub.utils.validate_repo_id(name) is None
    assert any(name in (pair["target"], pair["draft"]) for pair in TABLES["pairs"].values()), "no pair uses it"


@pytest.mark.parametrize("name", TABLES["heads"])
def test_every_head_has_a_known_target_a_source_and_a_day(name: str) -> None:
    table = dict(TABLES["heads"][name])
    target = table.pop("target")
    assert target in [pair["target"] for pair in TABLES["pairs"].values()]
    assert isinstance(table.pop("read"), datetime.date)
    assert all(url.startswith("https://") for url in table.pop("seen"))
    assert not table
    assert name in [str(head) for head in heads_of(ModelRef.parse(f"{target}@main"))]


@pytest.mark.parametrize("name", TABLES["pairs"])
def test_a_pair_names_known_models_and_says_why(name: str) -> None:
    table = TABLES["pairs"][name]
    assert table.get("chats", False) is False
    assert set(table) - {"aliases", "chats"} == {"target", "draft", "about", "why"}
    target = TABLES["models"][table["target"]]
    if table["draft"] != LOOKUP:
        assert TABLES["models"][table["draft"]]["parameters"] * 2 < target["parameters"]
    assert all(isinstance(alias, str) and alias == alias.lower() for alias in table.get("aliases", []))
    assert all(table[key].endswith((".", ";")) for key in ("about", "why"))


def test_every_name_and_every_target_means_one_pair() -> None:
    names = [name for pair in curated().values() for name in (pair.name, *pair.aliases)]
    assert sorted(set(names)) == sorted(names)
    targets = [pair.target for pair in curated().values()]
    assert len(set(targets)) == len(targets)


def test_the_families_are_there() -> None:
    assert set(FAMILIES) <= set(curated())
    assert [name for name in ("phi4", "gpt-oss-20b") if curated()[name].draft is None] == ["phi4", "gpt-oss-20b"]


def test_sizes_of_the_bundled_pair_are_those_of_its_files() -> None:
    folder = Path(specgen.__file__).parent / "checkpoint" / "bundled"
    for model in models_of(curated()["stories"]):
        assert model.bytes == (folder / model.id.removeprefix("bundled:") / "model.safetensors").stat().st_size


def test_names_aliases_and_targets_find_a_pair() -> None:
    assert find_pair("Qwen2.5-Coder") is curated()["qwen2.5-coder-1.5b"]
    assert resolve("smollm2") == ModelRef("HuggingFaceTB/SmolLM2-1.7B-Instruct")
    assert resolve("org/name@v1") == ModelRef("org/name", "v1")
    assert pair_of_target(ModelRef("qwen/qwen3-8b", "main")) is curated()["qwen3-8b"]
    assert pair_of_target(ModelRef("Qwen/Qwen3-0.6B")) is None


def test_what_was_not_seen_is_not_verified() -> None:
    assert is_verified(curated()["stories"])
    assert not is_verified(curated()["llama3.1-8b"])
    assert not known_models()["tiiuae/Falcon3-1B-Instruct"].verified
    assert not is_verified(curated()["falcon3-7b"]), "its draft was not seen"
