"""Keep passwords out of everything that is shown or kept."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import PlainSerializer

_SHOWN = "***"
# `scheme://user:password@`, and `?password=` as database drivers take it, anywhere in a text.
_IN_TEXT = re.compile(r"(://[^\s/?#:@]*:)[^\s/?#]+(?=@)|([?&]password=)[^\s&#]+", re.IGNORECASE)


def without_password(uri: str) -> str:
    """Return a URI as it may be shown: `scheme://user:***@host/…`."""
    return without_password_of(uri, uri)


def without_password_of(uri: str, text: str) -> str:
    """Return `text` with the password of `uri` hidden, as a driver's error message may quote it."""
    password = _password_in(uri)
    text = without_passwords(text)
    return text.replace(f":{password}@", f":{_SHOWN}@").replace(password, _SHOWN) if password else text


def without_passwords(text: str) -> str:
    """Return the text with the password of every URI in it hidden."""
    return _IN_TEXT.sub(lambda found: f"{found[1] or found[2]}{_SHOWN}", text)


def _password_in(uri: str) -> str | None:
    try:
        return urlsplit(uri).password
    except ValueError:  # not a URI, as its user will be told
        return None


# Whole in memory; without its password in every file, page and log that it is written to.
Uri = Annotated[str, PlainSerializer(without_password)]
