"""Who may import whom, read from the source; and what the command line must not load before it has work to do."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import specgen

ROOT = Path(specgen.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A file imports from its own room or from a room above it in this list; `specgen` alone is the version.
ROOMS = (
    "core",
    "config",
    "hub",
    "checkpoint",
    "nn",
    "engine",
    "history",
    "session",
    "render",
    "serve",
    "train",
    "bench",
    "check",
    "doctor",
    "cli",
)
SLOW = ("torch", "transformers", "huggingface_hub", "tokenizers", "safetensors")


def imports(file: Path) -> Iterator[str]:
    """The full name of every module that `file` imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            module = node.module or ""
            yield module
            # `from specgen import session` names a module too.
            yield from (f"{module}.{alias.name}" for alias in node.names if module == "specgen")


def room(module: str) -> str:
    """The room of specgen that `module` belongs to; empty for specgen itself."""
    return module.partition(".")[2].partition(".")[0]


def home(file: Path) -> str:
    """The room that `file` is in."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def short(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", FILES, ids=short)
def test_imports_point_down(file: Path) -> None:
    own = home(file)
    if own in ("__init__", "__main__"):
        return  # the lazy public interface, and the entry point
    assert own in ROOMS, f"{own} is no room: say in ROOMS where it stands"
    for module in imports(file):
        other = room(module)
        if module.split(".")[0] != "specgen" or other in ("", "__version__"):
            continue
        assert other in ROOMS, f"{short(file)} imports {module}, which is in no room"
        assert ROOMS.index(other) <= ROOMS.index(own), f"{short(file)} imports {module}, which stands below it"


def test_what_is_shown_does_not_know_what_is_run() -> None:
    for file in FILES:
        if home(file) == "render":
            known = {room(module) for module in imports(file) if module.startswith("specgen.")}
            assert known <= {"core", "render"}, f"{short(file)} imports {known}"


SHOWING = {"rich", "typer", "click", "prompt_toolkit"}
FORBIDDEN = [
    ("core", SHOWING | {"torch", "transformers", "tokenizers", "huggingface_hub"}),
    ("config", SHOWING | {"torch", "transformers", "tokenizers", "huggingface_hub"}),
    ("hub", SHOWING | {"torch", "transformers", "tokenizers"}),
    ("checkpoint", SHOWING | {"torch", "transformers"}),
    ("nn", SHOWING),
    ("engine", SHOWING | {"transformers"}),
    ("history", SHOWING | {"torch", "transformers", "tokenizers", "huggingface_hub"}),
    ("session", SHOWING | {"transformers"}),
    ("render", {"torch", "transformers", "tokenizers", "huggingface_hub", "typer"}),
    ("serve", SHOWING | {"transformers"}),
    ("bench", SHOWING),
    ("check", SHOWING | {"transformers"}),
    ("doctor", SHOWING | {"transformers"}),
]


@pytest.mark.parametrize(("of", "forbidden"), FORBIDDEN, ids=[of for of, _ in FORBIDDEN])
def test_a_part_does_not_know_what_is_none_of_its_business(of: str, forbidden: set[str]) -> None:
    for file in FILES:
        if home(file) == of:
            known = {module.split(".")[0] for module in imports(file)}
            assert not known & forbidden, f"{short(file)} imports {known & forbidden}"


def test_only_the_runner_and_the_peers_import_transformers() -> None:
    users = {short(file) for file in FILES if any(module.split(".")[0] == "transformers" for module in imports(file))}
    assert users == {"nn/transformers/model.py", "bench/peers.py"}


def test_the_peers_import_transformers_only_when_they_are_asked_for() -> None:
    tree = ast.parse((ROOT / "bench" / "peers.py").read_text(encoding="utf-8"))
    at_the_top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    at_the_top |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert not any(module.split(".")[0] == "transformers" for module in at_the_top)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["chat", "--help"],
        ["bench", "--help"],
        ["check", "--help"],
        ["log"],
        ["stats"],
        ["templates"],
        ["doctor", "--help"],
        ["serve", "--help"],
        ["ps"],
        ["stop"],
        ["no-such"],
    ],
)
def test_the_command_line_loads_nothing_slow(arguments: list[str]) -> None:
    """Neither the libraries nor the parts of specgen that load them."""
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['specgen', *{arguments!r}]\n"
        "try:\n    runpy.run_module('specgen', run_name='__main__', alter_sys=False)\n"
        "except SystemExit:\n    pass\n"
        f"slow = [name for name in (*{SLOW!r}, 'specgen.session.session', 'specgen.engine') if name in sys.modules]\n"
        "sys.exit(f'loaded: {slow}' if slow else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout or done.stderr, "the command did not run"
