"""Every exception we raise: what, where, got, wanted, and the next command."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.redaction import without_password, without_password_of


class MsftError(Exception):
    """A failure with a message for the user; `retryable` says whether the same call may succeed again."""

    retryable = False


class ConfigError(MsftError):
    """The configuration is refused; every problem found is listed, not only the first."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{where}: {count}\n{lines}")


class DataError(MsftError):
    """A sub-dataset cannot be used as it is."""

    def __init__(self, sub_dataset: str, where: str, *, got: str, wanted: str, fix: str) -> None:
        self.sub_dataset = sub_dataset
        super().__init__(
            f"sub-dataset {sub_dataset!r}, {where}\n  got:    {got}\n  wanted: {wanted}\n  do:     {fix}"
        )


class SplitOverlapError(MsftError):
    """The same text stands in two splits, so a validation or test score would be a memory test."""

    def __init__(self, pairs: Sequence[str], count: int) -> None:
        shown = "\n".join(f"  - {pair}" for pair in pairs)
        more = f"\n  … and {count - len(pairs)} more" if count > len(pairs) else ""
        super().__init__(
            f"{count} texts stand in two splits:\n{shown}{more}\n"
            "  wanted: no prompt in more than one split\n"
            "  do:     remove the rows, or accept them with --set mixture.on_overlap=warn"
        )


class ModelError(MsftError):
    """The base model or its tokenizer cannot be used."""

    def __init__(self, source: str, *, got: str, wanted: str, fix: str) -> None:
        super().__init__(f"model {source!r}\n  got:    {got}\n  wanted: {wanted}\n  do:     {fix}")


class EmptyCurveError(MsftError):
    """A peak was asked of a curve without points."""

    def __init__(self, sub_dataset: str) -> None:
        super().__init__(f"sub-dataset {sub_dataset!r} has no validation score in this roll-out")


class NonFiniteScoreError(MsftError):
    """A validation score or loss is NaN or infinite: the model has diverged, and no peak can be trusted."""

    def __init__(self, sub_dataset: str, where: str, value: float) -> None:
        super().__init__(
            f"sub-dataset {sub_dataset!r}, {where}\n  got:    {value}\n  wanted: a finite number\n"
            "  do:     lower training.learning_rate or training.max_grad_norm and search again; "
            "finished rounds are kept in the search directory"
        )


class WorkerError(MsftError):
    """A worker process failed; its own report says why and whether trying again can help."""

    def __init__(self, worker: str, cause: str, log_path: str, retryable: bool) -> None:
        self.retryable = retryable
        fix = "mend the cause and run the same command again; it goes on from the last checkpoint"
        # As torch words it on a GPU, on MPS, and on the CPU.
        if re.search(r"out of memory|OutOfMemoryError|can't allocate memory", cause):
            fix = (
                "run the same command again with --accept-changes and what makes a forward pass smaller; it goes on "
                "from the last checkpoint,\n          and its numbers differ by rounding alone:\n"
                "          --set training.micro_batch_size=N  rows at once in training, half of now or less (null: "
                "training.batch_size)\n"
                "          --set evaluation.batch_tokens=N    padded tokens at once in scoring, half of now or less\n"
                "          --set model.gradient_checkpointing=true  where a single row in training is too much"
            )
        super().__init__(f"{worker}: {cause}\n  log:    {log_path}\n  do:     {fix}")


class CheckpointNotFoundError(MsftError):
    """MLflow holds no READY checkpoint under this key."""

    def __init__(self, search_id: str, round_index: int, step: int, ready_steps: Sequence[int]) -> None:
        steps = ", ".join(str(s) for s in ready_steps) or "none"
        super().__init__(
            f"search {search_id}, round {round_index}: no READY checkpoint at step {step}; READY steps: {steps}. "
            "Run the same command again: it trains what is missing."
        )


class CheckpointDamagedError(MsftError):
    """A checkpoint's files are not those of its manifest; one that a decision rests on cannot be trained again."""

    def __init__(self, path: str, problems: Sequence[str], *, is_decided: bool = False) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(
            f"checkpoint {path} is damaged:\n{lines}\n"
            "  wanted: every file of manifest.json with its size and sha256\n"
            + (
                "  do:     put it back from a backup, or search again with a new name (--set name=…)"
                if is_decided
                else "  do:     run the same command again; it sets this directory aside and trains the stretch anew"
            )
        )


class NoDiskSpaceError(MsftError):
    """Something does not fit, a checkpoint for one; nothing of it is left behind and all earlier state is whole.

    `needed` is None where nobody knows how many bytes it takes.
    """

    def __init__(self, path: str, needed: int | None, free: int, what: str = "a checkpoint") -> None:
        wanted = f"{needed:,} bytes" if needed is not None else "more"
        super().__init__(
            f"{path}: no room for {what}\n  got:    {free:,} bytes free\n  wanted: {wanted}\n"
            "  do:     free the space and run the same command again; nothing that was finished is lost"
        )


class NonFiniteLossError(MsftError):
    """The training loss became NaN or infinite."""

    def __init__(self, step: int, loss: float, sub_datasets: Sequence[str]) -> None:
        super().__init__(
            f"training loss at step {step}\n  got:    {loss} (batch of {', '.join(sub_datasets)})\n"
            "  wanted: a finite number\n"
            "  do:     lower training.learning_rate, or set training.precision=fp32, and search again"
        )


class BusyError(MsftError):
    """Another process owns this search directory, or this GPU."""

    def __init__(self, what: str, owner: str) -> None:
        super().__init__(
            f"{what} is in use\n  got:    owner {owner}\n  wanted: one owner at a time\n"
            "  do:     wait for it (or choose another GPU with CUDA_VISIBLE_DEVICES), or end that process, and run "
            "the same command again"
        )


class LockError(MsftError):
    """A lock file cannot be opened."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(
            f"lock {path}\n  got:    {cause}\n  wanted: a file that every user of this machine may read and write\n"
            f"  do:     let its owner end what holds it and run `chmod 666 {path}`, or remove it; then run the same "
            "command again"
        )


class OtherSearchError(MsftError):
    """An unfinished search of the same name and seed was begun with another configuration."""

    def __init__(self, directory: str, differences: Sequence[str]) -> None:
        super().__init__(
            f"{directory} holds an unfinished search of this name and seed with another configuration:\n"
            f"{_listed(differences)}\n"
            "  wanted: one configuration until a search has ended\n"
            "  do:     restore these values to go on with it, choose another name for a new search (--set name=…), "
            "or remove that directory"
        )


class SearchNotFoundError(MsftError):
    """No search, or more than one, answers to a name."""

    def __init__(self, name: str, output_root: str, there: Sequence[str], *, is_ambiguous: bool) -> None:
        found = "several searches begin so" if is_ambiguous else "no such search"
        super().__init__(
            f"search {name!r} in {output_root}\n"
            f"  got:    {found}; there {'are' if is_ambiguous else 'is'} {', '.join(there) or 'none'}\n"
            "  wanted: a search's directory, or its name, its id, or an unambiguous beginning of both\n"
            "  do:     msft status (with --output-root where they lie elsewhere) lists them"
        )


class ExportError(MsftError):
    """A champion cannot be exported."""

    def __init__(self, what: str, *, got: str, wanted: str, fix: str) -> None:
        super().__init__(f"export of {what}\n  got:    {got}\n  wanted: {wanted}\n  do:     {fix}")


class InitError(MsftError):
    """No configuration can be written for a folder."""

    def __init__(self, where: str, *, got: str, wanted: str, fix: str) -> None:
        super().__init__(f"{where}\n  got:    {got}\n  wanted: {wanted}\n  do:     {fix}")


class ChangedWorldError(MsftError):
    """What the search started with is not what is here now, and the result would differ."""

    def __init__(self, search_id: str, differences: Sequence[str], *, can_be_accepted: bool) -> None:
        accepted = "or go on all the same with --accept-changes: the journal will say so"
        refused = "or start another search with a new name (--set name=…)"
        super().__init__(
            f"search {search_id} cannot go on to the same result, since it began with others:\n"
            f"{_listed(differences)}\n"
            "  wanted: the data, base model, packages and processes that it began with\n"
            f"  do:     restore them, {accepted if can_be_accepted else refused}"
        )


class DifferentDataError(MsftError):
    """Searches that are to be compared were not made on the same data, or from the same base model."""

    def __init__(self, seed: int, first: str, second: str, differences: Sequence[str]) -> None:
        super().__init__(
            f"seed {seed}: {first} (was) and {second} (is) cannot be compared:\n{_listed(differences)}\n"
            "  wanted: the same rows and base model for all methods of a seed\n"
            "  do:     restore what changed, or compare under another name (--set name=…)"
        )


class IncompleteComparisonError(MsftError):
    """Some searches of a comparison or sweep failed; the others are whole, and in its report."""

    def __init__(self, failures: Sequence[str], num_searches: int) -> None:
        super().__init__(
            f"{len(failures)} of {num_searches} searches failed:\n{_listed(failures)}\n"
            "  wanted: all of them; those that ended are in the report above\n"
            "  do:     mend the causes and run the same command again; what has ended is taken as it is"
        )


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"  - {line}" for line in lines)


class JournalError(MsftError):
    """The journal cannot be read as the history of one search."""

    def __init__(self, path: str, line: int, cause: str) -> None:
        super().__init__(
            f"{path}, line {line}: {cause}\n  wanted: one JSON event a line, as this search wrote it\n"
            "  do:     restore the file from MLflow's artifact `journal.jsonl` of the search's run"
        )


class PrefectServerError(MsftError):
    """The Prefect server that a command starts for itself does not answer."""

    def __init__(self, url: str, cause: str, log_path: str) -> None:
        super().__init__(
            f"Prefect server at {url}: {cause}\n  wanted: a server that answers\n  log:    {log_path}\n"
            "  do:     mend the cause, or start one with `prefect server start` and set PREFECT_API_URL to its address"
        )


class DeploymentError(MsftError):
    """A deployment cannot be registered with a Prefect server."""

    def __init__(self, what: str, *, got: str, wanted: str, fix: str) -> None:
        super().__init__(f"{what}\n  got:    {got}\n  wanted: {wanted}\n  do:     {fix}")


class TrackingError(MsftError):
    """MLflow cannot be reached, or refuses."""

    def __init__(self, uri: str, cause: str) -> None:
        is_stranger = re.search(r"error code 401|[Pp]ermission denied", cause)
        fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user who may write there"
        super().__init__(
            f"MLflow at {without_password(uri)}: {without_password_of(uri, cause)}\n"
            "  wanted: a tracking store that answers and holds this search\n"
            f"  do:     {fix if is_stranger else 'start it (or set tracking.uri)'} and run the same command again; "
            "nothing that was finished is lost"
        )


class DeletedRunError(MsftError):
    """A run of this search was deleted in MLflow, and with it what the rollback asks for."""

    def __init__(self, uri: str, run_id: str) -> None:
        super().__init__(
            f"MLflow at {without_password(uri)}: run {run_id} of this search was deleted\n"
            "  wanted: the search's run and those of its rounds\n"
            f"  do:     MLFLOW_TRACKING_URI={without_password(uri)} mlflow runs restore --run-id {run_id}, "
            "then run the same command again"
        )
