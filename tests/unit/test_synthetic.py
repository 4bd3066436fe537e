"""The quickstart's rows and tokenizer do what their configuration says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tasks.config.schema import SearchConfig
from tasks.config.sub_datasets import SyntheticConfig
from tasks.data.synthetic import CHARACTERS, SKILLS, SPLITS, character_tokenizer, synthetic_rows
from tasks.errors import DataError

DATA = Path(__file__).parents[2] / "data"
SUB_DATASETS = sorted(set(SKILLS) - {"base"})


def _settings(skill: str, **changes: object) -> SyntheticConfig:
    sizes = {"skill": skill, "unique_rows": 60, "validation_rows": 40, "test_rows": 50}
    return SyntheticConfig.model_validate(sizes | changes)


def _prompts(rows: list[dict[str, str]]) -> list[str]:
    return [row["prompt"] for row in rows]


@pytest.mark.parametrize("skill", SKILLS)
def test_same_seed_gives_the_same_rows(skill: str) -> None:
    settings = _settings(skill, repeats=2, wrong_labels=0.3)
    for split in SPLITS:
        assert synthetic_rows(settings, split, 5) == synthetic_rows(settings, split, 5)


def test_another_seed_gives_other_rows() -> None:
    assert synthetic_rows(_settings("caes"), "train", 0) != synthetic_rows(_settings("caes"), "train", 1)


def test_rows_of_a_seed_stay_what_they_were() -> None:
    rows = synthetic_rows(_settings("roman", unique_rows=1, validation_rows=1, test_rows=1), "validation", 0)
    assert rows == [{"prompt": "roman 2651?", "completion": " => MMDCLI", "answer": "MMDCLI"}]


@pytest.mark.parametrize("skill", SKILLS)
def test_no_prompt_stands_twice_or_in_two_splits(skill: str) -> None:
    prompts = [p for split in SPLITS for p in _prompts(synthetic_rows(_settings(skill), split, 0))]
    assert len(prompts) == len(set(prompts)) == 60 + 40 + 50


def test_no_prompt_stands_in_two_skills() -> None:
    prompts = [p for skill in SKILLS for p in _prompts(synthetic_rows(_settings(skill), "test", 0))]
    assert len(set(prompts)) == 50 * len(SKILLS)


@pytest.mark.parametrize("changes", [{"unique_rows": 90}, {"repeats": 3}, {"wrong_labels": 0.5}])
def test_validation_and_test_do_not_depend_on_train(changes: dict[str, object]) -> None:
    for split in ("validation", "test"):
        assert synthetic_rows(_settings("cnt", **changes), split, 0) == synthetic_rows(_settings("cnt"), split, 0)


def test_more_train_rows_begin_with_the_fewer() -> None:
    fewer, more = (synthetic_rows(_settings("cmp", unique_rows=n), "train", 0) for n in (60, 90))
    assert more[:60] == fewer


@pytest.mark.parametrize("skill", SKILLS)
@pytest.mark.parametrize(("share", "wanted"), [(0.0, 0), (0.3, 18), (0.31, 19), (1.0, 60)])
def test_exactly_the_asked_share_of_train_is_wrong(skill: str, share: float, wanted: int) -> None:
    clean = synthetic_rows(_settings(skill), "train", 0)
    noisy = synthetic_rows(_settings(skill, wrong_labels=share), "train", 0)
    assert _prompts(noisy) == _prompts(clean)
    assert sum(a["answer"] != b["answer"] for a, b in zip(clean, noisy, strict=True)) == wanted


def test_repeats_keep_each_row_and_its_label() -> None:
    once = synthetic_rows(_settings("max", wrong_labels=0.3), "train", 0)
    assert synthetic_rows(_settings("max", wrong_labels=0.3, repeats=5), "train", 0) == once * 5


@pytest.mark.parametrize("skill", ["max", "max2"])
def test_validation_of_max_is_right(skill: str) -> None:
    for row in synthetic_rows(_settings(skill, wrong_labels=1.0), "validation", 0):
        assert row["answer"] == max(re.findall(r"\d", row["prompt"]))


@pytest.mark.parametrize(
    ("skill", "answer"),
    [
        ("min", lambda prompt: min(re.findall(r"\d", prompt))),
        ("min2", lambda prompt: min(re.findall(r"\d", prompt))),
        ("sort", lambda prompt: " ".join(sorted(re.findall(r"\d", prompt)))),
        ("sort2", lambda prompt: " ".join(sorted(re.findall(r"\d", prompt)))),
        ("rev", lambda prompt: prompt.removeprefix("rev ").removesuffix("?")[::-1]),
        ("rev2", lambda prompt: prompt.removesuffix(" | backwards")[::-1]),
        ("copy", lambda prompt: prompt.removeprefix("copy ").removesuffix("?")),
    ],
)
def test_validation_of_the_held_out_skills_is_right(skill: str, answer: Callable[[str], str]) -> None:
    for row in synthetic_rows(_settings(skill, wrong_labels=1.0), "validation", 0):
        assert row["answer"] == answer(row["prompt"])


@pytest.mark.parametrize("skill", ["cmp", "cmp2"])
def test_validation_of_cmp_is_right(skill: str) -> None:
    for row in synthetic_rows(_settings(skill), "validation", 0):
        left, right = map(int, re.findall(r"\d+", row["prompt"]))
        assert row["answer"] == ("more" if left > right else "less")


@pytest.mark.parametrize("skill", SUB_DATASETS)
def test_answers_have_a_prefix_that_the_base_never_writes(skill: str) -> None:
    assert all(row["completion"] == " => " + row["answer"] for row in synthetic_rows(_settings(skill), "train", 0))
    assert not any("=" in row["completion"] for row in synthetic_rows(_settings("base"), "train", 0))


def test_unknown_skill_names_the_nearest_and_all_known() -> None:
    with pytest.raises(DataError, match="write roman") as error:
        synthetic_rows(_settings("romen"), "train", 0)
    assert all(skill in str(error.value) for skill in SKILLS)


def test_unknown_split_is_an_error() -> None:
    with pytest.raises(DataError, match="write validation"):
        synthetic_rows(_settings("max"), "validate", 0)


def test_too_small_a_space_of_prompts_is_an_error_and_ends() -> None:
    with pytest.raises(DataError, match="unique prompts, and no new one"):
        synthetic_rows(_settings("roman", unique_rows=2000), "train", 0)


@pytest.mark.parametrize("skill", SKILLS)
def test_tokenizer_gives_back_every_row(skill: str) -> None:
    tokenizer = character_tokenizer()
    for row in synthetic_rows(_settings(skill), "train", 0):
        text = row["prompt"] + row["completion"]
        tokens = tokenizer.encode(text)
        assert (len(tokens), tokenizer.decode(tokens)) == (len(text), text)


def test_tokenizer_adds_nothing_and_pads_on_the_right() -> None:
    tokenizer = character_tokenizer()
    assert len(tokenizer) == len(CHARACTERS) + 3 == 91
    assert tokenizer.decode(tokenizer.encode(CHARACTERS)) == CHARACTERS
    assert tokenizer("ab", add_special_tokens=True).input_ids == tokenizer.encode("ab", add_special_tokens=False)
    assert tokenizer(["a", "abc"], padding=True).attention_mask == [[1, 0, 0], [1, 1, 1]]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, None)
    assert tokenizer.model_max_length == 128


def test_tokenizer_reads_other_characters_as_unknown() -> None:
    tokenizer = character_tokenizer()
    assert tokenizer.encode("é") == [tokenizer.unk_token_id]


@pytest.mark.parametrize("name", ["quickstart", "quickstart_base", "held_out", "sixteen"])
def test_the_quickstart_asks_only_for_what_the_skills_can_give(name: str) -> None:
    config = SearchConfig.model_validate(yaml.safe_load((DATA / f"{name}.yaml").read_text()))
    for sub_dataset in config.mixture.sub_datasets:
        assert sub_dataset.synthetic is not None
        rows = synthetic_rows(sub_dataset.synthetic, "train", config.seed)
        assert len(rows) == sub_dataset.synthetic.unique_rows * sub_dataset.synthetic.repeats
        assert max(len(row["prompt"] + row["completion"]) for row in rows) < config.training.max_length


def test_the_base_model_has_an_embedding_for_each_character() -> None:
    config = yaml.safe_load((DATA / "quickstart_base.yaml").read_text())["model"]["from_config"]
    assert config["vocab_size"] == len(character_tokenizer())
