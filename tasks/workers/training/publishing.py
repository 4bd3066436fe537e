"""Checkpoints published behind training, and copies of the newest ones in host memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from tasks.runtime.machine import host_memory
from tasks.workers.training.checkpoint import Tensors

Files = Mapping[str, Tensors]
_SHARE_OF_FREE = 0.25  # for copies of checkpoints that are on the disk too


def goes_behind(device: torch.device) -> bool:
    """Return whether checkpoints are written while training goes on; on a CPU both would share its cores."""
    return bool(device.type == "cuda")


class HostCopies:
    """The copies that the newest checkpoints were written from, by their manifests' sha256, while there is room.

    Where training waits for the disk, no copy is made: it would take longer than reading a checkpoint again.
    """

    def __init__(self) -> None:
        self._held: dict[str, Files] = {}

    def find(self, sha256: str) -> Files | None:
        """Return the copy of a checkpoint; None without one."""
        return self._held.get(sha256)

    def keep(self, sha256: str, files: Files) -> None:
        """Hold a copy, and let go of the oldest for which there is no room."""
        self._held[sha256] = files
        limit = _SHARE_OF_FREE * (host_memory()[0] + self._num_bytes())
        while self._num_bytes() > limit:
            del self._held[next(iter(self._held))]

    def _num_bytes(self) -> int:
        return sum(value.nbytes for files in self._held.values() for part in files.values() for value in part.values())


class Snapshot:
    """A copy of tensors in host memory, made on a stream of its own where they are on a GPU."""

    def __init__(self, files: Files, device: torch.device) -> None:
        self._whole: torch.cuda.Event | None = None
        if device.type != "cuda":
            self.files = _copies(files)
            return
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self.files = _copies(files)
            self._whole = stream.record_event()

    def wait(self) -> Files:
        """Return the tensors when the copy is whole."""
        if self._whole is not None:
            self._whole.synchronize()
        return self.files

    def hold_back(self) -> None:
        """Let what the GPU is asked for after this wait for the copy: the next change of the tensors."""
        if self._whole is not None:
            self._whole.wait()


def _copies(files: Files) -> Files:
    return {file: {name: _copy(value) for name, value in content.items()} for file, content in files.items()}


def _copy(value: torch.Tensor) -> torch.Tensor:
    if value.device.type == "cpu":
        return value.clone()
    # Page-locked memory is copied to without waiting; torch uses that of a snapshot that is gone again.
    return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)


class Publisher:
    """Runs one publication at a time on a thread: behind training, or while training waits for it."""

    def __init__(self, *, behind: bool) -> None:
        self.behind = behind
        self._thread = ThreadPoolExecutor(1, "publish")
        self._under_way: Future[Any] | None = None

    def start(self, publish: Callable[[], Any]) -> None:
        """Publish after the one before."""
        self.wait()
        self._under_way = self._thread.submit(publish)
        if not self.behind:
            self.wait()

    @property
    def is_under_way(self) -> bool:
        """Return whether a publication is being written."""
        return self._under_way is not None and not self._under_way.done()

    def check(self) -> None:
        """Raise the error of a publication that has failed."""
        if not self.is_under_way:
            self.wait()

    def wait(self) -> None:
        """Wait for the one under way, and raise its error."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        """Wait for the one under way and end the thread."""
        self._thread.shutdown()
