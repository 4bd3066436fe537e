"""Bad configurations, each with the problems that it must be told by."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from operator import attrgetter

from tasks.config.loading import load_config
from tasks.errors import ConfigError
from tests.unit.bad_input import GOOD, Case, Place

# Ten lists, each of ten of the one before, below ten texts.
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{now}: &{now} [{', '.join([f'*{before}'] * 10)}]\n" for before, now in pairwise("abcdefg")
)
FIRST = "mixture.sub_datasets.first"
A_NAME = "; expected at most 64 letters, digits, and . _ - after the first"


def _set(*overrides: str, says: str | tuple[str, ...]) -> Case:
    """A good file with values put in by --set."""
    return Case(lambda place: place.load(*overrides), ConfigError, (says,) if isinstance(says, str) else says)


def _file(text: str | bytes, *parts: str) -> Case:
    return Case(lambda place: place.load(text=text), ConfigError, ("search.yaml: ", *parts))


def _path(path: str, *parts: str) -> Case:
    def load(place: Place) -> object:
        return load_config(str(place.write("search.yaml", GOOD).parent / path))

    return Case(load, ConfigError, parts)


FILES = {
    "config: missing file": _path("serach.yaml", "serach.yaml: 1 problem", "no such file; there are", "search.yaml"),
    "config: a directory": _path(".", "cannot be read as UTF-8 text", "Is a directory"),
    "config: below a file": _path("search.yaml/x.yaml", "cannot be read", "Not a directory"),
    "config: a name too long for the disk": _path("x" * 300, "cannot be read", "File name too long"),
    "config: empty": _file("", "got nothing; expected keys and values at the top"),
    "config: a list": _file("- name: a\n", "got a list; expected keys and values at the top"),
    "config: one word": _file("good", "got a str; expected keys and values at the top"),
    "config: tabs": _file("name: a\n\tseed: 1\n", "not YAML: ", "'\\t'", "line 2, column 1"),
    "config: binary": _file(bytes(range(256)), "cannot be read as UTF-8 text", "byte 0x80"),
    "config: NUL bytes": _file(b"name: a\0b", "not YAML: unacceptable character #x0000"),
    "config: UTF-16": _file(GOOD.encode("utf-16"), "cannot be read as UTF-8 text"),
    "config: latin-1": _file("name: é".encode("latin-1"), "cannot be read as UTF-8 text", "0xe9"),
    "config: two documents": _file(GOOD + "---\n" + GOOD, "not YAML: expected a single document"),
    "config: a key twice": _file(
        GOOD + "name: other\n", 'duplicate key "name" with value "other" (original value: "good") in line 10, column 1'
    ),
    "config: a nested key twice": _file(
        GOOD.replace("{batch_size: 8}", "{threads: 1, threads: 2}"), 'duplicate key "threads"', "line 8"
    ),
    "config: contains itself": _file("name: &a [*a]", "not YAML: a value contains itself in line 1"),
    "config: a tag that runs code": _file(
        "name: !!python/object/apply:os.getcwd []", "could not determine a constructor"
    ),
    "config: a number of 5,000 digits": _file(
        "seed: " + "9" * 5000, "not YAML: cannot read a value: Exceeds the limit"
    ),
    "config: 10^7 values by aliases": _file(BOMB, "not YAML: more than 100,000 values in line 5"),
    "config: half a character": _file('name: "\\ud800"', "half of a surrogate pair is no character in line 1"),
    "config: nested 1,000 deep": _file("name: " + "[" * 1000, "not YAML: nested more than 50 deep in line 1"),
    "config: a key that is a number": _file(GOOD + "5: x\n", "expected text as a key, got 5; quote it in line 10"),
    "config: several problems": _file(
        "model: {source: base}\nmixture: {sub_datasets: [{path: 3}]}\ntraining: {batch_size: 0}\n",
        "search.yaml: 5 problems",
        "name: required, and not given",
        "search: required, and not given",
        "mixture.sub_datasets.0.name (line 2): required, and not given",
        "mixture.sub_datasets.0.path (line 2): got 3; expected text",
        "training.batch_size (line 3): got 0; expected a number of at least 1",
    ),
}
VALUES = {
    "value: paired rows without rows": _set(
        *("search.rule=paired", "evaluation.selection=loss"),
        says="search.rule=paired compares right and wrong rows; got evaluation.selection=loss, expected accuracy",
    ),
    "value: suspects that are no truth value": _set(
        "evaluation.suspects=maybe", says="evaluation.suspects (--set): got 'maybe'; expected true or false"
    ),
    "value: persist beside paired rows": _set(
        *("search.method=forward", "search.rule=paired", "search.options={persist: 3}"),
        says="options.persist takes no effect with rule=paired; leave one of them out",
    ),
    "value: unknown key": _set(
        "training.lerning_rate=1", says="lerning_rate (--set): unknown key; did you mean learning_rate?"
    ),
    "value: key of another section": _set(
        "batch_size=1", says="batch_size (--set): unknown key; did you mean training.batch_size?"
    ),
    "value: true as a fraction": _set(
        "training.learning_rate=true", says="training.learning_rate (--set): got true; expected a number"
    ),
    "value: true as a count": _set(
        "training.batch_size=true", says="training.batch_size (--set): got true; expected a whole number"
    ),
    "value: true as a limit": _set(
        f"{FIRST}.max_rows.train=true", says=f"{FIRST}.max_rows.train (--set): got true; expected a whole number"
    ),
    "value: true as a weight": _set(
        "mixture.proportions={first: true, second: 1}",
        says="mixture.proportions.first (--set): got true; expected a number",
    ),
    "value: true among betas": _set(
        "training.adam_betas=[true, 0.9]", says="training.adam_betas.0 (--set): got true; expected a number"
    ),
    "value: text as a number": _set(
        "training.learning_rate=fast", says="training.learning_rate (--set): got 'fast'; expected a number"
    ),
    "value: decimal comma": _set(
        "training.learning_rate=1,5", says="training.learning_rate (--set): got '1,5'; expected a number"
    ),
    "value: a list as a number": _set("seed=[1]", says="seed (--set): got [1]; expected a whole number"),
    "value: a fraction as a count": _set(
        "training.batch_size=1.5", says="training.batch_size (--set): got 1.5; expected a whole number"
    ),
    "value: NaN": _set(
        "training.learning_rate=.nan", says="training.learning_rate (--set): got NaN; expected a finite number"
    ),
    "value: infinity": _set(
        "search.max_epochs=.inf", says="search.max_epochs (--set): got Infinity; expected a finite number"
    ),
    "value: larger than any float": _set(
        "search.max_epochs=1e400", says="search.max_epochs (--set): got Infinity; expected a finite number"
    ),
    "value: zero": _set("search.max_epochs=0", says="search.max_epochs (--set): got 0; expected a number above 0.0"),
    "value: negative": _set(
        "training.warmup_steps=-1", says="training.warmup_steps (--set): got -1; expected a number of at least 0"
    ),
    "value: a seed too large": _set(
        "seed=4294967296", says="seed (--set): got 4294967296; expected a number below 4294967296"
    ),
    "value: no trained layer": _set(
        "training.trainable_layers=0", says="training.trainable_layers (--set): got 0; expected 'all' or a number of at"
    ),
    "value: trained layers in words": _set(
        "training.trainable_layers=top", says="trainable_layers (--set): got 'top'; expected 'all' or a whole number"
    ),
    "value: a cache below nothing": _set(
        "training.trainable_layers=1",
        "training.hidden_cache_gb=-1",
        says="training.hidden_cache_gb (--set): got -1; expected a number of at least 0",
    ),
    "value: a cache of no frozen layer": _set(
        "training.hidden_cache_gb=1", says="hidden_cache_gb takes no effect with trainable_layers=all; leave it out"
    ),
    "no effect: relabelled rows at no share": _set(
        "search.options={rehearse: relabelled, rehearsal: 0}",
        says="search.options (--set): rehearse=relabelled takes no effect with rehearsal=0; leave one of them out",
    ),
    "value: a beta of 1": _set(
        "training.adam_betas=[0.9, 1]", says="training.adam_betas.1 (--set): got 1; expected a number below 1.0"
    ),
    "value: one beta": _set("training.adam_betas=[0.9]", says="training.adam_betas.1 (--set): required, and not given"),
    "value: no rows kept": _set(
        f"{FIRST}.max_rows.train=0", says="max_rows.train (--set): got 0; expected a number of at least 1"
    ),
    "value: text as a choice": _set(
        "training.device=gpu", says="training.device (--set): got 'gpu'; expected 'auto' or 'cpu'"
    ),
    "value: a section as text": _set("model.source={a: 1}", says='model.source (--set): got {"a": 1}; expected text'),
    "value: empty path": _set(
        f"{FIRST}.path=''", says=f"{FIRST}.path (--set): got ''; expected text that is not empty"
    ),
    "value: empty split": _set(
        f"{FIRST}.splits.train=''", says="splits.train (--set): got ''; expected text that is not empty"
    ),
    "value: sub-datasets as a section": _set(
        "mixture.sub_datasets={a: {path: b}}",
        says='mixture.sub_datasets (--set): got {"a": {"path": "b"}}; expected a list',
    ),
    "value: no sub-dataset": _set(
        "mixture.sub_datasets=[]", says="mixture.sub_datasets (--set): got []; expected at least 1 item"
    ),
    "value: an empty item": _set(
        "mixture.sub_datasets=[null]", says="mixture.sub_datasets.0 (--set): got null; expected a section"
    ),
    "name: a number": _set("name=1.0", says="name (--set): got 1.0; expected text"),
    "name: nothing": _set("name=", says="name (--set): got null; expected text"),
    "name: empty": _set("name=''", says=f"name (--set): got ''{A_NAME}"),
    "name: a slash": _set(f"{FIRST}.name=a/b", says=f"mixture.sub_datasets.a/b.name (--set): got 'a/b'{A_NAME}"),
    "name: the parent": _set("name=..", says=f"name (--set): got '..'{A_NAME}"),
    "name: a leading dot": _set("name=.hidden", says=f"name (--set): got '.hidden'{A_NAME}"),
    "name: unicode": _set("name=naïve", says=f"name (--set): got 'naïve'{A_NAME}"),
    "name: 65 letters": _set(f"name={'a' * 65}", says=f"name (--set): got '{'a' * 65}'{A_NAME}"),
    "name: a line's end": _set('name="a\\n"', says=f"name (--set): got 'a\\n'{A_NAME}"),
    "name: given twice": _set(f"{FIRST}.name=second", says="two sub-datasets are named second; names must differ"),
}
TOGETHER = {
    "weights: unknown name": _set(
        "mixture.proportions={first: 1, second: 1, third: 1}", says="no other name; see third"
    ),
    "weights: missing name": _set(
        "mixture.proportions={first: 1}", says="for each sub-dataset and no other name; see second"
    ),
    "weights: zero": _set(
        "mixture.proportions={first: 0, second: 1}",
        says="a weight above 0 for each sub-dataset and no other name; see first",
    ),
    "weights: negative": _set(
        "mixture.proportions={first: -1, second: 1}",
        says="a weight above 0 for each sub-dataset and no other name; see first",
    ),
    "weights: NaN": _set(
        "mixture.proportions={first: .nan, second: 1}",
        says="mixture.proportions.first (--set): got NaN; expected a finite number",
    ),
    "template: open brace": _set(
        f"{FIRST}.template={{prompt: '{{q', completion: '{{a}}'}}",
        says="got '{q': expected '}' before end of string; write a brace that is text twice",
    ),
    "template: braces without a name": _set(
        f"{FIRST}.template={{prompt: '{{}}', completion: '{{a}}'}}",
        says="got '{}'; expected a column's name in each pair of braces",
    ),
    "template: a number in braces": _set(
        f"{FIRST}.template={{prompt: '{{0}}', completion: '{{a}}'}}",
        says="got '{0}'; expected a column's name in each pair of braces",
    ),
    "template: the same completion for all": _set(
        f"{FIRST}.template={{prompt: '{{q}}', completion: yes}}",
        says="got completion 'yes'; expected the name of a column, as in {answer}",
    ),
    "template: no completion": _set(
        f"{FIRST}.template={{prompt: '{{q}}'}}", says=f"{FIRST}.template.completion (--set): required"
    ),
    "template: options and a completion that names none": _set(
        f"{FIRST}.template={{prompt: '{{q}}', completion: '{{a}}', options: {{texts: o, right: '{{a}}'}}}}",
        says="got completion '{a}'; expected {letter} or {option} in it, beside options",
    ),
    "template: options without a right one": _set(
        f"{FIRST}.template={{prompt: '{{q}}', completion: '{{letter}}', options: {{texts: o}}}}",
        says=f"{FIRST}.template.options.right (--set): required",
    ),
    "template: a number in an option's braces": _set(
        f"{FIRST}.template={{prompt: '{{q}}', completion: '{{letter}}', options: {{texts: ['{{0}}'], right: A}}}}",
        says="got '{0}'; expected a column's name in each pair of braces",
    ),
    "no effect: choices beside options": _set(
        f"{FIRST}.template={{prompt: x, completion: '{{letter}}', choices: o, options: {{texts: o, right: A}}}}",
        says="choices takes no effect beside options",
    ),
    "no effect: splits of synthetic rows": _set(
        f"{FIRST}={{name: first, synthetic: {{skill: max}}, splits: {{train: mine}}}}",
        says="splits.train takes no effect with synthetic",
    ),
    "no effect: template of synthetic rows": _set(
        f"{FIRST}={{name: first, synthetic: {{skill: max}}, template: {{prompt: '{{q}}', completion: '{{a}}'}}}}",
        says="template takes no effect with synthetic",
    ),
    "no effect: rows of no test split": _set(
        "mixture.sub_datasets.second.max_rows.test=5", says="max_rows.test takes no effect where splits.test is null"
    ),
    "no effect: generation of choices": _set(
        f"{FIRST}.metric=multiple_choice",
        f"{FIRST}.max_new_tokens=5",
        says="max_new_tokens takes no effect with metric=multiple_choice",
    ),
    "a champion that is neither a checkpoint nor an average": _set(
        "search.champion=average", says="search.champion (--set): got 'average'; expected 'best' or 'soup'"
    ),
    "an average chosen on the test splits": _set(
        "search.protocol=paper", "search.champion=soup", says="champion=soup would average by test scores"
    ),
    "no effect: larger parts than the whole": _set(
        "training.micro_batch_size=16", says="micro_batch_size is larger than batch_size"
    ),
    "no effect: final rate of a constant": _set(
        "training.final_lr_ratio=0.5", says="final_lr_ratio takes no effect with schedule=constant"
    ),
    "no effect: patience with other machines, of which there are none": _set(
        "training.join_minutes=5", says="join_minutes takes effect only with machines of at least 2; got machines=1"
    ),
    "machines: none": _set(
        "training.machines=0", says="training.machines (--set): got 0; expected a number of at least 1"
    ),
    "machines: no time to be silent": _set(
        "training.machines=2",
        "training.silence_s=0",
        says="training.silence_s (--set): got 0; expected a number of at least 1",
    ),
    "machines: no time to join": _set(
        "training.machines=2",
        "training.join_minutes=0",
        says="training.join_minutes (--set): got 0; expected a number above 0",
    ),
    "two origins of rows": _set(
        f"{FIRST}.hub=a/b", says=f"{FIRST} (line 6): give exactly one of path, hub and synthetic; got ['path', 'hub']"
    ),
    "two origins of a model": _set(
        "model.from_config={model_type: llama}", says="give exactly one of model.source and model.from_config"
    ),
    "--set: no equals sign": _set("seed", says="--set seed: expected the form a.b=value"),
    "--set: no YAML": _set("seed=[", says="--set seed=[: the value '[' is not YAML"),
    "--set: a key twice": _set(
        "training={threads: 1, threads: 2}", says="the value '{threads: 1, threads: 2}' is not YAML"
    ),
    "--set: into a value": _set("training.batch_size.x=3", says="batch_size is a value, not a section"),
    "--set: into no item": _set("mixture.sub_datasets.third.path=x", says="no item 'third'; there are first, second"),
    "--set: several problems": _set(
        "seed=-1",
        "x",
        says=("2 problems", "--set x: expected the form", "seed (--set): got -1; expected a number of at least 0"),
    ),
}
CASES = {**FILES, **VALUES, **TOGETHER}


def _value(*overrides: str, at: str) -> Callable[[Place], object]:
    """Load a good file with values put in, and return the one at a dotted path."""
    return lambda place: attrgetter(at)(place.load(*overrides))


UNUSUAL: dict[str, tuple[Callable[[Place], object], object]] = {
    "config: exponent without a point": (_value("training.learning_rate=1e-5", at="training.learning_rate"), 1e-5),
    "config: a name that old YAML takes for true": (_value("name=on", at="name"), "on"),
    "config: a name that old YAML takes for a date": (_value("name=2024-01-01", at="name"), "2024-01-01"),
    "config: yes as a choice": (_value("evaluation.beside_training=yes", at="evaluation.beside_training"), "yes"),
    "config: a leading zero is no octal": (_value("seed=017", at="seed"), 17),
    "config: a name of 64 letters": (_value(f"name={'a' * 64}", at="name"), "a" * 64),
    "config: a value with an equals sign": (_value("output_root=a=b", at="output_root"), "a=b"),
    "config: a byte order mark": (lambda place: place.load(text=b"\xef\xbb\xbf" + GOOD.encode()).name, "good"),
    "config: CRLF": (lambda place: place.load(text=GOOD.replace("\n", "\r\n")).name, "good"),
    "config: one's own key beside merged ones": (
        lambda place: (
            place.load(
                text=GOOD.replace("{batch_size: 8}", "{<<: {batch_size: 8, seed: 1}, batch_size: 3}").replace(
                    ", seed: 1", ""
                )
            ).training.batch_size
        ),
        3,
    ),
    "config: names that differ in case alone": (
        lambda place: [s.name for s in place.load(f"{FIRST}.name=Second").mixture.sub_datasets],
        ["Second", "second"],
    ),
}
