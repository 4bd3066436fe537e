"""Devices of a worker, and where they are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.commands.doctor import check_devices
from tasks.contracts import Mixture
from tasks.report import messages
from tasks.runtime.machine import has_accelerator
from tasks.runtime.processes import run_prefect


@pytest.mark.parametrize(
    ("nodes", "chosen", "expected"),
    [
        (["nvidia0", "nvidiactl"], None, True),
        (["nvidia3", "nvidiactl"], None, True),  # a container that was given the machine's fourth GPU
        (["nvidia3"], "0", True),  # CUDA counts the GPUs that it finds
        (["nvidia0"], "", False),
        (["nvidia0"], "-1", False),
        (["kfd"], None, True),
        (["nvidiactl", "nvidia-uvm"], None, False),
        ([], "0", False),
    ],
)
def test_a_gpu_is_found_whatever_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: list[str], chosen: str | None, expected: bool
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    for node in nodes:
        (tmp_path / node).touch()
    assert has_accelerator(tmp_path) is expected


def test_short_commands_ignore_the_modules_of_a_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tasks", "flows", "prefect"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert check_devices(None).verdict == "ok"
    assert run_prefect(["--version"], {})[0] == 0


def test_the_line_of_a_roll_out_names_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    mixture = Mixture(
        round=0,
        draws=(),
        epoch_rows=1,
        full_epoch_rows=1,
        epochs=1.0,
        num_rows=1,
        num_steps=9,
        evaluation_offsets=(9,),
        example_shares={},
        token_shares={},
    )
    with messages.rollout_progress(mixture) as show:
        show(messages.Progress(9, 9, 1.5, 2000.0, 0.0, "cuda (NVIDIA L4) × 2"))
    assert "step 9/9, loss 1.500, 2,000 tokens/s, 0:00 left, on cuda (NVIDIA L4) × 2" in capsys.readouterr().out
