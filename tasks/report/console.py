"""Where a command prints: the terminal, a log file, or nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table

_TERMINAL = Console(highlight=False, soft_wrap=True)
problems = Console(highlight=False, soft_wrap=True, stderr=True)
_LOG: ContextVar[Console | None] = ContextVar("log", default=None)

# Rich takes a pipe for a terminal of 80 columns.
_PIPE_WIDTH = 160


class _Current:
    """The console of whoever prints: the terminal, or the log of one of several searches side by side."""

    def __getattr__(self, name: str) -> Any:
        return getattr(current_console(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(current_console(), name, value)


def current_console() -> Console:
    """Return the console itself, for what draws in a thread of its own and uses it in a `with` statement."""
    return _LOG.get() or _TERMINAL


console = cast(Console, _Current())


class Output:
    """What a command prints: all, or with --quiet only warnings and errors; with --json the result alone on stdout."""

    def __init__(self) -> None:
        self.is_json = False

    def choose(self, *, quiet: bool, as_json: bool) -> None:
        """Take up the command's options."""
        self.is_json = as_json
        _TERMINAL.quiet = quiet
        _TERMINAL.stderr = as_json

    def give(self, result: Any) -> None:
        """Print a result for machines, where they asked for it."""
        if self.is_json:
            print(json.dumps(result, ensure_ascii=False, indent=1), flush=True)


output = Output()


@contextmanager
def printing_to(path: Path) -> Iterator[None]:
    """Append to a file what the block, and this thread alone, prints."""
    with path.open("a", encoding="utf-8") as file:
        token = _LOG.set(Console(file=file, highlight=False, soft_wrap=True, width=120))
        try:
            yield
        finally:
            _LOG.reset(token)


def print_table(table: Table) -> None:
    """Print a table; into a pipe or file, each of its rows is one line."""
    width = console.width
    if not console.is_terminal:
        console.width = max(width, _PIPE_WIDTH)
    console.print(table)
    console.width = width
