from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.errors import CheckpointDamagedError, NoDiskSpaceError
from tasks.record.rollout import MANIFEST, publish_with_manifest, read_manifest, verify
from tasks.runtime.files import hash_file, write_file

META = {"round": 1, "step": 30}


CONTENTS = {"weights": [b"01234", b"56789"], "state": [b"{}"]}


def _publish(parent: Path) -> Path:
    directory = parent / "checkpoints" / "step-30"
    publish_with_manifest(directory, CONTENTS, META, num_bytes=12)
    return directory


def test_a_published_directory_is_listed_with_sizes_and_hashes(tmp_path: Path) -> None:
    directory = _publish(tmp_path)
    digest = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"  # printf 0123456789 | sha256sum
    manifest = verify(directory)
    assert manifest == read_manifest(directory)
    assert {key: manifest[key] for key in META} == META
    assert manifest["files"]["weights"] == {"bytes": 10, "sha256": digest}
    assert set(manifest["files"]) == {"weights", "state"}
    assert [path.name for path in directory.parent.iterdir()] == ["step-30"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("the writer failed"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.EIO, "I/O error"), OSError),
        (OSError(errno.ENOSPC, "No space left on device"), NoDiskSpaceError),
        # As safetensors puts it; its class is not an OSError.
        (RuntimeError("I/O error: No space left on device (os error 28)"), NoDiskSpaceError),
    ],
)
def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, error: BaseException, raised: type[BaseException]) -> None:
    def fails() -> Iterator[bytes]:
        yield b"half"
        raise error

    with pytest.raises(raised):
        publish_with_manifest(tmp_path / "step-30", {**CONTENTS, "weights": fails()}, META, num_bytes=12)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".staging-step-30").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".staging-step-30" / "half").write_text("half")
    directory = _publish(tmp_path)
    assert {path.name for path in directory.iterdir()} == {"weights", "state", MANIFEST}


def test_files_that_do_not_fit_are_refused_before_a_write(tmp_path: Path) -> None:
    def written() -> Iterator[bytes]:
        raise AssertionError("written though there is no room")
        yield b""

    with pytest.raises(NoDiskSpaceError, match=r"expected: 1,152,921,504,606,846,976 bytes"):
        publish_with_manifest(tmp_path / "step-30", {"weights": written()}, META, num_bytes=1 << 60)
    assert list(tmp_path.iterdir()) == []


def test_verify_names_every_file_that_is_not_as_published(tmp_path: Path) -> None:
    directory = _publish(tmp_path)
    (directory / "weights").write_bytes(b"012345678")  # truncated
    (directory / "state").unlink()
    with pytest.raises(CheckpointDamagedError) as caught:
        verify(directory)
    assert "weights: got 9 bytes, expected 10" in str(caught.value)
    assert "state: missing" in str(caught.value)


def test_verify_finds_one_flipped_bit(tmp_path: Path) -> None:
    directory = _publish(tmp_path)
    (directory / "weights").write_bytes(b"0123456788")
    with pytest.raises(CheckpointDamagedError, match="weights: content differs from its sha256"):
        verify(directory)


def test_verify_of_one_file_leaves_the_others_alone(tmp_path: Path) -> None:
    directory = _publish(tmp_path)
    (directory / "weights").unlink()
    assert verify(directory, only="state")["step"] == 30


@pytest.mark.parametrize("content", [None, "{", ""])
def test_a_directory_without_a_readable_manifest_is_damaged(tmp_path: Path, content: str | None) -> None:
    directory = _publish(tmp_path)
    (directory / MANIFEST).unlink()
    if content is not None:
        (directory / MANIFEST).write_text(content)
    with pytest.raises(CheckpointDamagedError, match=MANIFEST):
        verify(directory)


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_file(path, "{1}")
    write_file(path, "{2}")
    assert path.read_text() == "{2}"
    assert list(tmp_path.iterdir()) == [path]


def test_a_hash_covers_a_file_of_several_blocks(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(9_000_000))
    (tmp_path / "two").write_bytes(bytes(8_999_999) + b"1")
    assert hash_file(tmp_path / "one") != hash_file(tmp_path / "two")
