"""What --help looks like: options under headings, examples on a line each, as they are typed."""

import inspect
from typing import Any

import typer.core

from specgen.cli.coercing import read_plainly
from specgen.cli.configured import guard

_REST = "Options"


class Command(typer.core.TyperCommand):
    """A command whose options stand under the headings that `grouped` gave them."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        _write_help(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is None:
                continue
            if parameter.param_type_name == "argument":
                # Typer adds the Python type; the metavar says it better.
                sections["Arguments"].append((record[0].partition(" <")[0], record[1]))
            else:
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or _REST, []).append(record)
        sections[_REST] = sections.pop(_REST)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        read_plainly(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        guard(ctx)
        return super().invoke(ctx)


class Group(typer.core.TyperGroup):
    """A command that has sub-commands, in alphabetical order."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        read_plainly(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's signature
        _write_help(self.help or "", formatter)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Typer's signature
        return sorted(self.commands)


def _write_help(text: str, formatter: Any) -> None:
    """Paragraphs are wrapped; lines that are indented stay as they are."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        formatter.write_paragraph()
        with formatter.indentation():
            if paragraph.startswith(" "):
                formatter.write("".join(f"{'':>{formatter.current_indent}}{line}\n" for line in paragraph.splitlines()))
            else:
                formatter.write_text(paragraph)
