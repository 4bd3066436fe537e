"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override one value: a.b=c.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only, on stderr.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout; all else goes to stderr.")
]
OutputRoot = Annotated[str, typer.Option("--output-root", help="Where the searches lie.")]
Search = Annotated[
    str, typer.Argument(help="A search: its directory, its name with its id, or the beginning of that.")
]
