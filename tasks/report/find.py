"""Find the directory of a search by what people call it."""

from __future__ import annotations

from pathlib import Path

from tasks.errors import SearchNotFoundError
from tasks.journal import FILE


def find_search(search: str, output_root: str) -> str:
    """Return the directory of a search: itself, or the one under `output_root` named NAME-ID, NAME or ID.

    Raises:
        SearchNotFoundError: there is none, or a name stands for several.
    """
    if Path(search, FILE).is_file():
        return search
    directories = {path.parent.name: path.parent for path in sorted(Path(output_root).glob(f"*/{FILE}"))}
    matches = [name for name in directories if search == name or search in name.rsplit("-", 1)]
    if len(matches) != 1:
        known = matches or list(directories)
        raise SearchNotFoundError(search, output_root, known, is_ambiguous=bool(matches))
    return str(directories[matches[0]])
