"""Keep passwords out of everything that is shown or kept."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator, PlainSerializer

_SHOWN = "***"
# `scheme://user:password@` anywhere in a text. Drivers read a password up to the `@`, with `/`, `?` and `#` in it; in
# an HTTP address, `:5000/` is a port.
_BEFORE = r"(?<!http)(?<!https)://[^\s/?#:@]*:|://[^\s/?#:@]*:(?!\d*[/?#])"
_IN_ADDRESS = re.compile(rf"({_BEFORE})((?:[^\s\"'<>]+|[^\s/?#]+)(?=@))", re.IGNORECASE)
# `?password=`, as database drivers take it.
_IN_QUERY = re.compile(r"([?&]password=)([^\s&#]+)", re.IGNORECASE)


def without_password(uri: str) -> str:
    """Return a URI as it may be shown: `scheme://user:***@host/…`."""
    return without_password_of(uri, uri)


def without_password_of(uri: str, text: str) -> str:
    """Return `text` with the password of `uri` hidden, as a driver's error message may quote it."""
    text = without_passwords(text)
    if found := _IN_ADDRESS.search(uri):
        for password in (found[2], unquote(found[2])):
            text = text.replace(password, _SHOWN)
    return text


def without_passwords(text: str) -> str:
    """Return the text with the password of every URI in it hidden."""
    return _IN_QUERY.sub(rf"\1{_SHOWN}", _IN_ADDRESS.sub(rf"\1{_SHOWN}", text))


def _with_encoded_password(uri: str) -> str:
    """Refuse a password that URI parsers end early: their messages, and parts of the URI, would show the rest."""
    found = _IN_ADDRESS.search(uri)
    if found and set("/?#") & set(found[2]):
        raise ValueError("got '/', '?' or '#' in the password; expected them as %2F, %3F and %23")
    return uri


# Whole in memory; without its password in every file, page and log that it is written to.
Uri = Annotated[str, AfterValidator(_with_encoded_password), PlainSerializer(without_password)]
