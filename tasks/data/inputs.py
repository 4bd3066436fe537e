"""The inputs of a search: the base model and the sub-datasets, read, checked and tokenized."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tasks.algorithm.answer_shares import facts_of, warnings_of
from tasks.algorithm.answers import single_number_in
from tasks.config.schema import SearchConfig
from tasks.config.sub_datasets import SubDatasetConfig
from tasks.contracts import BY_CHOICES, BaseModelRef, Inputs, Metric, ScoreSplit, SplitRef, SubDatasetRef
from tasks.data.base_model import prepare_base_model
from tasks.data.encoder import Encoder, make_encoder
from tasks.data.examples import Example, fingerprint
from tasks.data.leaks import comparable, shared_texts
from tasks.data.problems import Problems
from tasks.data.relabelling import check_answered
from tasks.data.sources import SPLITS, known_form, read_splits, train_source
from tasks.data.tokenization import longest_completion, read_tokenized, tokenize_split
from tasks.errors import ConfigError, DataError, ModelError, SplitOverlapError

logger = logging.getLogger(__name__)

MIN_VALIDATION_ROWS = 200
_SHOWN_OVERLAPS = 10

Splits = dict[str, list[Example]]
OnRows = Callable[[int, int], None]


def load_inputs(config: SearchConfig, on_rows: OnRows = lambda done, total: None) -> Inputs:
    """Return the base model and the tokenized sub-datasets, in the cache of `output_root`.

    Args:
        on_rows: called with the number of rows that are tokenized, and of all.

    Raises:
        DataError, SplitOverlapError, ConfigError, ModelError: a row, split, length, tokenizer or model is unusable.
    """
    model = prepare_base_model(config)
    return Inputs(model=model, sub_datasets=prepare_sub_datasets(config, model, on_rows))


def prepare_sub_datasets(
    config: SearchConfig, model: BaseModelRef, on_rows: OnRows = lambda done, total: None
) -> tuple[SubDatasetRef, ...]:
    """Read, check and tokenize the train and validation rows of every sub-dataset.

    Test rows are only checked (format, length, texts shared with another split), so that a bad or leaked test file is
    reported before days of training; no decision depends on their content.
    """
    encoder = make_encoder(config, model)
    problems = Problems()
    splits: dict[str, Splits] = {}
    for sub_dataset in config.mixture.sub_datasets:
        with problems.collected():
            splits[sub_dataset.name] = _splits_by_role(config, sub_dataset)
    problems.check()
    _check_overlap(config, splits)
    refs: list[SubDatasetRef] = []
    sizes = {name: sum(map(len, own.values())) for name, own in splits.items()}
    num_done = 0

    def add(count: int) -> None:
        nonlocal num_done
        num_done += count
        on_rows(num_done, sum(sizes.values()))

    encoder.on_rows = add
    for sub_dataset in config.mixture.sub_datasets:
        end = num_done + sizes[sub_dataset.name]
        with problems.collected():
            refs.append(_prepare(config, sub_dataset, splits[sub_dataset.name], encoder))
        add(end - num_done)  # those in the cache
    problems.check()
    refs = [*_with_shared_sources(config, refs, splits)]
    _warn(refs)
    return tuple(refs)


def _warn(refs: Sequence[SubDatasetRef]) -> None:
    for ref in refs:
        for warning in ref.warnings:
            logger.warning(warning)
        if ref.validation.num_rows < MIN_VALIDATION_ROWS:
            logger.warning(
                f"{ref.name}: {ref.validation.num_rows} validation rows; below {MIN_VALIDATION_ROWS} "
                "a decision repeats only about half of the time between two halves of the data"
            )


def open_splits(config: SearchConfig, model: BaseModelRef, split: str) -> tuple[ScoreSplit, ...]:
    """Return a split of all sub-datasets that have it, tokenized for the model; that of test once, after selection."""
    encoder = make_encoder(config, model)
    opened = []
    for sub_dataset in config.mixture.sub_datasets:
        splits, name = _splits_by_role(config, sub_dataset), sub_dataset.name
        if split in splits:
            metric = _metric_of(config, sub_dataset, splits["validation"])
            _check_scorable(name, metric, split, splits[split])
            tokenized = {role: _tokenize(config, encoder, name, role, splits[role]) for role in ("validation", split)}
            limit = max(_num_generated(sub_dataset, part) for part in tokenized.values())
            opened.append(ScoreSplit(name=name, metric=metric, max_new_tokens=limit, split=tokenized[split]))
    return tuple(opened)


def _splits_by_role(config: SearchConfig, sub_dataset: SubDatasetConfig) -> Splits:
    """Return the rows by the role they play; in the paper's protocol the test rows are what selects."""
    splits = read_splits(config, sub_dataset)
    if config.search.protocol == "paper":
        splits["validation"] = splits["test"]
    return splits


def _check_overlap(config: SearchConfig, splits: Mapping[str, Splits]) -> None:
    """Raise, or warn by choice, where one text stands in two different splits of the mixture."""
    shared = shared_texts(_located(splits, config.search.protocol == "paper"))
    if not shared:
        return
    error = SplitOverlapError(shared[:_SHOWN_OVERLAPS], len(shared))
    if config.mixture.on_overlap == "error":
        raise error
    logger.warning(str(error))


def _located(splits: Mapping[str, Splits], is_paper_protocol: bool) -> Iterator[tuple[str, str, Example]]:
    for name, by_role in splits.items():
        for role, rows in by_role.items():
            if role == "test" and is_paper_protocol:
                continue
            for index, row in enumerate(rows):
                yield role, f"{name}/{role} row {index}", row


def _prepare(config: SearchConfig, sub_dataset: SubDatasetConfig, splits: Splits, encoder: Encoder) -> SubDatasetRef:
    name, test = sub_dataset.name, splits.get("test")
    metric = _metric_of(config, sub_dataset, splits["validation"])
    if metric in ("exact_match", "numeric") and encoder.tokenizer.eos_token_id is None:
        raise _without_end(encoder, name, metric)
    relabels = config.search.options.model_dump().get("rehearse") == "relabelled"
    if relabels:
        check_answered(name, metric)
    for split in ("validation", "test", *(("train",) if relabels else ())):
        _check_scorable(name, metric, split, splits.get(split, ()))
    refs = {split: _tokenize(config, encoder, name, split, rows) for split, rows in splits.items()}
    answers = {split: _answers(metric, refs[split], splits[split]) for split in SPLITS if split in splits}
    facts = {
        split: facts_of(own, refs[split].num_rows, len(splits[split]) - refs[split].num_rows)
        for split, own in answers.items()
    }
    dropped = [
        f"{own.num_dropped:,} of {own.num_dropped + own.num_rows:,} {split} rows are longer than training.max_length = "
        f"{encoder.max_length} tokens and left out"
        for split, own in facts.items()
        if own.num_dropped
    ]
    form = known_form(config, sub_dataset)
    read_as = [form.warning] if form is not None and form.warning else []
    compared = {split: own for split, own in answers.items() if own is not None}
    return SubDatasetRef(
        name=name,
        metric=metric,
        max_new_tokens=_num_generated(sub_dataset, refs["validation"]),
        train=refs["train"],
        validation=refs["validation"],
        test_sha256=fingerprint(test) if test is not None else None,
        num_test_rows=len(test) if test is not None else 0,
        facts=facts,
        warnings=tuple(
            f"{name}: {warning}" for warning in (*dropped, *warnings_of(compared, _num_unique(splits)), *read_as)
        ),
    )


def _answers(metric: Metric, split: SplitRef, rows: Sequence[Example]) -> list[str] | None:
    """Return the answers of a split's rows as the metric compares them; None where it compares none."""
    if split.num_rows == len(rows) or metric == "loss":
        return answers_of(metric, [(row.completion, row.answer) for row in rows])
    columns = read_tokenized(split)  # which rows were dropped, it alone tells
    return answers_of(metric, list(zip(columns["completion"], columns["answer"], strict=True)))


def answers_of(metric: Metric, rows: Sequence[tuple[str, str]]) -> list[str] | None:
    """Return what the metric compares of rows' completions and answers; None where it compares none."""
    if metric == "loss":
        return None
    if metric == "numeric":
        return [str(single_number_in(answer)) for _, answer in rows]
    return [completion.strip() for completion, _ in rows]


def answer_warnings(config: SearchConfig, sub_dataset: SubDatasetConfig, splits: Splits) -> list[str]:
    """Return why scores on rows may tell little, in words; nothing where their metric is refused."""
    try:
        metric = _metric_of(config, sub_dataset, splits["validation"])
    except ConfigError:
        return []
    pairs = {split: [(row.completion, row.answer) for row in splits[split]] for split in SPLITS if split in splits}
    answers = {split: own for split, rows in pairs.items() if (own := answers_of(metric, rows)) is not None}
    return [f"{sub_dataset.name}: {warning}" for warning in warnings_of(answers, _num_unique(splits))]


def _num_unique(splits: Splits) -> dict[str, int]:
    return {split: len({(row.prompt, row.completion) for row in rows}) for split, rows in splits.items()}


def _with_shared_sources(
    config: SearchConfig, refs: Sequence[SubDatasetRef], splits: Mapping[str, Splits]
) -> Iterator[SubDatasetRef]:
    """Yield the sub-datasets, with a warning to each of whose train rows another one before it has some or all."""
    first: dict[object, str] = {}
    owners: dict[tuple[str, str], str] = {}
    for sub_dataset, ref in zip(config.mixture.sub_datasets, refs, strict=True):
        keys = [key for key in (ref.train.sha256, train_source(config, sub_dataset)) if key is not None]
        before = next((first[key] for key in keys if key in first), None)
        for key in keys:
            first.setdefault(key, ref.name)
        rows = [(comparable(row.prompt), comparable(row.completion)) for row in splits[ref.name]["train"]]
        shared = Counter(owners[row] for row in rows if row in owners)
        owners = {**dict.fromkeys(rows, ref.name), **owners}
        told = [f"{count:,} of its {len(rows):,} train rows stand in {name} too" for name, count in shared.items()]
        if before is not None:
            told = [f"its train rows are those of {before}"]
        warnings = [f"{ref.name}: {one}, and so count twice in the mixture" for one in told]
        yield ref.model_copy(update={"warnings": (*warnings, *ref.warnings)})


def _without_end(encoder: Encoder, name: str, metric: Metric) -> ModelError:
    return ModelError(
        encoder.tokenizer.name_or_path,
        got="a tokenizer without an end-of-text token, after which generation would end",
        expected=f"eos_token in tokenizer_config.json, since {name} is scored by {metric}",
        fix="set it there, or score all sub-datasets by multiple_choice or loss",
    )


def _check_scorable(name: str, metric: Metric, split: str, rows: Sequence[Example]) -> None:
    """Raise where rows would always count as wrong, or could not be scored at all."""
    problems = Problems()
    for index, row in enumerate(rows):
        lacks_choices = metric in BY_CHOICES and not row.choices
        if lacks_choices or (metric == "numeric" and single_number_in(row.answer) is None):
            problem = DataError(
                name,
                f"{split} row {index}",
                got="no choices" if lacks_choices else f"the answer {row.answer!r:.80}, which is not one number",
                expected=f"rows that metric {metric} can score"
                if lacks_choices
                else "one number in digits (-1,234.5, .5, 1e3, 3/4), also with a currency or unit, or after ####",
                fix="fix the row, or set metric: exact_match",
            )
            problems.add(problem)
    problems.check()


def _tokenize(config: SearchConfig, encoder: Encoder, name: str, split: str, rows: list[Example]) -> SplitRef:
    cache = Path(config.output_root, "cache", "tokenised")
    return tokenize_split(encoder, name, split, rows, cache, config.mixture.on_too_long)


def _num_generated(sub_dataset: SubDatasetConfig, split: SplitRef) -> int:
    """Return how many tokens to generate: as configured, or enough for the longest completion of the split."""
    return sub_dataset.max_new_tokens or longest_completion(split) + 7


def _metric_of(config: SearchConfig, sub_dataset: SubDatasetConfig, rows: Sequence[Example]) -> Metric:
    """Return the configured metric, or the one the rows' form asks for.

    Raises:
        ConfigError: the metric cannot be measured on these rows, or would not be used.
    """
    where = f"mixture.sub_datasets.{sub_dataset.name}.metric"
    if any(row.is_text for row in rows) and sub_dataset.metric in ("auto", "loss"):
        if config.evaluation.selection != "loss":
            problem = "texts without a prompt have no answer that could be right; set evaluation.selection to loss"
            raise ConfigError(config.name, [f"{where}: {problem}"])
        return "loss"
    if sub_dataset.metric == "auto":
        if all(row.choices for row in rows):
            if sub_dataset.max_new_tokens is not None:
                raise ConfigError(
                    config.name, [f"{where}: all rows have choices, so max_new_tokens takes no effect; leave it out"]
                )
            return "multiple_choice"
        return "numeric" if all("####" in row.completion for row in rows) else "exact_match"
    if sub_dataset.metric in BY_CHOICES and not all(row.choices for row in rows):
        raise ConfigError(config.name, [f"{where}: {sub_dataset.metric}, and a validation row has no choices"])
    if sub_dataset.metric == "loss" and config.evaluation.selection != "loss":
        raise ConfigError(
            config.name, [f"{where}: loss gives no accuracy; set evaluation.selection to loss for the whole mixture"]
        )
    return sub_dataset.metric
