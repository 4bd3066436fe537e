"""Problems of the data, collected so that a person sees them at once and not one a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.errors import DataError, DataErrors

_SHOWN = 10


class Problems:
    """Data errors, of which up to ten a sub-dataset are shown and the rest counted."""

    def __init__(self) -> None:
        self._found: dict[str, list[DataError]] = {}
        self._num_more = 0

    def add(self, error: DataError) -> None:
        """Note a problem, or all that an error holds."""
        for problem in error.problems:
            shown = self._found.setdefault(problem.sub_dataset, [])
            if len(shown) < _SHOWN:
                shown.append(problem)
            else:
                self._num_more += 1
        self._num_more += error.num_more

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Note a DataError of the block instead of raising it."""
        try:
            yield
        except DataError as error:
            self.add(error)

    def check(self) -> None:
        """Raise the problems that were noted: a single one as it is."""
        problems = [problem for shown in self._found.values() for problem in shown]
        if problems:
            raise problems[0] if len(problems) == 1 else DataErrors(problems, self._num_more)
