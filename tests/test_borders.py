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

# From the top down; a file imports from its own layer or from one below. `specgen` alone is the version.
LAYERS: list[set[str]] = [
    {"cli", "__main__"},
    {"session", "conversation", "loading", "choosing", "planning", "tokenizing", "recommended", "prompt", "saved_chat"}
    | {"answer", "render", "history", "bench", "checking", "doctor", "serve", "trends", "templates", "expected"}
    | {"streams", "tuned"},
    {"engine"},
    {"models"},
    {"errors", "core", "events", "settings", "pairs", "costs", "sizes", "nearest"},
]
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


def part(module: str) -> str:
    """The package or module of specgen that `module` belongs to; empty for specgen itself."""
    return module.partition(".")[2].partition(".")[0]


def name(file: Path) -> str:
    """The part that `file` is, or is in."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def layer(of: str) -> int:
    found = [level for level, parts in enumerate(LAYERS) if of in parts]
    assert found, f"{of} belongs to no layer: say in this test where it stands"
    return found[0]


def short(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", FILES, ids=short)
def test_imports_point_down(file: Path) -> None:
    if name(file) == "__init__":
        return  # the lazy public interface
    level = layer(name(file))
    for module in imports(file):
        other = part(module)
        if module.split(".")[0] != "specgen" or other in ("", "__version__", name(file)):
            continue
        assert layer(other) >= level, f"{short(file)} imports {module}, which stands above it"


def test_neighbours_that_do_not_know_each_other() -> None:
    """In one layer, but apart: what is shown and what is run."""
    apart = {
        "render": {"session", "conversation", "loading", "bench", "checking", "history", "serve"},
        "session": {"render"},
        "answer": {"render"},
        "loading": {"render"},
    }
    for file in FILES:
        for module in imports(file):
            if module.startswith("specgen."):
                assert part(module) not in apart.get(name(file), set()), f"{short(file)} imports {module}"


FORBIDDEN = [
    ("engine", {"rich", "typer", "click", "prompt_toolkit"}),
    ("models", {"rich", "typer", "click", "prompt_toolkit", "torch"}),
    ("render", {"torch", "transformers", "tokenizers", "huggingface_hub", "typer"}),
    ("errors", {"torch", "rich", "typer", "transformers"}),
    ("core", {"torch", "rich", "typer", "transformers"}),
    ("events", {"torch", "rich", "typer", "transformers"}),
    ("costs", {"torch", "rich", "typer", "transformers"}),
    ("settings", {"torch", "rich", "typer", "transformers"}),
    ("pairs", {"torch", "rich", "typer", "transformers"}),
    ("session", {"rich", "typer", "transformers"}),
    ("answer", {"rich", "typer", "transformers"}),
    ("conversation", {"rich", "typer", "transformers"}),
    ("loading", {"rich", "typer", "transformers"}),
    ("history", {"torch", "rich", "typer", "transformers"}),
    ("trends", {"torch", "rich", "typer", "transformers"}),
    ("templates", {"torch", "rich", "typer", "transformers"}),
    ("choosing", {"rich", "typer", "transformers"}),
    ("planning", {"rich", "typer", "transformers"}),
    ("bench", {"rich", "typer", "click", "prompt_toolkit"}),
    ("doctor", {"rich", "typer", "click", "prompt_toolkit", "transformers"}),
    ("checking", {"rich", "typer", "click", "prompt_toolkit", "transformers"}),
    ("serve", {"rich", "typer", "click", "prompt_toolkit", "transformers"}),
]


@pytest.mark.parametrize(("of", "forbidden"), FORBIDDEN, ids=[of for of, _ in FORBIDDEN])
def test_a_part_does_not_know_what_is_none_of_its_business(of: str, forbidden: set[str]) -> None:
    for file in FILES:
        if name(file) == of:
            known = {module.split(".")[0] for module in imports(file)}
            assert not known & forbidden, f"{short(file)} imports {known & forbidden}"


def test_only_the_runner_and_the_peers_import_transformers() -> None:
    users = {short(file) for file in FILES if any(module.split(".")[0] == "transformers" for module in imports(file))}
    assert users == {"engine/runners/transformers.py", "bench/peers.py"}


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
        ["tune", "--help"],
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
