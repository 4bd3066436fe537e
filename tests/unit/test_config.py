from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.config.loading import dump_config, explain_config, load_config, search_id_of
from tasks.config.schema import SearchConfig
from tasks.errors import ConfigError
from tests.unit.bad_input import GOOD


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
        ("sed=1", "sed: unknown key; did you mean seed?"),
        ("training.learning_rat=1", "training.learning_rat: unknown key; did you mean learning_rate?"),
        (
            "mixture.sub_datasets.second.max_row.train=3",
            "mixture.sub_datasets.second.max_row: unknown key; did you mean max_rows?",
        ),
        (
            "mixture.sub_datasets.second.splits.validation.carv=3",
            "mixture.sub_datasets.second.splits.validation.carv: unknown key; did you mean carve?",
        ),
        # A key of another section
        ("learning_rate=1e-4", "learning_rate: unknown key; did you mean training.learning_rate?"),
        (
            "tracking.frobnicate=1",
            "tracking.frobnicate: unknown key; known keys: uri, experiment, outage_minutes",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path, override: str, problem: str) -> None:
    assert _problems(tmp_path, override) == [problem]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.learning_rate=fast", "training.learning_rate: wanted a number; got 'fast'"),
        ("training.batch_size=0", "training.batch_size: wanted a number of at least 1; got 0"),
        ("training.batch_size=1.5", "training.batch_size: wanted a whole number; got 1.5"),
        ("search.max_epochs=0", "search.max_epochs: wanted a number above 0.0; got 0"),
        ("search.rule=papre", "search.rule: wanted 'guarded' or 'paper'; got 'papre'"),
        ("training=", "training: wanted a section of keys and values; got None"),
        ("mixture.sub_datasets=[]", "mixture.sub_datasets: wanted at least 1 item; got []"),
        ("mixture.sub_datasets=first", "mixture.sub_datasets: wanted a list; got 'first'"),
        ("name=a b", "name: wanted at most 64 letters, digits, and . _ - after the first; got 'a b'"),
        # Unions: one line, whichever branch was meant
        (
            "mixture.proportions=by_siz",
            "mixture.proportions: wanted 'by_size' or 'equal' or a section of keys and values; got 'by_siz'",
        ),
        ("mixture.proportions={first: x, second: 1}", "mixture.proportions.first: wanted a number; got 'x'"),
        (
            "mixture.sub_datasets.first.splits.validation=5",
            "mixture.sub_datasets.first.splits.validation: wanted text or a section of keys and values; got 5",
        ),
        (
            "mixture.sub_datasets.first.splits.validation={carve: 0}",
            "mixture.sub_datasets.first.splits.validation.carve: wanted a number of at least 1; got 0",
        ),
        (
            "mixture.sub_datasets.first.splits.train={carve: 5}",
            "mixture.sub_datasets.first.splits.train: wanted text; got {'carve': 5}",
        ),
    ],
)
def test_a_wrong_value_says_where_what_was_wanted_and_what_came(
    tmp_path: Path, override: str, problem: str
) -> None:
    assert _problems(tmp_path, override) == [problem]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = """
model: {source: base}
mixture: {sub_datasets: [{path: 3}, {name: second, pat: x}]}
training: {batch_size: 0}
"""
    assert sorted(_problems(tmp_path, "noform", "seed=-1", text=text)) == [
        "--set noform: wanted the form a.b=value",
        "mixture.sub_datasets.0.name: required, and not given",
        "mixture.sub_datasets.0.path: wanted text; got 3",
        "mixture.sub_datasets.second.pat: unknown key; did you mean path?",
        "name: required, and not given",
        "search: required, and not given",
        "seed: wanted a number of at least 0; got -1",
        "training.batch_size: wanted a number of at least 1; got 0",
    ]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["mixture.sub_datasets.first.name=second"],
            "mixture.sub_datasets: two sub-datasets are named second; names must differ",
        ),
        (
            ["search.rule=paper", "search.min_delta=0.1"],
            "search: min_delta takes no effect with rule=paper; leave one of them out",
        ),
        (
            ["training.final_lr_ratio=0.5"],
            "training: final_lr_ratio takes no effect with schedule=constant; leave one of them out",
        ),
        (
            ["training.num_processes=2", "training.accelerate_config=fsdp.yaml"],
            "training: num_processes takes no effect beside accelerate_config; set it in that file",
        ),
        (
            ["mixture.sub_datasets.first.revision=main"],
            "mixture.sub_datasets.first: revision takes effect only with hub",
        ),
        (
            ["mixture.sub_datasets.first.hub=org/data"],
            "mixture.sub_datasets.first: give exactly one of path, hub and synthetic; got ['path', 'hub']",
        ),
        (
            ["mixture.sub_datasets.first.path=null"],
            "mixture.sub_datasets.first: give exactly one of path, hub and synthetic; got none",
        ),
        (
            ["model.from_config={model_type: llama}"],
            "model: give exactly one of model.source and model.from_config",
        ),
        (
            ["search.exclude_per_round=3"],
            "(top): search.exclude_per_round is larger than the number of sub-datasets",
        ),
        (
            ["search.protocol=paper"],
            "(top): search.protocol=paper selects on test splits, and a sub-dataset has none",
        ),
        (
            ["mixture.proportions={first: 1}"],
            "mixture: proportions must give a weight above 0 for each sub-dataset and no other name; see second",
        ),
    ],
)
def test_what_cannot_hold_or_take_effect_is_refused(
    tmp_path: Path, overrides: list[str], problem: str
) -> None:
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
        (
            "mixture.sub_datasets.second={name: other, path: p}",
            ("mixture", "sub_datasets", 1, "name"),
            "other",
        ),
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
        ("seed", "--set seed: wanted the form a.b=value"),
        ("=7", "--set =7: wanted the form a.b=value"),
        ("training.=7", "--set training.=7: wanted the form a.b=value"),
        ("seed=[", "--set seed=[: the value '[' is not YAML"),
        ("name.x=7", "--set name.x=7: name holds a value, not a section"),
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
        ("- a\n- b\n", "wanted a mapping of keys to values at the top, got list"),
        ("", "wanted a mapping of keys to values at the top, got NoneType"),
        ("a: [1", "not YAML: while parsing a flow sequence"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert _problems(tmp_path, text=text)[0].startswith(problem)


def test_a_missing_file_names_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match=r"no such file; there are .*search\.yaml"):
        load_config(str(tmp_path / "serach.yaml"))


def test_relative_inputs_count_from_the_file(tmp_path: Path) -> None:
    assert _load(tmp_path).resolve("first") == tmp_path.resolve() / "first"
    assert _load(tmp_path).resolve("/data/first") == Path("/data/first")


@pytest.mark.parametrize(
    "place", ["output_root=elsewhere", "tracking.uri=http://127.0.0.1:1", "config_dir=/x"]
)
def test_the_search_id_leaves_places_out(tmp_path: Path, place: str) -> None:
    assert search_id_of(_load(tmp_path, place)) == search_id_of(_load(tmp_path))


@pytest.mark.parametrize(
    "change", ["seed=1", "name=other", "search.max_epochs=5", "training.learning_rate=1e-4"]
)
def test_the_search_id_changes_with_what_the_result_depends_on(tmp_path: Path, change: str) -> None:
    assert search_id_of(_load(tmp_path, change)) != search_id_of(_load(tmp_path))


def test_the_search_id_is_that_of_the_resolved_values(tmp_path: Path) -> None:
    assert search_id_of(_load(tmp_path, "seed=0")) == search_id_of(_load(tmp_path))  # 0 is the default
    assert len(search_id_of(_load(tmp_path))) == 8


def test_the_explanation_marks_defaults(tmp_path: Path) -> None:
    lines = explain_config(_load(tmp_path, "seed=0")).splitlines()
    for line in (
        'name: "good"',
        "seed: 0",
        "training.batch_size: 8",
        "training.learning_rate: 1e-05  # default",
        "mixture.sub_datasets.1.splits.validation.carve: 20",
        "mixture.sub_datasets.1.splits.test: null",
        'mixture.sub_datasets.1.splits.train: "train"  # default',
        'evaluation.selection: "accuracy"  # default',
    ):
        assert line in lines


def test_the_dumped_configuration_is_the_same_search_read_from_elsewhere(tmp_path: Path) -> None:
    config = load_config(str(Path(__file__).parents[2] / "data" / "quickstart.yaml"))
    elsewhere = tmp_path / "config.yaml"
    elsewhere.write_text(dump_config(config))
    again = load_config(str(elsewhere))
    assert search_id_of(again) == search_id_of(config)
    assert again.resolve("quickstart_base") == config.resolve("quickstart_base")
