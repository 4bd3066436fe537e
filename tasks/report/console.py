"""Where a command prints: the terminal, or nowhere."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(highlight=False, soft_wrap=True)
problems = Console(highlight=False, soft_wrap=True, stderr=True)

# Rich takes a pipe for a terminal of 80 columns.
_PIPE_WIDTH = 160


class Output:
    """What a command prints: all, or with --quiet only warnings and errors; with --json the result alone on stdout."""

    def __init__(self) -> None:
        self.is_json = False

    def choose(self, *, quiet: bool, as_json: bool) -> None:
        """Take up the command's options."""
        self.is_json = as_json
        console.quiet = quiet
        console.stderr = as_json

    def give(self, result: Any) -> None:
        """Print a result for machines, where they asked for it."""
        if self.is_json:
            print(json.dumps(result, ensure_ascii=False, indent=1), flush=True)


output = Output()


def print_table(table: Table) -> None:
    """Print a table; into a pipe or file, each of its rows is one line."""
    width = console.width
    if not console.is_terminal:
        console.width = max(width, _PIPE_WIDTH)
    console.print(table)
    console.width = width
