"""Every exception that this project raises: what was got and expected, and how to fix it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, Unpack

from tasks.redaction import without_password, without_password_of

_CONTINUES = "run the same command again"


class _Parts(TypedDict, total=False):
    """The lines under the first, in their order."""

    column: str
    got: str
    expected: str
    log: str
    fix: str


class MsftError(Exception):
    """Base class: a failure with a message for the user; subclasses set the parts that are always the same.

    `retryable` is True where the same call may succeed when it is made again.
    """

    retryable = False
    subject, expected, fix = "{}", "", ""

    def __init__(self, what: str, listed: Sequence[str] = (), **parts: Unpack[_Parts]) -> None:
        told = {"expected": self.expected, "fix": self.fix} | {label: text for label, text in parts.items() if text}
        lines = [f"  {label + ':':<10}{told[label]}" for label in _Parts.__annotations__ if told.get(label)]
        super().__init__("\n".join([self.subject.format(what), *(f"  - {line}" for line in listed), *lines]))


class ConfigError(MsftError):
    """The configuration is invalid; lists every problem, not only the first."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where, self.problems = where, tuple(problems)
        super().__init__(f"{where}: {len(problems)} problem{'s' if len(problems) != 1 else ''}", problems)


class DataError(MsftError):
    """A sub-dataset cannot be used as it is; `problems` are itself, or all that `DataErrors` holds."""

    num_more = 0

    def __init__(self, sub_dataset: str, where: str, *, got: str, expected: str, fix: str, column: str = "") -> None:
        self.sub_dataset, self.problems = sub_dataset, (self,)  # type: tuple[str, tuple[DataError, ...]]
        what = f"sub-dataset {sub_dataset!r}, {where}"
        super().__init__(what, column=column, got=got, expected=expected, fix=fix)


class DataErrors(DataError):
    """Several problems of the data, told at once; `num_more` further ones are not shown."""

    def __init__(self, problems: Sequence[DataError], num_more: int) -> None:
        self.sub_dataset, self.problems, self.num_more = problems[0].sub_dataset, tuple(problems), num_more
        lines = [str(problem) for problem in problems] + ([f"… and {num_more} more"] if num_more else [])
        MsftError.__init__(self, "\n".join([f"{len(problems) + num_more} problems of the data:", *lines]))


class SplitOverlapError(MsftError):
    """The same text is in two splits, so that a validation or test score would measure memory."""

    expected = "no prompt in more than one split"
    fix = "remove the rows, or accept them with --set mixture.on_overlap=warn"

    def __init__(self, pairs: Sequence[str], count: int) -> None:
        more = f"\n  … and {count - len(pairs)} more" if count > len(pairs) else ""
        super().__init__("\n  - ".join([f"{count} texts stand in two splits:", *pairs]) + more)


class ModelError(MsftError):
    """The base model or its tokenizer cannot be used."""

    subject = "model {!r}"


class EmptyCurveError(MsftError):
    """A curve has no points, so that it has no peak."""

    subject = "sub-dataset {!r} has no validation score in this roll-out"


class NonFiniteScoreError(MsftError):
    """A validation score or loss is NaN or infinite: the model has diverged, and no peak can be trusted."""

    expected = "a finite number"
    fix = (
        "lower training.learning_rate or training.max_grad_norm and search again; finished rounds are kept in the "
        "search directory"
    )

    def __init__(self, sub_dataset: str, where: str, value: float) -> None:
        super().__init__(f"sub-dataset {sub_dataset!r}, {where}", got=str(value))


class NonFiniteLossError(MsftError):
    """The training loss became NaN or infinite."""

    subject, expected = "training loss at step {}", "a finite number"
    fix = "lower training.learning_rate, or set training.precision=fp32, and search again"

    def __init__(self, step: int, loss: float, sub_datasets: Sequence[str]) -> None:
        super().__init__(str(step), got=f"{loss} (batch of {', '.join(sub_datasets)})")


class WorkerError(MsftError):
    """A worker process failed; its failure file has the cause, and whether a retry can help."""

    def __init__(
        self, worker: str, cause: str, log_path: str, retryable: bool, *, is_out_of_memory: bool = False
    ) -> None:
        self.retryable = retryable
        fix = _LESS_MEMORY if is_out_of_memory else f"fix the cause and {_CONTINUES}{_FROM_CHECKPOINT}"
        super().__init__(f"{worker}: {cause}", log=log_path, fix=fix)


_FROM_CHECKPOINT = "; it goes on from the last checkpoint"
_LESS_MEMORY = f"""\
{_CONTINUES} with --accept-changes and one of these options{_FROM_CHECKPOINT},
            and its numbers differ by rounding alone:
            --set training.micro_batch_size=N  rows at once in training, half of now or less (null: found by itself)
            --set evaluation.batch_tokens=N    padded tokens at once in scoring, half of now or less
            --set model.gradient_checkpointing=true  where a single row in training is too much"""


class CheckpointNotFoundError(MsftError):
    """MLflow holds no READY checkpoint with this key."""

    fix = f"{_CONTINUES}; it trains what is missing"

    def __init__(self, search_id: str, round_index: int, step: int, ready_steps: Sequence[int]) -> None:
        steps = ", ".join(str(s) for s in ready_steps) or "none"
        what = f"search {search_id}, round {round_index}: no READY checkpoint at step {step}"
        super().__init__(what, got=f"READY steps: {steps}")


class CheckpointDamagedError(MsftError):
    """The files of a checkpoint differ from its manifest; with `is_decided`, a decision depends on it."""

    subject, expected = "checkpoint {} is damaged:", "every file of manifest.json with its size and sha256"

    def __init__(self, path: str, problems: Sequence[str], *, is_decided: bool = False) -> None:
        self.problems = tuple(problems)
        restore = "restore it from a backup, or search again with a new name (--set name=…)"
        retrain = f"{_CONTINUES}; it sets this directory aside and trains again from the checkpoint before it"
        super().__init__(path, problems, fix=restore if is_decided else retrain)


class NoDiskSpaceError(MsftError):
    """Something of `needed` bytes (None: unknown) does not fit; nothing of it is left, and earlier state is whole."""

    fix = f"free the space and {_CONTINUES}; nothing that was finished is lost"

    def __init__(self, path: str, needed: int | None, free: int, what: str = "a checkpoint") -> None:
        expected = f"{needed:,} bytes" if needed is not None else "more"
        super().__init__(f"{path}: no room for {what}", got=f"{free:,} bytes free", expected=expected)


class BusyError(MsftError):
    """Another process owns this search directory, or this GPU."""

    subject, expected = "{} is in use", "one owner at a time"
    fix = f"wait for it (or choose another GPU with CUDA_VISIBLE_DEVICES), or end that process, and {_CONTINUES}"


class MachinesError(MsftError):
    """The machines of a search do not come, or are not alike."""

    expected = "all of training.machines"
    fix = "start `msft follow` on them, or go on with fewer: --set training.machines=N --accept-changes"


class LockError(MsftError):
    """A lock file cannot be opened."""

    subject, expected = "lock {}", "a file that every user of this machine may read and write"

    def __init__(self, path: str, cause: str) -> None:
        fix = f"let its owner end what holds it and run `chmod 666 {path}`, or remove it; then {_CONTINUES}"
        super().__init__(path, got=cause, fix=fix)


class OtherSearchError(MsftError):
    """An unfinished search of the same name and seed was started with another configuration."""

    subject = "{} holds an unfinished search of this name and seed with another configuration:"
    expected = "one configuration until a search has ended"
    fix = (
        "restore these values to go on with it, choose another name for a new search (--set name=…), or remove that "
        "directory"
    )


class SearchNotFoundError(MsftError):
    """A name matches no search, or more than one."""

    expected = "a search's directory, or its name, its id, or an unambiguous beginning of both"
    fix = "list the searches with msft status (and --output-root where they are elsewhere)"


class ExportError(MsftError):
    """A champion cannot be exported."""

    subject = "export of {}"


class InitError(MsftError):
    """No configuration can be written for a folder."""


class ProfileError(MsftError):
    """A search that was to be profiled failed."""

    subject = "profile of {}"
    expected, fix = "a search that ends", "run it by msft search, and mend what it tells"


class DriftError(MsftError):
    """The inputs or the numerical environment are not those that the search started with."""

    subject = "search {} cannot go on to the same result, since it began with others:"
    expected = "the data, base model, packages and processes that it began with"

    def __init__(self, search_id: str, differences: Sequence[str], *, can_be_accepted: bool) -> None:
        accept = "accept the changes with --accept-changes, which the journal records"
        anew = "start another search with a new name (--set name=…)"
        super().__init__(search_id, differences, fix=f"restore them, or {accept if can_be_accepted else anew}")


class DifferentDataError(MsftError):
    """Searches to be compared used different data, or different base models."""

    expected = "the same rows and base model for all methods of a seed"
    fix = "restore what changed, or compare under another name (--set name=…)"


class IncompleteComparisonError(MsftError):
    """Some searches of a comparison or sweep failed; the report has the others."""

    expected = "all of them; those that ended are in the report above"
    fix = f"fix the causes and {_CONTINUES}; searches that have ended are not repeated"


class JournalError(MsftError):
    """The journal is not the history of one search; `fix` is given where restoring it would not help."""

    expected = "one JSON event a line, as this search wrote it"
    fix = "restore the file from MLflow's artifact `journal.jsonl` of the search's run"

    def __init__(self, path: str, line: int, cause: str, fix: str = "") -> None:
        super().__init__(f"{path}, line {line}: {cause}", fix=fix)


class PrefectServerError(MsftError):
    """The Prefect server of a command, configured or its own, does not answer."""

    expected = "a server that answers"
    fix = (
        "fix the cause; or set PREFECT_API_URL to the address of a server (prefect server start); or unset it, and "
        "the command starts its own"
    )

    def __init__(self, url: str, cause: str, log: str) -> None:
        super().__init__(f"Prefect server at {url}: {cause}", log=log)


class DeploymentError(MsftError):
    """A deployment cannot be registered with a Prefect server."""


class TrackingError(MsftError):
    """MLflow cannot be reached, or refuses a request; `status` is the HTTP status of a refusal."""

    expected = "a tracking store that answers and holds this search"

    def __init__(self, uri: str, cause: str, status: int | None = None) -> None:
        self.is_refused = status is not None
        advice = "change what it refuses" if self.is_refused else "start it (or set tracking.uri)"
        if status in (401, 403):
            advice = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user who may write there"
        what = f"MLflow at {without_password(uri)}: {without_password_of(uri, cause)}"
        super().__init__(what, fix=f"{advice} and {_CONTINUES}; nothing that was finished is lost")


class DeletedRunError(MsftError):
    """A run of this search was deleted in MLflow, and with it the checkpoints that the rollback needs."""

    expected = "the search's run and those of its rounds"

    def __init__(self, uri: str, run_id: str) -> None:
        place = without_password(uri)
        fix = f"MLFLOW_TRACKING_URI={place} mlflow runs restore --run-id {run_id}, then {_CONTINUES}"
        super().__init__(f"MLflow at {place}: run {run_id} of this search was deleted", fix=fix)
