"""Settings of all unit tests: where `datasets` caches, and how many examples a property is tried on."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from hypothesis import settings

# Set before `datasets` is imported, which reads them once.
_cache = tempfile.mkdtemp(prefix="msft-unit-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ["HF_DATASETS_CACHE"] = _cache
os.environ["HF_HUB_OFFLINE"] = "1"

# Before a commit a few examples, the same ones each time; HYPOTHESIS_PROFILE=nightly tries many that are new each time.
# No deadline: a shared machine stalls now and then.
settings.register_profile("unit", max_examples=15, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=500, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unit"))
