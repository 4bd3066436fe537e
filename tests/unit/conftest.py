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

# The same examples each time, and no deadline: a shared machine stalls now and then.
settings.register_profile("unit", max_examples=50, deadline=None, derandomize=True)
settings.load_profile("unit")
