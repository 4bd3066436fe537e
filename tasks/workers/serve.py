"""Run one request after another: `python -m tasks.workers.serve MODULE… FOLDER`, directly or by `accelerate launch`.

The modules, of `tasks.workers`, are imported first, before there is a request.

Request n is the file `n.json` with `module`, `spec`, `log` and the `answer` that it expects (`tasks.runtime.pool`).
Every rank runs it as `python -m module spec` would; when all have finished, rank 0 writes the answer to `n.done`. A
request that fails ends the process with its exit code, so that the next one starts from a fresh process.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import runpy
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tasks.runtime.files import write_file
from tasks.runtime.pool import hash_of, read_json
from tasks.runtime.spans import span
from tasks.workers.supervisor import exit_on_sigterm, machine, num_ranks, rank, watch_owner

_POLL_S = 0.02


def serve(modules: Sequence[str], folder: Path) -> None:
    """Serve the requests of a folder until a signal, a failure or the loss of the owner ends the process."""
    watch_owner()
    exit_on_sigterm(partial(_spec_of, folder / f"{0:06}.json"))
    with span("imports"):
        for module in modules:
            importlib.import_module(f"tasks.workers.{module}")
    for number in itertools.count():
        path = folder / f"{number:06}.json"
        exit_on_sigterm(partial(_spec_of, path))
        while (request := read_json(path)) is None:
            time.sleep(_POLL_S)
        path.with_suffix(".read").touch()
        _redirect_output(_log_of(request["log"]))
        answer = request["answer"] | {"spec_sha256": hash_of(Path(request["spec"]))}
        if answer != request["answer"]:
            sys.exit(f"{request['spec']} is not yet the file that was asked for; ending")
        with span(request["module"]):
            code = _run(request["module"], request["spec"])
        if code != 0:
            sys.exit(code)
        _free_memory()
        ended = [path.with_suffix(f".rank-{index}") for index in range(num_ranks())]
        ended[rank()].touch()
        if rank() == 0:
            _wait_for(ended)
            write_file(path.with_suffix(".done"), json.dumps(answer))


def _spec_of(request: Path) -> Path | None:
    content = read_json(request)
    return Path(content["spec"]) if content is not None else None


def _wait_for(paths: list[Path]) -> None:
    while not all(path.exists() for path in paths):
        time.sleep(_POLL_S)


def _log_of(name: str) -> Path:
    """Return the log of this process; that of another machine, which a network mount would mix up, is its own."""
    return Path(name) if machine() == 0 else Path(name).with_suffix(f".machine-{machine()}.log")


def _redirect_output(log: Path) -> None:
    """Append all further output of this process to `log`, that of C libraries too."""
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _run(module: str, spec: str) -> int:
    """Run a module as its own program and return its exit code."""
    sys.argv = [module, spec]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _free_memory() -> None:
    """Give back what the request held, which another process on the same GPU may need."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.accelerator.is_available():
        torch.accelerator.empty_cache()


if __name__ == "__main__":
    serve(sys.argv[1:-1], Path(sys.argv[-1]))
