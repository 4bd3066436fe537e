"""Audit the pinned packages for known vulnerabilities: `python -m tests.audit`.

pip-audit passes over packages that the advisory service does not know, and calls the rest clean; here the count of
both is printed, so that an audit without a service is not taken for a clean one. Exit code 1: a pinned version has a
known vulnerability, or pip-audit itself failed; 0 without an audit only where no service could be asked, said loudly.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# How pip-audit and requests say that the service was not reached, or not well.
_AWAY = ("connectionerror", "could not connect", "network may be blocking", "timed out", "max retries", "httperror")
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def main() -> int:
    """Return the exit code; what was found is printed."""
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", "30"]
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return judge(done.stdout, done.stderr)


def judge(told: str, errors: str) -> int:
    """Return the exit code for what pip-audit told, and print what was found."""
    if not told.strip():
        is_away = any(word in errors.lower() for word in _AWAY)
        reason = (errors.strip().splitlines() or ["no reason given"])[-1]
        _say_not_done(f"no advisory service could be asked ({reason:.200})" if is_away else errors.strip())
        return 0 if is_away else 1
    packages = json.loads(told)["dependencies"]
    asked = [package for package in packages if "vulns" in package]
    vulnerable = [(package, found) for package in asked for found in package["vulns"]]
    for package, found in vulnerable:
        fixed = ", ".join(found["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {found['id']}, mended in {fixed}")
    print(
        f"audit: {len(packages)} pinned packages, {len(vulnerable)} known vulnerabilities; "
        f"{len(packages) - len(asked)} not known to the advisory service that could be reached"
    )
    if not asked:
        _say_not_done("the advisory service that could be reached knows none of the packages")
    return 1 if vulnerable else 0


def _say_not_done(reason: str) -> None:
    print(f"\n*** AUDIT NOT DONE: {reason} ***\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
