"""End a process, and the search that started it, at a crash point; only on the path of fault tests.

Python imports this module when it starts. The points are reached one after another: a process arms the first that no
process has reached yet.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Armed(importlib.abc.MetaPathFinder):
    """Puts `wrap(function)` in the place of one function of a module that is about to be imported."""

    def __init__(self, place: str, wrap: Callable[[Any], Any]) -> None:
        self.module, _, self.function = place.partition(":")
        self.wrap = wrap

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            self.put_into(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def put_into(self, module: Any) -> None:
        """Replace the function in a module that has been imported."""
        *owners, name = self.function.split(".")
        for owner in owners:
            module = getattr(module, owner)
        setattr(module, name, self.wrap(getattr(module, name)))


def arm(place: str, wrap: Callable[[Any], Any]) -> None:
    """Wrap the function at `module:name`, now or when its module is imported."""
    armed = Armed(place, wrap)
    if armed.module in sys.modules:
        armed.put_into(sys.modules[armed.module])
    else:
        sys.meta_path.insert(0, armed)


def ends_at(point: dict[str, Any], reached: Path) -> Callable[[Any], Any]:
    """Return a wrapper that ends everything before or after the function's n-th call in the fitting process."""

    def wrap(function: Any) -> Any:
        calls = 0

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += point["process"] in " ".join(sys.argv)
            is_it = calls == point["call"] and point["process"] in " ".join(sys.argv)
            if is_it and point["when"] == "before":
                end(point, reached)
            result = function(*args, **kwargs)
            if is_it:
                end(point, reached)
            return result

        return wrapped

    return wrap


def end(point: dict[str, Any], reached: Path) -> None:
    """Send the point's signal to the process and to the search that owns it."""
    descriptor = os.open(reached, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{point['phase']}\n".encode())
    os.fsync(descriptor)
    number = signal.Signals[f"SIG{point['signal']}"]
    owner = os.environ.get("MSFT_OWNER_PID")
    if owner is not None:
        os.kill(int(owner), number)
    os.kill(os.getpid(), number)


def writes_down(trace: Path) -> Callable[[Any], Any]:
    """Return a wrapper of `seed_from` that writes down every optimizer step's (seed, round, step, rank)."""

    def wrap(function: Any) -> Any:
        def wrapped(*key: Any) -> Any:
            if len(key) == 4 and all(isinstance(part, int) for part in key):
                with trace.open("a") as file:
                    file.write(f"{key[1]} {key[2]}\n")
            return function(*key)

        return wrapped

    return wrap


if "MSFT_BEHIND" in os.environ:  # write checkpoints behind training on a CPU too
    arm("tasks.workers.training.publishing:goes_behind", lambda function: lambda device: True)
if "MSFT_POINTS" in os.environ:
    folder = Path(os.environ["MSFT_POINTS"])
    points = json.loads((folder / "points.json").read_text())
    past = folder / "reached"
    number = len(past.read_text().splitlines()) if past.exists() else 0
    if number < len(points):
        arm(points[number]["place"], ends_at(points[number], past))
    arm("tasks.data.randomness:seed_from", writes_down(folder / "trace"))
