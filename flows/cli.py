"""The command `msft`: parses arguments, calls a flow, prints its result."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from flows.cli_compare import compare, methods, sweep
from flows.cli_operations import deploy, doctor, follow, profile
from flows.cli_search import export, headroom, init, inspect, plan, report, resume, score, search, status
from tasks.errors import ConfigError, MsftError
from tasks.report import terminal
from tasks.runtime.processes import leave_torch_to_workers, settle_environment

logger = logging.getLogger("flows.cli")  # `python -m flows.cli` names this module __main__
_EPILOG = (
    "Exit codes: 0 success; 1 failure, with a fix in the message (doctor: a check fails); 2 the configuration or the "
    "command line is refused; 130 after Ctrl-C, 143 after SIGTERM, 129 when the terminal closes: the same command "
    "resumes.\n\nNO_COLOR=1 turns colors off. Shell completion: msft --install-completion."
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type(super().get_params(ctx))


def _without_type(params: list[Any]) -> list[Any]:
    """Take `<bool>` from the help of flags."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"msft {version('msft-search')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """mSFT: fine-tune on a mixture of sub-datasets, with none of them overfitting while others still learn."""
    settle_environment()


for _command in (
    init,
    inspect,
    plan,
    headroom,
    search,
    resume,
    status,
    report,
    export,
    score,
    compare,
    sweep,
    methods,
    deploy,
    follow,
    doctor,
    profile,
):
    app.command(cls=_Command)(_command)


class _EndOnSignal:
    """Ends the command on a signal and remembers it, since a library may replace the exception."""

    def __init__(self) -> None:
        self.number = 0
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, self._on_signal)

    def ignore(self) -> None:
        """Ignore signals once everything is done: at Python's exit they would count as a failure."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)


class _EndAtOnce:
    """Ends the process as soon as all threads and exit handlers have ended.

    Python would destroy the modules of torch and MLflow one by one: 1.5 s of CPU.
    """

    def __init__(self) -> None:
        self.code = 1  # of an error that is not ours, whose traceback Python has printed
        atexit.register(self._end)  # the first handler is called last

    def _end(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed, as that of a closed terminal
                stream.flush()
        os._exit(self.code)


def main() -> None:
    """Run the command; print our own errors without a traceback and exit with 2 for the configuration, otherwise 1.

    Ctrl-C exits with 130, SIGTERM with 143 and a closed terminal with 129, after workers have saved a checkpoint.
    """
    leave_torch_to_workers()
    end = _EndAtOnce()
    try:
        _run()
    except SystemExit as exited:
        end.code = exited.code if isinstance(exited.code, int) else int(exited.code is not None)
        raise
    end.code = 0


def _run() -> None:
    terminal.log_to_terminal()
    end = _EndOnSignal()
    try:
        app()
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            end.ignore()
            raise  # it was done already
        if end.number:
            logger.info("interrupted; the same command goes on from the last checkpoint")
            sys.exit(128 + end.number)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            terminal.fail(f"{error}; free some space and run the same command again, nothing that was finished is lost")
            sys.exit(1)
        if isinstance(error, MsftError):
            terminal.fail(str(error))
            sys.exit(2 if isinstance(error, ConfigError) else 1)
        raise


if __name__ == "__main__":
    main()
