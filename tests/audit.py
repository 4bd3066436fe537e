"""Audit the pinned packages for known vulnerabilities: `python -m tests.audit`.

pip-audit passes over packages that the advisory service does not know, and calls the rest clean; here the count of
both is printed, so that an audit without a service is not taken for a clean one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def main() -> int:
    """Return 1 where a pinned version has a known vulnerability, each of which is printed."""
    options = [
        "--no-deps",
        "--disable-pip",
        "--progress-spinner",
        "off",
        "--format",
        "json",
        "--timeout",
        "30",
    ]
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"audit: NOT DONE, no advisory service could be asked ({reason:.200})")
        return 0
    packages = json.loads(done.stdout)["dependencies"]
    asked = [package for package in packages if "vulns" in package]
    vulnerable = [(package, found) for package in asked for found in package["vulns"]]
    for package, found in vulnerable:
        fixed = ", ".join(found["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {found['id']}, mended in {fixed}")
    print(
        f"audit: {len(packages)} pinned packages, {len(vulnerable)} known vulnerabilities; "
        f"{len(packages) - len(asked)} not known to the advisory service that could be reached"
    )
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
