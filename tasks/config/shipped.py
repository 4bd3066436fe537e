"""Files that come with the package: example mixtures, which go by their names, and the deployments."""

from __future__ import annotations

from pathlib import Path

_IN_WHEEL = Path(__file__).resolve().parents[1] / "shipped"
# A wheel holds these folders inside the package, since site-packages has no room for a `data`; a clone, at its root.
SHIPPED = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_WHEEL.parents[1]


def config_path(name: str) -> str:
    """Return the file of an example mixture; any other path, and a file of the user's own, as it stands."""
    is_name = Path(name).name == name and not Path(name).suffix and not Path(name).is_file()
    return str(SHIPPED / "data" / f"{name}.yaml") if is_name and name in _examples() else name


def known_files(path: str) -> str:
    """Return what there is in place of a missing file, as the end of a message."""
    near = ", ".join(sorted(str(file) for file in Path(path).parent.glob("*.y*ml")))
    return (f"; there are {near}" if near else "") + f"; examples by name: {', '.join(_examples())}"


def _examples() -> list[str]:
    return sorted(file.stem for file in (SHIPPED / "data").glob("*.yaml"))
