"""An audit that could not be made is not taken for a clean one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.audit import judge

KNOWN = {"name": "torch", "version": "2.11", "vulns": []}
UNKNOWN = {"name": "torch", "version": "2.11", "skip_reason": "not found"}
WEAK = KNOWN | {"vulns": [{"id": "CVE-1", "fix_versions": ["2.12"]}]}
AWAY = "ERROR:pip_audit._cli:Tip: your network may be blocking this service. Try another service with `-s SERVICE`"
CRASH = "Traceback (most recent call last):\n  ...\nAttributeError: 'NoneType' object has no attribute 'name'"


@pytest.mark.parametrize(
    ("packages", "errors", "code", "is_done"),
    [
        ([KNOWN], "", 0, True),
        ([WEAK, UNKNOWN], "", 1, True),
        ([UNKNOWN], "", 0, False),
        (None, AWAY, 0, False),
        (None, "requests.exceptions.ReadTimeout: HTTPSConnectionPool: Read timed out.", 0, False),
        (None, CRASH, 1, False),
        (None, "pip_audit: error: unrecognized arguments: --disable", 1, False),
        (None, "", 1, False),
    ],
)
def test_only_a_service_that_is_away_excuses_an_audit_and_loudly(
    packages: list[dict[str, Any]] | None, errors: str, code: int, is_done: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.dumps({"dependencies": packages}) if packages is not None else ""
    assert judge(told, errors) == code
    shown = capsys.readouterr()
    assert ("\n*** AUDIT NOT DONE: " in shown.err) != is_done
    assert ("CVE-1, mended in 2.12" in shown.out) == (packages is not None and WEAK in packages)


def test_a_failed_audit_shows_why(capsys: pytest.CaptureFixture[str]) -> None:
    judge("", CRASH)
    assert "AttributeError" in capsys.readouterr().err
