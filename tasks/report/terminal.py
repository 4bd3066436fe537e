"""The terminal of a command: one logging handler prints what the stages log, and the command's own result."""

from __future__ import annotations

import json
import logging
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from tasks.report import messages

LOGGERS = ("flows", "tasks")
# Rich takes a pipe for a terminal of 80 columns; a table's row must stay one line there.
_PIPE_WIDTH = 160


class TerminalHandler(logging.Handler):
    """Print log records, and draw bars on a terminal.

    A record may carry what a terminal shows in place of its message (`extra={"rich": …}`), or the progress that a bar
    shows (`extra={"bar": …}`). Other messages are dimmed; warnings and errors are printed with their level.

    With `quiet`, warnings and errors alone are printed, on stderr; with `as_json`, all records are, and stdout has the
    result as JSON and nothing else.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        super().__init__(logging.WARNING if quiet else logging.DEBUG)
        self._as_json = as_json
        self._console = Console(highlight=False, soft_wrap=True, stderr=quiet or as_json)
        self._bars: Progress | None = None
        self._bar_id = TaskID(0)

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        console = self._console
        if hasattr(record, "bar") and console.is_terminal:
            self._draw(record.bar)
        elif record.levelno >= logging.INFO:
            width, shown = console.width, _shown(record)
            if isinstance(shown, Table) and not console.is_terminal:
                console.width = max(width, _PIPE_WIDTH)
            console.print(shown)
            console.width = width

    def give(self, result: Any) -> None:
        """Print the command's result, where JSON is asked for."""
        if self._as_json:
            print(json.dumps(result, ensure_ascii=False, indent=1), flush=True)

    def _draw(self, bar: messages.Bar | None) -> None:
        if bar is None:
            if self._bars is not None:
                self._bars.stop()
            self._bars = None
            return
        if self._bars is None:
            columns = (TextColumn(bar.title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"))
            self._bars = Progress(*columns, console=self._console, transient=True)
            self._bar_id = self._bars.add_task("", total=bar.total, detail="")
            self._bars.start()
        self._bars.update(self._bar_id, completed=bar.done, total=bar.total, detail=bar.detail)


def log_to_terminal(*, quiet: bool = False, as_json: bool = False) -> TerminalHandler:
    """Print the records of `flows` and `tasks` from now on; return the handler, which prints the result too."""
    handler = TerminalHandler(quiet=quiet, as_json=as_json)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        others = [other for other in logger.handlers if not isinstance(other, TerminalHandler)]
        logger.handlers = [*others, handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    logging.getLogger(messages.__name__).setLevel(logging.DEBUG)  # it logs each step of a bar below INFO
    return handler


def fail(text: str) -> None:
    """Print an error, and give it as the result where JSON is asked for."""
    logger = logging.getLogger("flows")
    for handler in logger.handlers:
        if isinstance(handler, TerminalHandler):
            handler.give({"error": text})
    logger.error(text)


def _shown(record: logging.LogRecord) -> Any:
    if record.levelno >= logging.WARNING:
        level = ("error:", "bold red") if record.levelno >= logging.ERROR else ("warning:", "yellow")
        return Text.assemble(level, " ", record.getMessage())
    return getattr(record, "rich", None) or Text(record.getMessage(), "" if hasattr(record, "bar") else "dim")
