"""Score a model on splits: log-likelihood of choices, exact match or number of a generation, and loss."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch

from tasks.algorithm.answers import Answer
from tasks.algorithm.costs import ModelShape, RowCost
from tasks.contracts import BY_CHOICES, ScoreSplit, SubDatasetScore
from tasks.errors import NonFiniteScoreError
from tasks.workers.forward import LogitsAt
from tasks.workers.generation import Generator, Goal, end_tokens
from tasks.workers.trees import Pass, Query, Tree, answers_of, grow, keeps_texts_apart, pack

Rows = Sequence[Mapping[str, Any]]
# The text that a row is labelled with, beside its choices 0, 1, …
GOLD = -1
GENERATED = ("exact_match", "numeric")
# Most tokens on a CPU: of a pass, whose caches more would not fit, and where tokens are generated one a pass, whose
# weights are read for few rows as for many (tests/benchmarks/RESULTS.md, Scoring).
_CPU_TOKENS, _CPU_GENERATED = 512, 2048
# Settings of models that attend to so many tokens before each only. A mask over trees would take the place of theirs.
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")


@dataclass
class Cost:
    """Tokens and FLOPs of scoring so far: those of the rows, with a prompt once for all of its choices."""

    num_tokens: int = 0
    flops: float = 0.0


@dataclass
class RowPasses:
    """Results of the forward passes over a row.

    Attributes:
        loss_sum, num_labels: summed cross-entropy in nats, and the number of tokens with a loss.
        greedy_ids: most likely token at each position of the completion, given the gold tokens before it.
        choices: log-probability of each choice.
    """

    loss_sum: float = 0.0
    num_labels: int = 0
    greedy_ids: list[int] = field(default_factory=list)
    choices: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The forward passes over all rows of some splits, and what they cost."""

    passes: tuple[Pass, ...]
    cost: RowCost


class Scorer:
    """Scores one model on many splits; the model's weights may change between calls.

    The rows of all splits of a call share forward passes, which are the same in each call: what shares a pass changes
    the last digits.

    Args:
        batch_tokens: most tokens of a pass, padding included; on a CPU at most 512.
        ends: tokens that end a completion, beside those that end the rows of the splits scored.

    Attributes:
        answers: None, or (set by the caller) a dictionary in which the answers to all rows of each sub-dataset are
            kept; every text is then generated to its end.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        batch_tokens: int,
        shape: ModelShape,
        *,
        autocast: bool,
        ends: frozenset[int] = frozenset(),
    ) -> None:
        self.model, self.tokenizer, self.ends = model.eval(), tokenizer, ends
        self.device = next(model.parameters()).device
        is_cpu = self.device.type == "cpu"
        self.batch_tokens = min(batch_tokens, _CPU_TOKENS) if is_cpu else batch_tokens
        self._generated_tokens = min(batch_tokens, _CPU_GENERATED) if is_cpu else batch_tokens
        self.shape, self.autocast = shape, autocast
        self.cost = Cost()
        self.answers: dict[str, list[Answer]] | None = None
        self._plans: dict[tuple[tuple[str, str], ...], Plan] = {}
        with self._inference():
            self._logits_at = LogitsAt(model)
            self._widest_tree = _widest_tree(model) if keeps_texts_apart(self._logits_at, self.device) else 0

    def score(self, split: ScoreSplit) -> SubDatasetScore:
        """Return the score of one split."""
        return self.score_all([split])[0]

    def score_all(self, splits: Sequence[ScoreSplit]) -> list[SubDatasetScore]:
        """Return the score of each split.

        Raises:
            NonFiniteScoreError: the model gives no finite loss.
        """
        with self._inference():
            passes = self.forward_passes(splits)
            for split, results in zip(splits, passes, strict=True):
                if not np.isfinite(_mean_loss(results)):
                    raise NonFiniteScoreError(split.name, "validation loss", _mean_loss(results))
            answers = self._generate(splits, passes)
        for split, results in zip(splits, passes, strict=True):
            if split.metric in BY_CHOICES:
                is_normalized = split.metric == "multiple_choice_normalized"
                answers[split.name] = _choose(read_rows(split.split.directory), results, is_normalized=is_normalized)
        return [
            self._score(split, results, answers.get(split.name, []))
            for split, results in zip(splits, passes, strict=True)
        ]

    def _inference(self) -> ExitStack:
        """Return the contexts of every pass of the model."""
        stack = ExitStack()
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast))
        return stack

    def forward_passes(self, splits: Sequence[ScoreSplit]) -> list[list[RowPasses]]:
        """Return the results of the forward passes over each row of each split."""
        rows = [read_rows(split.split.directory) for split in splits]
        results = [[RowPasses() for _ in part] for part in rows]
        plan = self.plan(splits)
        self._charge(plan.cost)
        generated = {number for number, split in enumerate(splits) if split.metric in GENERATED}
        for each in plan.passes:
            greedy = not generated.isdisjoint(query.owner[0] for query in each.queries)
            for query, likelihoods, likeliest in answers_of(each, self._logits_at, self.device, greedy=greedy):
                split, index, text = query.owner
                result, row = results[split][index], rows[split][index]
                if text == GOLD:
                    result.loss_sum, result.num_labels = -float(likelihoods.sum()), len(likelihoods)
                    num_completed = sum(row["loss_mask"][row["prompt_length"] :])
                    result.greedy_ids = likeliest[len(likeliest) - num_completed :].tolist()
                else:
                    result.choices[text] = float(likelihoods.sum())
        return results

    def plan(self, splits: Sequence[ScoreSplit]) -> Plan:
        """Return the passes over all rows of the splits, a function of these rows and of what the model supports."""
        key = tuple((split.split.directory, split.metric) for split in splits)
        if key in self._plans:
            return self._plans[key]
        together: list[Tree] = []
        apart: list[Tree] = []
        lengths = []
        for number, split in enumerate(splits):
            for index, row in enumerate(read_rows(split.split.directory)):
                texts = [GOLD, *(range(len(row["choice_ids"])) if split.metric in BY_CHOICES else ())]
                tree = _tree(number, index, row, texts)
                if len(tree.ids) <= self._widest_tree:
                    together.append(tree)
                else:
                    one_token = [text for text in texts if text == GOLD or len(row["choice_ids"][text]) == 1]
                    apart.append(_tree(number, index, row, one_token))
                    apart += [_tree(number, index, row, [text]) for text in texts if text not in one_token]
                lengths.append(len(row["input_ids"]))
        passes = (*pack(together, self.batch_tokens, alone=False), *pack(apart, self.batch_tokens, alone=True))
        # The last token of a row counts, as in training, although nothing that follows it is asked.
        cost = RowCost(len(lengths), sum(2 * length - 1 for length in lengths), 0)
        cost = sum((tree.cost for tree in (*together, *apart)), cost)
        self._plans[key] = Plan(passes, cost)
        return self._plans[key]

    def _charge(self, work: RowCost) -> None:
        self.cost.num_tokens += int(work.num_tokens)
        self.cost.flops += work.forward_flops(self.shape)

    def _generate(
        self, splits: Sequence[ScoreSplit], passes: Sequence[Sequence[RowPasses]]
    ) -> dict[str, Sequence[Answer]]:
        """Return the answers to the rows of all splits whose answers are generated."""
        rows, greedy, goals, limits = [], [], [], []
        for split, results in zip(splits, passes, strict=True):
            if split.metric in GENERATED:
                is_numeric = split.metric == "numeric"
                for row, result in zip(read_rows(split.split.directory), results, strict=True):
                    rows.append(row)
                    greedy.append(result.greedy_ids)
                    goals.append(Goal(row["answer" if is_numeric else "completion"], is_numeric))
                    limits.append(split.max_new_tokens)
        ends = self.ends | end_tokens(self.tokenizer, rows)
        generator = Generator(
            self.model, self.tokenizer, ends, self._generated_tokens, self._charge, whole=self.answers is not None
        )
        answers = iter(generator.answers(rows, greedy, goals, limits))
        generated = [split for split in splits if split.metric in GENERATED]
        return {split.name: list(islice(answers, split.split.num_rows)) for split in generated}

    def _score(self, split: ScoreSplit, results: Sequence[RowPasses], answers: Sequence[Answer]) -> SubDatasetScore:
        if self.answers is not None:
            self.answers[split.name] = list(answers)
        correct = [answer.is_correct for answer in answers]
        return SubDatasetScore(
            sub_dataset=split.name,
            accuracy=sum(correct) / len(results) if split.metric != "loss" else None,
            loss=_mean_loss(results),
            num_examples=len(results),
            correct="".join(str(int(flag)) for flag in correct),
        )


def _mean_loss(results: Sequence[RowPasses]) -> float:
    return sum(result.loss_sum for result in results) / sum(result.num_labels for result in results)


def _choose(rows: Rows, results: Sequence[RowPasses], *, is_normalized: bool) -> list[Answer]:
    """Return for each row the choice with the highest log-likelihood; the first wins a tie.

    If normalized, it is divided by the number of characters of the choice without outer white space.
    """
    answers = []
    for row, result in zip(rows, results, strict=True):
        likelihoods = [result.choices[index] for index in range(len(row["choices"]))]
        sizes = [len(choice.strip()) for choice in row["choices"]] if is_normalized else 1
        chosen = int(np.argmax(np.asarray(likelihoods) / sizes))
        answers.append(Answer(text=row["choices"][chosen], is_correct=chosen == row["gold"]))
    return answers


def _tree(split: int, index: int, row: Mapping[str, Any], texts: Sequence[int]) -> Tree:
    """Return the tree of a row's prompt and some of its texts, its completion or choices by their number."""
    length, all_ids = row["prompt_length"], row["input_ids"]
    tails = [all_ids[length:] if text == GOLD else row["choice_ids"][text] for text in texts]
    ids, depths, ends, before = grow(all_ids[:length], tails)
    queries = []
    for text, tail, nodes in zip(texts, tails, before, strict=True):
        tokens = np.asarray(tail, dtype=np.int64)
        if text == GOLD:  # turns within the prompt may be learned too
            has_label = np.flatnonzero(row["loss_mask"][1:])
            nodes = np.concatenate([np.arange(length - 1), nodes])[has_label]
            tokens = np.asarray(all_ids[1:], dtype=np.int64)[has_label]
        queries.append(Query((split, index, text), nodes, tokens))
    return Tree(ids, depths, ends, tuple(queries))


def _widest_tree(model: Any) -> int:
    """Return the most tokens of a tree whose mask agrees with the windows of the model's attention."""
    config = model.config.get_text_config()
    return min([sys.maxsize, *(getattr(config, name, None) or sys.maxsize for name in _WINDOWS)])


@cache  # one entry a sub-dataset; every checkpoint of a round is scored on the same rows
def read_rows(directory: str) -> list[dict[str, Any]]:
    import datasets

    rows: list[dict[str, Any]] = datasets.load_from_disk(directory).to_list()
    return rows
