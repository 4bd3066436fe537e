"""The command `msft`: parses, calls a flow, prints."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Literal

import typer

from flows.cli_compare import compare, sweep
from flows.cli_doctor import doctor
from flows.cli_export import export
from flows.cli_init import init
from flows.cli_options import AcceptChanges, Json, Overrides, Quiet
from flows.cli_plan import plan
from flows.cli_report import report
from flows.cli_status import resume, status
from tasks.errors import ConfigError, MsftError

logger = logging.getLogger(__name__)
_EPILOG = "\n\n".join(
    (
        "Exit codes: 0 done; 1 failed, and the message says what to do (doctor: something fails); "
        "2 the configuration or the command line is refused.",
        "130 after Ctrl-C, 143 after SIGTERM, 129 when the terminal is gone: the same command goes on.",
        "NO_COLOR=1 leaves out colours. Completion for your shell: msft --install-completion.",
    )
)

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, epilog=_EPILOG)

Schedule = Literal["off", "queue", "skip"]


@app.callback()
def root() -> None:
    """mSFT: fine-tune on a mixture of sub-datasets without any of them overfitting while others still learn."""
    _quieten()


app.command()(init)
app.command()(plan)


@app.command()
def search(
    config: Annotated[str, typer.Argument(help="The search's YAML file.")],
    overrides: Overrides = None,
    print_config: Annotated[
        bool, typer.Option(help="Print every value and whether it is a default; run nothing.")
    ] = False,
    accept_changes: AcceptChanges = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search for the champion of a mixture; run again after an interruption, it goes on where it was."""
    from tasks.config.loading import explain_config, load_config
    from tasks.report.console import output

    output.choose(quiet=quiet, as_json=as_json)
    loaded = load_config(config, overrides or [])
    if print_config:
        print(explain_config(loaded))
        return
    from flows.search import msft_search
    from tasks.record.ownership import directory_of
    from tasks.record.status import read_summary
    from tasks.runtime.prefect_server import run_flow

    run_flow(lambda: msft_search(loaded, accept_changes), loaded.output_root)
    output.give(read_summary(str(directory_of(loaded))))


@app.command()
def deploy(
    names: Annotated[list[str] | None, typer.Argument(help="Deployments of the file.")] = None,
    file: Annotated[str | None, typer.Option(help="The prefect.yaml; default: the repository's.")] = None,
    directory: Annotated[
        str | None,
        typer.Option(envvar="MSFT_HOME", help="Where runs of a process pool stand; default: here."),
    ] = None,
    image: Annotated[
        str | None, typer.Option(envvar="MSFT_IMAGE", help="The image that containers run.")
    ] = None,
    lost_after_s: Annotated[
        int | None,
        typer.Option(min=45, help="Seconds without a heartbeat until a run is given to another worker."),
    ] = None,
    schedule: Annotated[
        Schedule | None,
        typer.Option(
            help="Turn schedules off, or on: runs that overlap queue or are skipped. Default: as it is; new ones off."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Register deployments with the server of PREFECT_API_URL, and what picks up their lost runs."""
    from tasks.report.console import output

    output.choose(quiet=False, as_json=as_json)
    from tasks.commands.deploy import LOST_AFTER_S
    from tasks.commands.deploy import deploy as register
    from tasks.report.terminal import say

    placeholders = {"MSFT_HOME": os.path.abspath(directory or "."), "MSFT_IMAGE": image}
    lines = []
    for line in register(names or [], file, placeholders, lost_after_s or LOST_AFTER_S, schedule):
        say(line)
        lines.append(line)
    output.give({"lines": lines})


app.command()(compare)
app.command()(sweep)
app.command()(report)
app.command()(status)
app.command()(resume)
app.command()(export)
app.command()(doctor)


def _quieten() -> None:
    """Leave the terminal to the search's own lines, and the network alone."""
    defaults = {
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


class _EndOnSignal:
    """Ends the command on a signal and remembers it, since a library may turn the exception into one of its own."""

    def __init__(self) -> None:
        self.number = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, self._on_signal)

    def ignore(self) -> None:
        """Let signals pass when all is done: Python's own end would make a failure of them."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)


def main() -> None:
    """Run the command; an error we foresaw is printed without a traceback: 2 for the configuration, 1 else.

    Ctrl-C ends it with 130, SIGTERM with 143 and a lost terminal with 129, after its workers have saved what they had.
    """
    from tasks.report import terminal

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
            terminal.fail(
                f"{error}; free some space and run the same command again, nothing that was finished is lost"
            )
            sys.exit(1)
        if isinstance(error, MsftError):
            terminal.fail(str(error))
            sys.exit(2 if isinstance(error, ConfigError) else 1)
        raise


if __name__ == "__main__":
    main()
