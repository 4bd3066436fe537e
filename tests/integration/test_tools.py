"""Resume, export and plan of a finished search; exported adapters load with peft."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from flows.search import msft_search
from tasks.commands.export import export_champion
from tasks.config.schema import LoraConfig
from tasks.contracts import BaseModelRef, RolloutSpec
from tasks.errors import ExportError
from tasks.record.ownership import directory_of
from tasks.record.paths import checkpoint_directory
from tasks.record.plan import read_plan
from tasks.record.status import read_summary, resumed_config, status_of
from tasks.workers.export_adapter import export_adapter
from tasks.workers.model import load_base, load_weights
from tasks.workers.train import train


def test_export_copies_the_champion_and_overwrites_nothing(searched: Any, tmp_path: Path) -> None:
    config, result = searched
    done = export_champion(directory_of(config), str(tmp_path / "out" / "model"), merge_lora=True)
    here, there = (AutoModelForCausalLM.from_pretrained(d).state_dict() for d in (result.directory, done.to))
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert not list(Path(directory_of(config)).glob(".export-*"))
    with pytest.raises(ExportError, match="which exists"):
        export_champion(directory_of(config), str(tmp_path / "out" / "model"), merge_lora=True)
    with pytest.raises(ExportError, match=r"without model\.lora"):
        export_champion(directory_of(config), str(tmp_path / "other"), merge_lora=False)


def test_export_needs_a_finished_search(searched: Any, tmp_path: Path) -> None:
    directory = tmp_path / "unfinished"
    directory.mkdir()
    lines = Path(directory_of(searched[0]), "journal.jsonl").read_text().splitlines(keepends=True)
    (directory / "journal.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ExportError, match="msft resume"):
        export_champion(str(directory), str(tmp_path / "out"), merge_lora=True)


def test_exported_adapters_give_the_scored_weights_logits(
    tiny_base: BaseModelRef, make_rollout: Callable[..., Path], tmp_path: Path
) -> None:
    from peft import PeftModel

    spec_path = make_rollout("lora", ema=0.5)
    base = tiny_base.model_copy(update={"lora": LoraConfig(r=2, alpha=4)})
    spec = RolloutSpec.model_validate_json(spec_path.read_text()).model_copy(update={"model": base})
    spec_path.write_text(spec.model_dump_json())
    train(spec_path)
    checkpoint = checkpoint_directory(spec_path.parent, 9)
    wanted = {"model": base.model_dump(mode="json"), "base": base.directory, "checkpoint": str(checkpoint)}
    export_path = tmp_path / "export_spec.json"
    export_path.write_text(json.dumps(wanted | {"directory": str(tmp_path / "adapters")}))
    export_adapter(export_path)
    assert not (tmp_path / "adapters" / "model.safetensors").exists()
    plain = AutoModelForCausalLM.from_pretrained(base.directory)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = plain(ids).logits
    loaded = PeftModel.from_pretrained(plain, tmp_path / "adapters")
    trained = load_base(base)
    load_weights(trained, checkpoint, "average.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, trained(ids).logits)
        assert not torch.equal(loaded(ids).logits, before)


def test_a_moved_search_resumes_from_its_directory_alone(searched: Any, tmp_path: Path) -> None:
    config, result = searched
    root = shutil.copytree(config.output_root, tmp_path / "moved")
    directory = root / Path(directory_of(config)).name
    resumed = resumed_config(str(directory), [])
    again = msft_search(resumed)
    assert again.key == result.key
    assert again.validation == result.validation
    assert status_of(str(directory)).condition == "finished"


def test_the_cost_of_a_search_lies_within_its_plan(searched: Any) -> None:
    """The smoke search excludes nothing and spends its budget, so its training is the plan's most."""
    directory = str(directory_of(searched[0]))
    plan, summary = read_plan(directory), read_summary(directory)
    assert plan is not None
    rows = {row["quantity"]: row for row in summary["plan"]}
    assert rows["num_examples"]["actual"] == plan.most.num_examples == 3 * 2 * 112
    assert rows["num_steps"]["actual"] == plan.most.num_steps == 84
    for row in rows.values():
        if row["quantity"] != "bytes_written":
            assert row["least"] * 0.99 <= row["actual"] <= row["most"] * 1.01, row
    # File headers matter for a model of two layers.
    assert rows["bytes_written"]["actual"] == pytest.approx(plan.expected.bytes_written, rel=0.1)
    assert summary["ledger"]["restart"]["num_tokens"] == 0
