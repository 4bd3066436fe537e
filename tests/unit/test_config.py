"""A configuration is read as it says, or refused with every problem at its place."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tasks.algorithm.methods import METHODS, SHARED
from tasks.config.identity import dump_config, explain_config, search_id_of
from tasks.config.loading import load_config
from tasks.config.method import SECTIONS
from tasks.config.presets import PRESETS
from tasks.config.schema import SearchConfig
from tasks.errors import ConfigError
from tests.unit.bad_config_cases import BOMB
from tests.unit.bad_input import GOOD

ROOT = Path(__file__).parents[2]
MIXTURES = [*sorted(ROOT.glob("data/*.yaml")), *sorted(ROOT.glob("deployments/configs/*.yaml"))]


def _load(directory: Path, *overrides: str, text: str = GOOD) -> SearchConfig:
    path = directory / "search.yaml"
    path.write_text(text)
    return load_config(str(path), overrides)


def _problems(directory: Path, *overrides: str, text: str = GOOD) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _load(directory, *overrides, text=text)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("sed=1", "sed (--set): unknown key; did you mean seed?"),
        ("training.learning_rat=1", "training.learning_rat (--set): unknown key; did you mean learning_rate?"),
        (
            "mixture.sub_datasets.second.max_row.train=3",
            "mixture.sub_datasets.second.max_row (--set): unknown key; did you mean max_rows?",
        ),
        (
            "mixture.sub_datasets.second.splits.validation.carv=3",
            "mixture.sub_datasets.second.splits.validation.carv (--set): unknown key; did you mean carve?",
        ),
        # A key of another section
        ("learning_rate=1e-4", "learning_rate (--set): unknown key; did you mean training.learning_rate?"),
        (
            "tracking.frobnicate=1",
            "tracking.frobnicate (--set): unknown key; known keys: uri, experiment, outage_minutes",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, override: str, problem: str) -> None:
    assert _problems(tmp_path, override) == [problem]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.learning_rate=fast", "training.learning_rate (--set): got 'fast'; expected a number"),
        ("training.batch_size=0", "training.batch_size (--set): got 0; expected a number of at least 1"),
        ("training.batch_size=1.5", "training.batch_size (--set): got 1.5; expected a whole number"),
        ("search.max_epochs=0", "search.max_epochs (--set): got 0; expected a number above 0.0"),
        ("search.rule=papre", "search.rule (--set): got 'papre'; expected 'guarded', 'paper' or 'paired'"),
        ("training=", "training (--set): got null; expected a section of keys and values"),
        ("mixture.sub_datasets=[]", "mixture.sub_datasets (--set): got []; expected at least 1 item"),
        ("mixture.sub_datasets=first", "mixture.sub_datasets (--set): got 'first'; expected a list"),
        ("name=a b", "name (--set): got 'a b'; expected at most 64 letters, digits, and . _ - after the first"),
        # Unions: one line, whichever branch was meant
        (
            "mixture.proportions=by_siz",
            "mixture.proportions (--set): got 'by_siz'; expected 'by_size' or 'equal' or a section of keys and values",
        ),
        ("mixture.proportions={first: x, second: 1}", "mixture.proportions.first (--set): got 'x'; expected a number"),
        (
            "mixture.sub_datasets.first.splits.validation=5",
            "mixture.sub_datasets.first.splits.validation (--set): got 5; "
            "expected text or a section of keys and values",
        ),
        (
            "mixture.sub_datasets.first.splits.validation={carve: 0}",
            "mixture.sub_datasets.first.splits.validation.carve (--set): got 0; expected a number of at least 1",
        ),
        (
            "mixture.sub_datasets.first.splits.train={carve: 5}",
            'mixture.sub_datasets.first.splits.train (--set): got {"carve": 5}; expected text',
        ),
    ],
)
def test_a_wrong_value_says_where_and_what(tmp_path: Path, override: str, problem: str) -> None:
    assert _problems(tmp_path, override) == [problem]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = """
model: {source: base}
mixture: {sub_datasets: [{path: 3}, {name: second, pat: x}]}
training: {batch_size: 0}
"""
    assert sorted(_problems(tmp_path, "noform", "seed=-1", text=text)) == [
        "--set noform: expected the form a.b=value",
        "mixture.sub_datasets.0.name (line 3): required, and not given",
        "mixture.sub_datasets.0.path (line 3): got 3; expected text",
        "mixture.sub_datasets.second.pat (line 3): unknown key; did you mean path?",
        "name (--set): required, and not given",
        "search (--set): required, and not given",
        "seed (--set): got -1; expected a number of at least 0",
        "training.batch_size (line 4): got 0; expected a number of at least 1",
    ]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["mixture.sub_datasets.first.name=second"],
            "mixture.sub_datasets (line 5): two sub-datasets are named second; names must differ",
        ),
        (
            ["search.rule=paper", "search.min_delta=0.1"],
            "search (line 9): min_delta takes no effect with rule=paper; leave one of them out",
        ),
        (
            ["training.final_lr_ratio=0.5"],
            "training (line 8): final_lr_ratio takes no effect with schedule=constant; leave one of them out",
        ),
        (
            ["training.num_processes=2", "training.accelerate_config=fsdp.yaml"],
            "training (line 8): num_processes takes no effect beside accelerate_config; set it in that file",
        ),
        (
            ["mixture.sub_datasets.first.revision=main"],
            "mixture.sub_datasets.first (line 6): revision takes effect only with hub",
        ),
        (
            ["mixture.sub_datasets.first.hub=org/data"],
            "mixture.sub_datasets.first (line 6): give exactly one of path, hub and synthetic; got ['path', 'hub']",
        ),
        (
            ["mixture.sub_datasets.first.path=null"],
            "mixture.sub_datasets.first (line 6): give exactly one of path, hub and synthetic; got none",
        ),
        (
            ["model.from_config={model_type: llama}"],
            "model (line 3): give exactly one of model.source and model.from_config",
        ),
        (
            ["search.exclude_per_round=3"],
            "(top) (--set): search.exclude_per_round is larger than the number of sub-datasets",
        ),
        (
            ["search.protocol=paper"],
            "(top) (--set): search.protocol=paper selects on test splits, and a sub-dataset has none",
        ),
        (
            ["mixture.proportions={first: 1}"],
            "mixture (line 4): proportions must give a weight above 0 for each sub-dataset and no other name; "
            "see second",
        ),
    ],
)
def test_settings_that_take_no_effect_are_refused(tmp_path: Path, overrides: list[str], problem: str) -> None:
    assert _problems(tmp_path, *overrides) == [problem]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("training.learning_rate=1e-4", ("training", "learning_rate"), 1e-4),
        ("evaluation.selection=loss", ("evaluation", "selection"), "loss"),  # a section not in the file
        ("model.lora.r=4", ("model", "lora", "r"), 4),
        ("mixture.sub_datasets.second.path=there", ("mixture", "sub_datasets", 1, "path"), "there"),
        ("mixture.sub_datasets.0.path=there", ("mixture", "sub_datasets", 0, "path"), "there"),
        ("mixture.sub_datasets.second={name: other, path: p}", ("mixture", "sub_datasets", 1, "name"), "other"),
        ("output_root=a=b", ("output_root",), "a=b"),
    ],
)
def test_an_override_sets_one_value(tmp_path: Path, override: str, path: tuple[Any, ...], value: Any) -> None:
    found: Any = _load(tmp_path, override)
    for part in path:
        found = found[part] if isinstance(part, int) else getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("seed", "--set seed: expected the form a.b=value"),
        ("=7", "--set =7: expected the form a.b=value"),
        ("training.=7", "--set training.=7: expected the form a.b=value"),
        (
            "seed=[",
            "--set seed=[: the value '[' is not YAML: while parsing a flow node, "
            "expected the node content, but found '<stream end>' in line 1, column 2",
        ),
        ("name.x=7", "--set name.x=7: name is a value, not a section"),
        (
            "mixture.sub_datasets.third.path=p",
            "--set mixture.sub_datasets.third.path=p: no item 'third'; there are first, second",
        ),
        ("mixture.sub_datasets.2=p", "--set mixture.sub_datasets.2=p: no item '2'; there are first, second"),
    ],
)
def test_an_override_of_a_bad_form_is_refused(tmp_path: Path, override: str, problem: str) -> None:
    assert _problems(tmp_path, override) == [problem]


def test_an_override_fills_a_section_left_empty(tmp_path: Path) -> None:
    text = GOOD.replace("training: {batch_size: 8}", "training:")
    assert _load(tmp_path, "training.batch_size=4", text=text).training.batch_size == 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a\n- b\n", "got a list; expected keys and values at the top"),
        ("", "got nothing; expected keys and values at the top"),
        (
            "a: [1",
            "not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>' in line 1, column 6",
        ),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert _problems(tmp_path, text=text)[0].startswith(problem)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match=r"no such file; there are .*search\.yaml"):
        load_config(str(tmp_path / "serach.yaml"))


def test_relative_inputs_count_from_the_file(tmp_path: Path) -> None:
    assert _load(tmp_path).resolve("first") == tmp_path.resolve() / "first"
    assert _load(tmp_path).resolve("/data/first") == Path("/data/first")


@pytest.mark.parametrize("place", ["output_root=elsewhere", "tracking.uri=http://127.0.0.1:1", "config_dir=/x"])
def test_the_search_id_leaves_places_out(tmp_path: Path, place: str) -> None:
    assert search_id_of(_load(tmp_path, place)) == search_id_of(_load(tmp_path))


@pytest.mark.parametrize("change", ["seed=1", "name=other", "search.max_epochs=5", "training.learning_rate=1e-4"])
def test_the_search_id_changes_with_the_result(tmp_path: Path, change: str) -> None:
    assert search_id_of(_load(tmp_path, change)) != search_id_of(_load(tmp_path))


def test_the_search_id_is_that_of_the_resolved_values(tmp_path: Path) -> None:
    assert search_id_of(_load(tmp_path, "seed=0")) == search_id_of(_load(tmp_path))  # 0 is the default
    assert len(search_id_of(_load(tmp_path))) == 8


def test_the_explanation_marks_defaults(tmp_path: Path) -> None:
    text = explain_config(_load(tmp_path, "seed=0", "search.options={rehearsal: 0.5}"))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "name: good",
        "seed: 0",
        "batch_size: 8",
        "learning_rate: 1.0e-05 # default",
        "carve: 20",
        "test: null",
        "train: train # default",
        "selection: accuracy # default",
        "adam_betas: [0.9, 0.999] # default",
        'options: {rehearsal: 0.5} # default: rehearse: "all", loss_guard: null, '
        'peak_window: "round", random_seed: null',
    ):
        assert line in lines


@pytest.mark.parametrize("path", MIXTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("write", [explain_config, dump_config])
def test_a_printed_mixture_loads_as_the_same_search(
    tmp_path: Path, path: Path, write: Callable[[SearchConfig], str]
) -> None:
    _assert_loads_again(tmp_path, load_config(str(path)), write)


@pytest.mark.parametrize("method", {**METHODS, **PRESETS})
@pytest.mark.parametrize("write", [explain_config, dump_config])
def test_a_printed_method_loads_as_the_same_search(
    tmp_path: Path, method: str, write: Callable[[SearchConfig], str]
) -> None:
    _assert_loads_again(tmp_path, _load(tmp_path, f"search.method={method}"), write)


def _assert_loads_again(directory: Path, config: SearchConfig, write: Callable[[SearchConfig], str]) -> None:
    elsewhere = directory / "elsewhere" / "config.yaml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(write(config))
    again = load_config(str(elsewhere))
    assert again == config
    assert search_id_of(again) == search_id_of(config)
    assert again.resolve("base") == config.resolve("base")


# YAML 1.1 and pydantic's lax mode took each of these for another type.
@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("model.trust_remote_code=yes", "model.trust_remote_code (--set): got 'yes'; expected true or false"),
        ("model.trust_remote_code=1", "model.trust_remote_code (--set): got 1; expected true or false"),
        ("model.trust_remote_code='true'", "model.trust_remote_code (--set): got 'true'; expected true or false"),
        ("training.batch_size='16'", "training.batch_size (--set): got '16'; expected a whole number"),
        ("training.batch_size=16.0", "training.batch_size (--set): got 16.0; expected a whole number"),
        ("training.batch_size=true", "training.batch_size (--set): got true; expected a whole number"),
        ("training.batch_size=1_6", "training.batch_size (--set): got '1_6'; expected a whole number"),
        ("training.learning_rate='1e-4'", "training.learning_rate (--set): got '1e-4'; expected a number"),
        ("training.learning_rate=true", "training.learning_rate (--set): got true; expected a number"),
        (
            "mixture.proportions={first: true, second: 1}",
            "mixture.proportions.first (--set): got true; expected a number",
        ),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path: Path, override: str, problem: str) -> None:
    assert _problems(tmp_path, override) == [problem]
    key, _, value = override.partition("=")
    section, name = key.split(".")
    good, line = {"training": ("batch_size: 8", 8), "model": ("source: base", 3)}.get(section, ("", 0))
    if good:  # in a file as in an override
        kept = "" if section == "training" else f"{good}, "
        text = GOOD.replace(good, f"{kept}{name}: {value}")
        assert _problems(tmp_path, text=text) == [problem.replace("--set", f"line {line}")]


def test_a_whole_number_is_taken_for_a_fraction(tmp_path: Path) -> None:
    config = _load(tmp_path, "training.learning_rate=1", "training.adam_betas=[0, 0.5]")
    assert (config.training.learning_rate, config.training.adam_betas) == (1.0, (0.0, 0.5))


@pytest.mark.parametrize(
    ("method", "options", "problem"),
    [
        ("msft", "{rehersal: 1}", "rehersal (--set): unknown key; did you mean rehearsal?"),
        ("forward", "{peak_window: path}", "peak_window (--set): unknown key; known keys: persist, loss_guard,"),
        ("sft", "{persist: 2}", "persist (--set): unknown key; "),
        ("forward", "{persist: 0}", "persist (--set): got 0; expected a number of at least 1"),
        ("forward", "{persist: two}", "persist (--set): got 'two'; expected a whole number"),
        ("forward", "{rehearsal: 2}", "rehearsal (--set): got 2; expected a number of at most 1"),
        ("forward", "{rehearse: own}", "rehearse (--set): got 'own'; expected 'all', 'correct' or 'relabelled'"),
        ("msft", "{loss_guard: true}", "loss_guard (--set): got true; expected a number"),
        ("msft", "{peak_window: all}", "peak_window (--set): got 'all'; expected 'round' or 'path'"),
        ("msft", "{memory: true, peak_window: path}", "memory (--set): unknown key; known keys: rehearsal,"),
        ("msft", "{memory: 1}", "memory (--set): unknown key; known keys: rehearsal,"),
        ("ies", "{window: 0}", "window (--set): got 0; expected a number of at least 1"),
        ("dynamix_sft", "{gamma: 1.5}", "gamma (--set): got 1.5; expected a number of at most 1"),
    ],
)
def test_an_option_is_checked_by_its_method(tmp_path: Path, method: str, options: str, problem: str) -> None:
    (found,) = _problems(tmp_path, f"search.method={method}", f"search.options={options}")
    assert found.startswith(f"search.options.{problem}")


@pytest.mark.parametrize(
    ("method", "hint"),
    [
        ("msftt", "'msftt'; expected a method or preset; did you mean msft?"),
        ("msft_memry", "'msft_memry'; expected a method or preset; did you mean msft_memory?"),
        ("zzz", "'zzz'; expected a method or preset; known: msft, forward, sft,"),
        ("3", "'3'; expected a method or preset; known: msft,"),
    ],
)
def test_an_unknown_method_names_the_nearest(tmp_path: Path, method: str, hint: str) -> None:
    assert _problems(tmp_path, f"search.method={method}")[0].startswith(f"search.method (--set): got {hint}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{memory: true}", "{peak_window: path}"),
        ("{memory: false}", "{peak_window: round}"),
        ("{rehearse: answered, rehearsal: 0.1}", "{rehearse: correct, rehearsal: 0.1}"),
    ],
)
def test_an_old_option_name_is_the_same_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, old: str, new: str
) -> None:
    now = _load(tmp_path, f"search.options={new}")
    assert caplog.text == ""
    before = _load(tmp_path, f"search.options={old}")
    assert before == now
    assert search_id_of(before) == search_id_of(now)
    assert f"write {new[1:].partition(',')[0].rstrip('}')} in place of {old[1:].split(':')[0]}" in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_options_are_the_fields_of_the_method(method: str) -> None:
    entry = METHODS[method]
    owner = entry.policy or entry.strategy
    own = {one.name: one.default for one in fields(owner) if one.name not in (*SHARED, "rule")}
    options = SECTIONS[method].model_fields["options"].default
    assert {name: field.default for name, field in type(options).model_fields.items()} == own
    assert all(field.description for field in type(options).model_fields.values())


@pytest.mark.parametrize(
    "bomb", [BOMB.strip().replace("\n", ", "), f"a: &a {'x' * 10**5}, b: [{', '.join(['*a'] * 1000)}]"]
)
def test_a_bomb_of_aliases_is_refused_in_little_memory(tmp_path: Path, bomb: str) -> None:
    text = GOOD.replace("source: base", f"tokenizer: characters, from_config: {{model_type: llama, {bomb}}}")
    tracemalloc.start()
    (problem,) = _problems(tmp_path, text=text)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert problem.startswith("not YAML: more than 100,000 values in line 3")
    assert most < 100 * 10**6


def test_an_override_changes_one_of_two_aliased_parts(tmp_path: Path) -> None:
    text = GOOD.replace("path: first}", "path: first, max_rows: &limit {train: 5}}").replace(
        "path: second,", "path: second, max_rows: *limit,"
    )
    config = _load(tmp_path, "mixture.sub_datasets.first.max_rows.train=3", text=text)
    assert [one.max_rows.train for one in config.mixture.sub_datasets] == [3, 5]
