"""How the report says numbers, checkpoints and lists."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.algorithm.state import CheckpointKey

_SCALES = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def listed(items: Sequence[str], at_most: int = 6) -> str:
    """Return `a, b and c`, or the first of a long list and how many more there are."""
    if len(items) > at_most + 1:
        return f"{', '.join(items[:at_most])} and {len(items) - at_most} more"
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]])) if items else "none"


def short(name: str, length: int = 20) -> str:
    """Return a long name without its middle, since both ends tell names apart."""
    if len(name) <= length:
        return name
    tail = length // 2
    return f"{name[: length - tail - 1]}…{name[-tail:]}"


def counted(number: int, noun: str) -> str:
    """Return `1 round`, `2 rounds`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def checkpoint(key: CheckpointKey) -> str:
    """Return a checkpoint's name; the first of all is the base model."""
    return "the base model" if key == CheckpointKey(0, 0) else str(key)


def score(value: float | None, digits: int = 3) -> str:
    """Return an accuracy or a loss; a dash for what was not measured."""
    return "–" if value is None else f"{value:.{digits}f}"


def change(value: float | None) -> str:
    """Return a difference with its sign."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def share(value: float) -> str:
    """Return a share as a percentage; a small one is not rounded away."""
    return f"{value:.0%}" if value >= 0.1 or value == 0 else f"{value:.1%}"


def flops(value: float) -> str:
    """Return floating-point operations with a prefix, such as `1.36 PFLOPs`."""
    scale, prefix = next(((scale, prefix) for scale, prefix in _SCALES if value >= scale), (1.0, ""))
    return f"{value / scale:.3g} {prefix}FLOPs" if prefix else f"{value:,.0f} FLOPs"


def duration(seconds: float) -> str:
    """Return seconds in the unit that fits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: float) -> str:
    """Return a size in MB or GB; a dash for nothing."""
    if not num_bytes:
        return "–"
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
