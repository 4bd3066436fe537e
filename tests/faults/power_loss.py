"""The disk as a power loss would leave it: a recorder of real code that publishes files.

Only what was synced is sure to be on the disk. While the recorder is active it keeps, for every file and folder that
the code syncs, the content at that moment. After each sync, rename and link it computes what a power loss could leave:

- all names, with each file cut to what was synced of it (a file system that writes names first);
- of the names that were not synced, those alone that a rename or link made;
- the synced names alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Content of each file by its path from the recorded folder.
Image = dict[str, bytes]
_KINDS = ("all names", "synced and renamed names", "synced names")


class PowerLoss:
    """Images of `root` that a power loss could leave after each step that changes it.

    Attributes:
        images: in the order of the steps, by kind; the last three are those of the end.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: list[Image] = []
        self._synced: dict[int, Any] = {}
        self._moved: set[tuple[int, str]] = set()
        self._open: list[int] = []  # so that no inode's number is used again

    @contextmanager
    def recording(self, patch: pytest.MonkeyPatch) -> Iterator[None]:
        """Record what the block does in this process."""
        with patch.context() as inner:
            inner.setattr(os, "fsync", self._after(os.fsync, self._note_sync))
            for name in ("rename", "replace", "link"):
                inner.setattr(os, name, self._after(getattr(os, name), self._note_move))
            self._sync_root()
            yield
            self._take_images()
        for descriptor in self._open:
            os.close(descriptor)

    def at_the_end(self) -> list[Image]:
        """Return what a power loss could leave after the block."""
        return self.images[-len(_KINDS) :]

    def _sync_root(self) -> None:
        """Count what is there before as synced."""
        for folder, _, files in os.walk(self.root):
            for path in (Path(folder), *(Path(folder, file) for file in files)):
                descriptor = os.open(path, os.O_RDONLY)
                self._note_sync(descriptor)
                os.close(descriptor)

    def _after(self, function: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            note(*args)
            self._take_images()
            return result

        return call

    def _note_sync(self, descriptor: int) -> None:
        self._open.append(os.dup(descriptor))
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            content: Any = {name: os.stat(name, dir_fd=descriptor).st_ino for name in os.listdir(descriptor)}
            self._moved = {(folder, name) for folder, name in self._moved if folder != status.st_ino}
        else:
            content = os.pread(descriptor, status.st_size, 0)
        self._synced[status.st_ino] = content

    def _note_move(self, source: Any, target: Any) -> None:
        self._moved.add((Path(target).parent.stat().st_ino, Path(target).name))

    def _take_images(self) -> None:
        for kind in _KINDS:
            image: Image = {}
            self._walk(self.root, "", kind, image)
            self.images.append(image)

    def _walk(self, folder: Path, prefix: str, kind: str, image: Image) -> None:
        number = folder.stat().st_ino
        synced = self._synced.get(number, {})
        for path in folder.iterdir():
            is_synced = synced.get(path.name) == path.stat().st_ino
            is_moved = (number, path.name) in self._moved
            if not (is_synced or kind == _KINDS[0] or (is_moved and kind == _KINDS[1])):
                continue
            if path.is_dir():
                self._walk(path, f"{prefix}{path.name}/", kind, image)
            else:
                image[f"{prefix}{path.name}"] = self._synced.get(path.stat().st_ino, b"")


def restore(image: Image, root: Path) -> Path:
    """Write an image's files to a folder, and return it."""
    root.mkdir(parents=True)
    for name, content in image.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root
