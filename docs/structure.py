"""Write docs/files.md: every module of the package with the first line of its docstring.

python docs/structure.py > docs/files.md
"""

import ast
from itertools import groupby
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "specgen"
HEAD = """# Files

Every module with the first line of its docstring, written by `python docs/structure.py > docs/files.md`.
docs/structure.md explains the rooms.
"""


def modules() -> list[Path]:
    """All modules that have a docstring, sorted by room and path."""
    files = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    return sorted((path for path in files if first_line(path)), key=lambda path: (room(path), path.as_posix()))


def first_line(path: Path) -> str:
    """The first line of the docstring of a module; "" without one."""
    docstring = ast.get_docstring(ast.parse((PACKAGE / path).read_text(encoding="utf-8")))
    return docstring.splitlines()[0] if docstring else ""


def room(path: Path) -> str:
    """The first folder of a path; "" for a module beside the rooms."""
    return path.parts[0] if len(path.parts) > 1 else ""


def files_page() -> str:
    """The text of docs/files.md."""
    parts = [HEAD]
    for name, paths in groupby(modules(), room):
        rows = [f"| `{path.as_posix().removeprefix(f'{name}/')}` | {first_line(path)} |" for path in paths]
        parts.append("\n".join([f"## {name or 'specgen'}\n", "| file | what it does |", "| --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(files_page(), end="")
