"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Config = Annotated[str, typer.Argument(help="YAML file of the search, or the name of an example such as quickstart.")]
Search = Annotated[str, typer.Argument(help="Directory of a search, or its NAME-ID, or a unique beginning of that.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Replace one value: a.b=c. Repeatable.")]
OutputRoot = Annotated[str, typer.Option("--output-root", help="Folder of the searches.")]
Seeds = Annotated[str, typer.Option(help="Seeds, comma-separated; default: the file's.")]
Parallel = Annotated[int | None, typer.Option(min=1, help="Searches at a time; default: one per GPU, or one on a CPU.")]
On = Annotated[
    str,
    typer.Option("--on", help="Deployment whose pool runs the searches, such as search-arm; default: this machine."),
]
AtOnce = Annotated[
    int | None, typer.Option("--at-once", min=1, help="Searches placed with --on at a time; default: all.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only, on stderr.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, everything else on stderr.")]
AcceptChanges = Annotated[
    bool, typer.Option("--accept-changes", help="Resume with other package versions or processes than at the start.")
]
