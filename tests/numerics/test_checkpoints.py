"""A checkpoint's files are safetensors' own, hashed from the memory that they are written from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tasks.algorithm.state import CheckpointKey
from tasks.errors import CheckpointDamagedError
from tasks.record.paths import checkpoint_directory
from tasks.record.rollout import verify
from tasks.workers.training.checkpoint import drop_earlier_states, newest_whole, publish_checkpoint
from tasks.workers.training.tensor_file import safetensors_parts

TYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.float16, torch.bfloat16, torch.int32, torch.float32,
    torch.float64, torch.int64,
)  # fmt: skip
SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (0, 3), (7,), (3, 5), (2, 3, 4))


def tensors_of(types: tuple[torch.dtype, ...]) -> dict[str, torch.Tensor]:
    values = torch.arange(-12, 12)
    return {
        f"{dtype} {shape}".replace("1", 'ü"\n\\'): values[: torch.Size(shape).numel()].reshape(shape).to(dtype).clone()
        for dtype in types
        for shape in SHAPES
    }


@pytest.mark.parametrize(
    "tensors",
    [{}, tensors_of(TYPES), tensors_of(TYPES[::-1]), {"large": torch.randn(3, 1 << 20), "b": torch.randn(5).t()}],
    ids=["none", "all types", "in another order", "of several blocks"],
)
def test_a_file_has_the_bytes_that_safetensors_writes(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "expected")
    assert b"".join(safetensors_parts(tensors)) == (tmp_path / "expected").read_bytes()


def read_bytes() -> int:
    """Return how many bytes this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_no_byte_of_a_checkpoint_is_read_when_it_is_published(tmp_path: Path) -> None:
    tensors = {"model.safetensors": {"weight": torch.randn(1 << 20)}}
    before = read_bytes()
    publish_checkpoint(tmp_path, CheckpointKey(0, 4), tensors, {"cursors": {}}, 17)
    assert read_bytes() - before < 1000  # /proc/self/io itself
    verify(checkpoint_directory(tmp_path, 4))
    assert read_bytes() - before > 4 << 20


@pytest.fixture
def weights_alone(tmp_path: Path) -> Path:
    """A roll-out of a method that never goes back: the base model, and two checkpoints with averaged weights."""
    one = {"weight": torch.zeros(3)}
    for step in (0, 4, 9):
        files = {"model.safetensors": one, "optimizer.safetensors": one if step else {}, "average.safetensors": one}
        publish_checkpoint(tmp_path, CheckpointKey(0, step), files, {"cursors": {}}, 17)
        drop_earlier_states(tmp_path, step)
    return tmp_path


def test_an_earlier_checkpoint_keeps_the_scored_weights_alone(weights_alone: Path) -> None:
    early = checkpoint_directory(weights_alone, 4)
    assert sorted(path.name for path in early.iterdir()) == [
        "average.safetensors",
        "manifest.json",
        "trainer_state.json",
    ]
    verify(early, with_state=False)
    with pytest.raises(CheckpointDamagedError, match=r"optimizer\.safetensors: missing"):
        verify(early)


def test_a_rollout_is_resumed_from_a_checkpoint_with_its_state(weights_alone: Path) -> None:
    def newest() -> Path | None:
        return newest_whole(weights_alone, [0, 4, 9], all_have_state=False)

    assert newest() == checkpoint_directory(weights_alone, 9)
    (checkpoint_directory(weights_alone, 9) / "optimizer.safetensors").write_bytes(b"")
    assert newest() == checkpoint_directory(weights_alone, 0)
    assert checkpoint_directory(weights_alone, 4).exists()
    assert not checkpoint_directory(weights_alone, 9).exists()  # set aside
