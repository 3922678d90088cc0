"""What a command's --help looks like: options under headings, and what settings and flags must agree on."""

from typing import Any

import typer.core

from specgen.cli.configured import guard

_REST = "Options"


class Command(typer.core.TyperCommand):
    """A command whose options stand under the headings that `grouped` gave them."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is None:
                continue
            if parameter.param_type_name == "argument":
                # Typer adds the Python type; the metavar says it better.
                sections["Arguments"].append((record[0].partition(" <")[0], record[1]))
            else:
                heading = getattr(parameter, "rich_help_panel", None) or _REST
                sections.setdefault(heading, []).append(record)
        if _REST in sections:
            sections[_REST] = sections.pop(_REST)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def invoke(self, ctx: Any) -> Any:
        guard(ctx)
        return super().invoke(ctx)
