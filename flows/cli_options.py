"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override one value: a.b=c.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only, on stderr.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout; all else goes to stderr.")
]
AcceptChanges = Annotated[
    bool, typer.Option(help="Go on with other packages or processes than the search began with.")
]
Methods = Annotated[str, typer.Option(help="Names, such as sft,msft,msft_paper.")]
Seeds = Annotated[str, typer.Option(help="Such as 1,2,3; default: the file's.")]
Parallel = Annotated[
    int | None,
    typer.Option(min=1, help="Searches at a time; default: one a GPU, one on a CPU. More share them."),
]
OutputRoot = Annotated[str, typer.Option("--output-root", help="Where the searches lie.")]
Search = Annotated[
    str, typer.Argument(help="A search: its directory, its name with its id, or the beginning of that.")
]
