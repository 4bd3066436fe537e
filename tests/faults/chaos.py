"""Kill a search at random until it must have hit everything, and compare its end with an undisturbed one's.

    python -m tests.faults.chaos --kills 30 --seed 0 [--minutes 25] [--set a.b=c] [--mlflow-server] [--report FILE]

Exit code 1 where anything differs, a process is left over, or the search does not end as it should.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.comparison import differences, record_of
from tests.faults.processes import KINDS, PHASES, Command, send
from tests.faults.tracking_server import TrackingServer, running

CONFIG = Path(__file__).with_name("chaos.yaml")
SIGNALS = ("TERM", "KILL", "INT", "STOP")
# A worker notices within a second that its owner is gone, once it has imported torch.
ORPHAN_GRACE_S = 45.0
# A flow told to end waits for its worker to save: tasks.runtime.processes.GRACE_S, and some for a busy machine.
END_GRACE_S = 120.0
# A search that takes this much longer than the undisturbed one hangs.
HANG_FACTOR, HANG_S = 10.0, 600.0
# Before Python has reached our first line, the signal's own effect is all there is.
STARTUP_S = 3.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Kill:
    """One signal: when, to whom, and what came of it."""

    victim: str
    signal: str
    phase: str
    after_s: float
    ended_s: float | None
    code: int | None


@dataclass(frozen=True)
class Undisturbed:
    """How a search ends that nobody disturbs, and how long it takes."""

    record: dict[str, Any]
    seconds: float


def run_undisturbed(config: Path, work: Path, overrides: tuple[str, ...] = ()) -> Undisturbed:
    """Run the search once to its end."""
    began = time.monotonic()
    command = Command(config, work / "searches", work / "prefect", overrides)
    code = command.wait(3600)
    assert code == 0, f"the undisturbed search failed with {code}:\n{command.text()[-2000:]}"
    assert command.survivors(ORPHAN_GRACE_S) == []
    return Undisturbed(record_of(work / "searches"), time.monotonic() - began)


@dataclass
class Campaign:
    """Disturbed searches, until enough signals were sent, each compared with the undisturbed one."""

    config: Path
    work: Path
    rng: random.Random
    num_kills: int
    deadline: float
    undisturbed: Undisturbed
    overrides: tuple[str, ...] = ()
    has_server: bool = False
    longest_pause_s: float = math.inf
    kinds: frozenset[str] = KINDS
    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    server: TrackingServer | None = None

    def run(self) -> dict[str, Any]:
        """Return the report."""
        say(f"undisturbed: {self.undisturbed.seconds:.0f} s")
        while not self._is_over():
            number = len(self.searches)
            with running(self.work / f"mlflow-{number}") if self.has_server else nullcontext() as self.server:
                self._disturb(self.work / f"disturbed-{number}")
        return self._report()

    def _is_over(self) -> bool:
        return len(self.kills) >= self.num_kills or time.monotonic() > self.deadline

    def _start(self, output_root: Path) -> Command:
        # A Prefect of its own too, so that kills also hit the creation of its database.
        home = output_root.with_name(f"{output_root.name}-prefect")
        uri = (f"tracking.uri={self.server.uri}",) if self.server is not None else ()
        return Command(self.config, output_root, home, (*self.overrides, *uri))

    def _disturb(self, output_root: Path) -> None:
        """Bring one search to its end through kills and new starts, and compare it."""
        began, before = time.monotonic(), len(self.kills)
        limit = began + max(HANG_S, HANG_FACTOR * self.undisturbed.seconds) * 6
        starts = 0
        while True:
            starts += 1
            code = self._run_once(self._start(output_root))
            if code == 0 or time.monotonic() > limit:
                break
        wall = time.monotonic() - began
        found = self._compare(output_root) if code == 0 else [f"never ended: {code}"]
        num_kills = len(self.kills) - before
        self.searches.append({"kills": num_kills, "starts": starts, "wall_s": round(wall, 1), "differences": found})
        verdict = "equal" if not found else f"{len(found)} DIFFERENCES: {found[:3]}"
        say(f"search {len(self.searches)}: {num_kills} kills, {starts} starts, {wall:.0f} s: {verdict}")

    def _compare(self, output_root: Path) -> list[str]:
        if self.server is not None:
            self.server.wait()
        uri = self.server.uri if self.server is not None else None
        return differences(self.undisturbed.record, record_of(output_root, uri))

    def _run_once(self, command: Command) -> int | None:
        """Run the command to its end, with kills at random moments; return its exit code."""
        hangs_at = time.monotonic() + max(HANG_S, HANG_FACTOR * self.undisturbed.seconds)
        was_killed = False
        while command.flow.poll() is None and not was_killed:
            if time.monotonic() > hangs_at:
                self._object(f"hangs in phase {command.phase()}:\n{command.text()[-1500:]}")
                command.kill_all()
            elif self._is_over():
                time.sleep(_POLL_S)
            elif self._wait_for_moment(command):
                was_killed = self._strike(command)
        code = command.wait(0)
        if not was_killed:
            self._check_end(command, code, (0, 1), "ended by itself")
        self._check_none_left(command, f"code {code}")
        return code

    def _wait_for_moment(self, command: Command) -> bool:
        """Wait a random time, or until a random phase begins; return whether the search still runs.

        Times alone would hit the long phases only, and a phase alone may not come again.
        """
        longest_s = min(self.longest_pause_s, self.undisturbed.seconds / 2)
        until = time.monotonic() + self.rng.uniform(0.2, longest_s)
        wanted, then_s = self.rng.choice([None, None, *PHASES]), self.rng.expovariate(1.0)
        while command.flow.poll() is None and time.monotonic() < until:
            if wanted is not None and command.phase() == wanted:
                until, wanted = time.monotonic() + then_s, None
            time.sleep(_POLL_S)
        return command.flow.poll() is None

    def _strike(self, command: Command) -> bool:
        """Send one signal to one process; say whether it was the flow, which has then ended."""
        phase, members = command.phase(), [m for m in command.members() if m.kind in self.kinds]
        if not members:
            return False
        name = self.rng.choice(SIGNALS)
        after_s = time.monotonic() - command.began
        struck = time.monotonic()
        ended_s, code = None, None
        victims = [member.kind for member in members] + ["mlflow"] * self.has_server
        number = self.rng.randrange(len(victims))
        kind = victims[number]
        if kind == "mlflow":
            assert self.server is not None
            self.server.strike(name, away_s=self.rng.uniform(0.5, 6.0))
        else:
            send(members[number].process, name)
        if kind == "flow":
            code = command.wait(END_GRACE_S)
            ended_s = round(time.monotonic() - struck, 1)
            if after_s > STARTUP_S or code is None:
                self._check_flow(command, name, code, phase)
        self.kills.append(Kill(kind, name, phase, round(after_s, 1), ended_s, code))
        say(f"kill {len(self.kills)}: {name} to the {kind} in {phase} after {after_s:.0f} s -> {code}")
        return kind == "flow"

    def _check_flow(self, command: Command, name: str, code: int | None, phase: str) -> None:
        if code is None:
            self._object(f"{name} in {phase}: the flow goes on\n{command.text()[-1500:]}")
            command.kill_all()
            return
        expected = {"TERM": [143], "INT": [130], "KILL": [-9], "STOP": [-9]}[name]
        # 0: it was about to end anyway.
        self._check_end(command, code, (0, *expected), f"{name} in {phase}")

    def _check_end(self, command: Command, code: int | None, expected: tuple[int, ...], what: str) -> None:
        text = command.text()
        if code not in expected:
            self._object(f"{what}: code {code}, expected {expected}\n{text[-3000:]}")
        # Whoever prints it may do so long before the end.
        traceback = text.find("Traceback")
        if traceback >= 0:
            around = text[max(0, traceback - 1500) : traceback + 6000]
            self._object(f"{what}: code {code} with a traceback\n{around}")

    def _check_none_left(self, command: Command, what: str) -> None:
        left = command.survivors(ORPHAN_GRACE_S)
        if left:
            names = [f"{member.kind} {member.process.pid}: {member.command[:150]}" for member in left]
            self._object(f"orphans after {what}: {names}")
            command.kill_all()

    def _object(self, problem: str) -> None:
        self.problems.append(problem)
        say(f"PROBLEM: {problem}")

    def _report(self) -> dict[str, Any]:
        walls = [search["wall_s"] for search in self.searches]
        lost = sum(walls) - self.undisturbed.seconds * len(walls)
        return {
            "kills": len(self.kills),
            "undisturbed_s": round(self.undisturbed.seconds, 1),
            "searches": self.searches,
            "all_equal": not any(search["differences"] for search in self.searches),
            "seconds_lost_per_kill": round(lost / max(1, len(self.kills)), 1),
            "by_victim": Counter(kill.victim for kill in self.kills),
            "by_signal": Counter(kill.signal for kill in self.kills),
            "by_phase": Counter(kill.phase for kill in self.kills),
            "problems": self.problems,
            "each": [vars(kill) for kill in self.kills],
        }


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def main() -> int:
    """Run the campaign of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e6, help="send no more signals after this time")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--set", action="append", default=[], help="override one value of the configuration")
    parser.add_argument("--mlflow-server", action="store_true", help="track on a server, and kill that too")
    parser.add_argument("--longest-pause-s", type=float, default=math.inf, help="between two signals")
    parser.add_argument("--victim", action="append", choices=sorted(KINDS), help="strike these only")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--work", type=Path, help="where the searches lie; a new temporary folder by default")
    arguments = parser.parse_args()
    work = (arguments.work or Path(tempfile.mkdtemp(prefix="msft-chaos-"))).resolve()
    config, overrides = arguments.config.resolve(), tuple(arguments.set)
    deadline = time.monotonic() + 60 * arguments.minutes
    report = Campaign(
        config=config,
        work=work,
        rng=random.Random(arguments.seed),
        num_kills=arguments.kills,
        deadline=deadline,
        undisturbed=run_undisturbed(config, work / "undisturbed", overrides),
        overrides=overrides,
        has_server=arguments.mlflow_server,
        longest_pause_s=arguments.longest_pause_s,
        kinds=frozenset(arguments.victim or KINDS),
    ).run()
    text = json.dumps(report, indent=1)
    if arguments.report is not None:
        arguments.report.write_text(text + "\n")
    say(text)
    return 0 if report["all_equal"] and not report["problems"] else 1


if __name__ == "__main__":
    sys.exit(main())
