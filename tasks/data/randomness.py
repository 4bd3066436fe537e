"""Random numbers as pure functions of a key, which names their use."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_from(*key: int | str) -> int:
    """Return a 32-bit seed that is a function of `key` alone."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def random_state(*key: int | str) -> np.random.RandomState:
    """Return a generator seeded by `key`.

    NumPy guarantees the stream of RandomState (NEP 19) but not that of the newer Generator, and a search must draw
    the same rows after an upgrade.
    """
    return np.random.RandomState(seed_from(*key))
