"""A signal ends the command with its own code, whatever a library makes of the exception it raises."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# The command receives the signal inside a library that turns every exception into one of its own.
# Default handlers first: started under nohup, the tests pass an ignored SIGHUP on.
COMMAND = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from flows import cli

def app():
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    except BaseException as error:
        raise ValueError("wrapped") from error

cli.app = app
cli.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_wrapped_signal_is_still_an_interruption(number: int, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND, str(int(number))], capture_output=True, text=True)
    assert done.returncode == code
    assert "the same command goes on" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_an_error_without_a_traceback() -> None:
    command = COMMAND.replace("os.kill(os.getpid(), int(sys.argv[1]))", "open('/dev/full', 'w').write('x' * 10**6)")
    command = command.replace('raise ValueError("wrapped") from error', "raise")
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 1
    assert "No space left on device" in done.stdout
    assert "run the same command again" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_end_makes_no_failure_of_it(number: int) -> None:
    """Sent while Python ends, when it has put the signals' own effects back."""
    at_exit = "import atexit; atexit.register(os.kill, os.getpid(), int(sys.argv[1]))\n"
    command = COMMAND.replace("os.kill(os.getpid(), int(sys.argv[1]))", "sys.exit(0)")
    command = command.replace("except BaseException as error", "except ValueError as error")
    command = command.replace("cli.app = app", at_exit + "cli.app = app")
    done = subprocess.run([sys.executable, "-c", command, str(int(number))], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
