"""Passwords in URIs are hidden wherever they are shown, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.config.loading import load_config
from tasks.errors import ConfigError, TrackingError
from tasks.redaction import without_passwords

SEARCH = """
name: tiny
model: {source: somewhere}
mixture: {sub_datasets: [{name: max, synthetic: {skill: max}}]}
search: {max_epochs: 4}
"""


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://u:se/cr?e#t@db:5432/x", "postgresql://u:***@db:5432/x"),
        ("postgresql://u:12/3@db/x", "postgresql://u:***@db/x"),
        ("mysql+pymysql://u:it's@db/x", "mysql+pymysql://u:***@db/x"),
        ("https://u:p@ss@host/x", "https://u:***@host/x"),
        ("http://u:p/w@host:5000", "http://u:***@host:5000"),
        ("postgresql:///x?user=u&password=p/w&a=b", "postgresql:///x?user=u&password=***&a=b"),
        ("http://127.0.0.1:5000/#/runs/1@2", "http://127.0.0.1:5000/#/runs/1@2"),
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
    ],
)
def test_a_password_is_hidden_in_a_uri_and_in_a_text(uri: str, shown: str) -> None:
    assert without_passwords(uri) == shown
    assert without_passwords(f'no answer from "{uri}", told a@b.org') == f'no answer from "{shown}", told a@b.org'


@pytest.mark.parametrize("password", ["se/cr?et", "se?cret", "se#cret"])
def test_a_password_that_ends_a_uri_early_is_refused_unseen(tmp_path: Path, password: str) -> None:
    (tmp_path / "search.yaml").write_text(SEARCH)
    with pytest.raises(ConfigError, match=r"tracking\.uri.*expected them as %2F, %3F and %23") as refused:
        load_config(str(tmp_path / "search.yaml"), [f"tracking.uri=postgresql://u:{password}@127.0.0.1/x"])
    assert password not in str(refused.value)


def test_a_decoded_password_in_a_drivers_message_is_hidden() -> None:
    error = TrackingError("postgresql://u:se%2Fcret@db/x", "password 'se/cret' (se%2Fcret) of u is wrong")
    assert "password '***' (***) of u is wrong" in str(error)
    assert "cret" not in str(error)
