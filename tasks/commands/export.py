"""Export a finished search's champion to a directory or to the Hugging Face hub."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from tasks.config.schema import SearchConfig
from tasks.contracts import Value
from tasks.data.base_model import prepare_base_model
from tasks.errors import DriftError, ExportError
from tasks.record.events import ChampionCrowned, champion_of, start_of
from tasks.record.journal import read_events
from tasks.record.paths import CHAMPION, SOUP, SOUP_AVERAGE, checkpoint_directory, round_directory
from tasks.record.rollout import verify
from tasks.record.status import resumed_config
from tasks.report.soup import champion_name
from tasks.runtime.files import publish_folder, write_file
from tasks.runtime.launch import run_module

HUB = "hub:"


class Export(Value):
    """Result of `msft export`."""

    search: str
    checkpoint: str
    to: str
    has_adapters_only: bool
    num_bytes: int


def export_champion(directory: str, to: str, *, merge_lora: bool) -> Export:
    """Export the champion of a search.

    Args:
        directory: the search's directory.
        to: a new directory, or `hub:OWNER/NAME`; a repository that does not exist is created as private.
        merge_lora: export a plain model; otherwise the adapters alone, for peft.
    Raises:
        ExportError: there is no champion yet, the model has no adapters, or `to` cannot be used.
    """
    name = Path(directory).resolve().name
    crowned = champion_of(read_events(directory))
    if crowned is None:
        got, fix = "a search without a champion", f"msft resume {directory}, and export afterwards"
        raise ExportError(name, got=got, expected="a finished search", fix=fix)
    key, soup = crowned.champion.key, crowned.soup
    told = str(key) if soup is None or not soup.is_average else champion_name(key, soup)
    if not to.startswith(HUB) and Path(to).exists():
        raise ExportError(name, got=f"{to}, which exists", expected="a new directory", fix="choose another with --to")
    with tempfile.TemporaryDirectory(dir=directory, prefix=".export-") as scratch:

        def write(folder: Path) -> None:
            if merge_lora:
                shutil.copytree(Path(directory, CHAMPION), folder, dirs_exist_ok=True)
            else:
                _write_adapters(
                    directory, _checkpoint_of(directory, crowned), folder, Path(scratch, "export_spec.json")
                )

        folder = Path(scratch, "model") if to.startswith(HUB) else Path(to)
        publish_folder(folder, write, "the champion")
        num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        place = _upload(name, folder, to.removeprefix(HUB)) if to.startswith(HUB) else to
    return Export(search=name, checkpoint=told, to=place, has_adapters_only=not merge_lora, num_bytes=num_bytes)


def _checkpoint_of(directory: str, crowned: ChampionCrowned) -> Path:
    """Return the directory of the weights that the champion was exported from."""
    if crowned.soup is not None and crowned.soup.is_average:
        return Path(directory, SOUP, SOUP_AVERAGE)
    return checkpoint_directory(round_directory(directory, crowned.champion.key.round), crowned.champion.key.step)


def _write_adapters(directory: str, checkpoint: Path, folder: Path, spec_path: Path) -> None:
    name = Path(directory).resolve().name
    config = resumed_config(directory, ())
    if config.model.lora is None:
        got, expected = "a search without model.lora, so there are no adapters", "a search that trained LoRA adapters"
        raise ExportError(name, got=got, expected=expected, fix="omit --no-merge-lora")
    verify(checkpoint, with_state=False)
    model = prepare_base_model(config)
    begun_with = start_of(read_events(directory)).content["base model"]
    if model.sha256 != begun_with:
        changed = [f"base model: was {begun_with}, is {model.sha256}"]
        raise DriftError(name, changed, can_be_accepted=False)
    spec = {
        "model": model.model_dump(mode="json"),
        "base": _base_name(config, model.directory),
        "checkpoint": str(checkpoint.resolve()),
        "directory": str(folder.resolve()),
    }
    write_file(spec_path, json.dumps(spec))
    run_module("tasks.workers.export_adapter", spec_path, name=f"export of {name}", threads=config.training.threads)
    shutil.copy(Path(directory, CHAMPION, "generation_config.json"), folder)  # the tokens that end a generation


def _base_name(config: SearchConfig, directory: str) -> str:
    """Return the base model's name for the adapters' configuration: the hub id if it has one, else its directory."""
    source = config.model.source
    is_local = source is None or source.startswith("package:") or config.resolve(source).exists()
    return directory if is_local or source is None else source


def _upload(name: str, folder: Path, repository: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        created = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=created.repo_id, folder_path=str(folder), commit_message=f"Champion of {name}")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        got, expected = (
            f"{repository}: {' '.join(str(error).split())[:300]}",
            "OWNER/NAME on the hub, with write access",
        )
        fix = "hf auth login, or export to a directory and upload it later"
        raise ExportError(name, got=got, expected=expected, fix=fix) from error
    return str(created)
