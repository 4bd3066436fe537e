"""Search ids stay those of the searches on disk, however the configuration spells its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.algorithm.methods import METHODS
from tasks.comparison.grid import configure
from tasks.config.identity import search_id_of
from tasks.config.loading import load_config
from tasks.config.presets import PRESETS
from tasks.errors import ConfigError

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "data" / "quickstart.yaml")
# Recorded on 02d74ed, before the configuration was typed strictly. A changed value orphans searches on disk.
FILES = {
    "data/held_out.yaml": "aba03902",
    "data/held_out2.yaml": "67483d75",
    "data/held_out3.yaml": "31ad7b4c",
    "data/paper10.yaml": "b7b8ea62",
    "data/paper15.yaml": "24fc3526",
    "data/paper5.yaml": "7e9bbb68",
    "data/quickstart.yaml": "20b79529",
    "data/quickstart_base.yaml": "3c4a62b4",
    "data/real10.yaml": "3f077d25",
    "data/real20.yaml": "db8b6b60",
    "data/sixteen.yaml": "3174f556",
    "data/smollm2_cpu.yaml": "e2c97cf8",
    "deployments/configs/smoke.yaml": "dc10822e",
}
COMPARED = {
    "sft": "9adc41c6",
    "sft_ema": "c9b62c99",
    "sft_ema_soup": "e2ca6a10",
    "msft": "20b79529",
    "msft_paper": "79284ece",
    "continual_sft": "efd62d20",
    "dynamix_sft": "fb70c80b",
    "ies": "d1437f9b",
    "sro_sft": "8f754216",
    "soft_sro_sft": "1d5a8cb1",
    "forward": "d505d196",
    "forward_ema": "6d52308f",
    "forward_random": "a9d086bc",
    "forward_plus": "6b63234c",
    "msft_rehearsal": "d10afc3c",
    "msft_answered": "1454cca7",
    "msft_plus": "f0821c6f",
    "msft_memory": "01d4ffd0",
    "msft_paired": "eacc22a7",
    "msft_relabelled": "5c90f6a9",
    "forward_relabelled": "406d09fb",
    "msft_plus_random": "32801cca",
}
PLAIN = COMPARED | {"forward": "baacdd9b", "continual_sft": "71410201"}
OPTIONS = {
    "msft {memory: true, rehearse: answered, rehearsal: 0.1}": "7bb28c74",
    "msft {memory: false}": "6399942b",
    "msft {rehearsal: 0.0}": "a83a4c56",
    "msft {rehearse: all}": "80ac400d",
    "forward {persist: 2}": "5bade7ba",
    "forward {rehearse: answered}": "60447911",
    "dynamix_sft {beta: 5}": "4dbba0a5",
    "ies {delta: 0.01}": "6e70d4b5",
}


def _id_with(method: str, *overrides: str) -> str:
    return search_id_of(load_config(QUICKSTART, [f"search.method={method}", *overrides]))


def test_every_mixture_has_a_recorded_id() -> None:
    there = [*ROOT.glob("data/*.yaml"), *ROOT.glob("deployments/configs/*.yaml")]
    assert sorted(FILES) == sorted(str(path.relative_to(ROOT)) for path in there)
    assert list(COMPARED) == list(PRESETS)


@pytest.mark.parametrize("path", FILES)
def test_a_mixture_keeps_its_search_id(path: str) -> None:
    assert search_id_of(load_config(str(ROOT / path))) == FILES[path]


@pytest.mark.parametrize("method", COMPARED)
def test_a_compared_method_keeps_its_search_id(method: str) -> None:
    config = configure(load_config(QUICKSTART), method, 0, "quickstart")
    assert search_id_of(config) == COMPARED[method]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_keeps_its_search_id(method: str) -> None:
    assert _id_with(method) == PLAIN[method]


@pytest.mark.parametrize("options", OPTIONS)
def test_options_keep_their_search_id(options: str) -> None:
    method, _, values = options.partition(" ")
    assert _id_with(method, f"search.options={values}") == OPTIONS[options]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in METHODS])
def test_a_preset_is_the_search_that_it_expands_to(preset: str, tmp_path: Path) -> None:
    text = Path(QUICKSTART).read_text()
    for line in ("  compute_budget_epochs: 2\n", "  evals_per_epoch: 4\n"):
        assert line in text
        if line.split(":")[0].strip() in str(PRESETS[preset].settings):
            text = text.replace(line, "")
    path = tmp_path / "search.yaml"
    path.write_text(text)
    assert search_id_of(load_config(str(path), [f"search.method={preset}"])) == COMPARED[preset]


def test_a_given_value_wins_over_the_preset(caplog: pytest.LogCaptureFixture) -> None:
    options = "search.options={loss_guard: 0.2}"
    config = load_config(QUICKSTART, ["search.method=msft_plus", options])
    assert config.search.method == "msft"
    assert config.search.options.model_dump() == {"rehearsal": 0.1, "rehearse": "correct", "loss_guard": 0.2}
    assert (config.search.compute_budget_epochs, config.training.ema) == (2, 0.99)
    assert "search.compute_budget_epochs: 2 is used; search.method=msft_plus would set 1" in caplog.text


def test_a_preset_leaves_sections_of_a_wrong_type_to_validation() -> None:
    with pytest.raises(ConfigError, match="got 3; expected a section"):
        load_config(QUICKSTART, ["search.method=sft_ema", "training=3"])


def test_a_preset_in_a_shared_file_is_its_plain_method() -> None:
    override = "search.method=msft_memory"
    shared = load_config(QUICKSTART, [override], is_shared=True)
    assert search_id_of(shared) == FILES["data/quickstart.yaml"]
    compared = configure(shared, "sft", 0, "quickstart")
    assert search_id_of(compared) == COMPARED["sft"]


def test_a_chat_template_of_ones_own_is_another_search() -> None:
    assert search_id_of(load_config(QUICKSTART, ["model.chat_template=plain"])) != FILES["data/quickstart.yaml"]
