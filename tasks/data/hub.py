"""What the hub's refusals mean, and what a user can do about each."""

from __future__ import annotations

from collections.abc import Iterator

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def hub_errors() -> tuple[type[Exception], ...]:
    """Return what `huggingface_hub` raises.

    A connection that is lost for good comes as an error of its HTTP client, which is another package in other
    versions: the base of its own error is of that package.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return (HFValidationError, *HfHubHTTPError.__bases__, OSError)


def advice_on(error: BaseException, revision: str, otherwise: str) -> str:
    """Return how to mend what the hub refused; `revision` is the setting's name."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    causes = [*_chain(error)]
    said = " ".join(str(one) for one in causes)  # `datasets` drops the hub's own error, and leaves its meaning as text
    lost = (ConnectionError, LocalEntryNotFoundError, HfHubHTTPError.__bases__[0])
    advice: list[tuple[tuple[type[BaseException], ...], str, str]] = [
        ((GatedRepoError,), "is a gated dataset", f"ask for access on its page on the hub, and {_LOG_IN}"),
        ((RevisionNotFoundError,), "Revision '", f"set {revision} to a branch, tag or commit that it has"),
        ((RepositoryNotFoundError,), "exist on the Hub or cannot", f"check the id; if it is private, {_LOG_IN}"),
        (
            lost,
            "Couldn't reach",
            "check the network and HF_ENDPOINT, and run it again; or download it, and give its path "
            "(paths are relative to the YAML file)",
        ),
    ]
    for kinds, words, text in advice:
        if words in said or any(isinstance(one, kinds) for one in causes):
            return text
    return otherwise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
