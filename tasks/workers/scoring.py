"""Score a model on splits: log-likelihood of choices, exact match or number of a generation, and loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
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
from tasks.workers.row_trees import GOLD, read_rows, trees_of, widest_tree
from tasks.workers.states import attach_states, open_states
from tasks.workers.trees import Pass, Tree, answers_of, pack

Rows = Sequence[Mapping[str, Any]]
GENERATED = ("exact_match", "numeric")
# Most tokens on a CPU: of a pass, whose caches more would not fit, and where tokens are generated one a pass, whose
# weights are read for few rows as for many (tests/benchmarks/RESULTS.md, Scoring).
_CPU_TOKENS, _CPU_GENERATED = 512, 2048


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
    """The forward passes over all rows of some splits, and what they cost.

    Attributes:
        from_cache: the outputs of the frozen layers are read, not computed.
    """

    passes: tuple[Pass, ...]
    cost: RowCost
    from_cache: bool = False


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
        hidden_states: None, or (set by the caller) the folder with outputs of the frozen layers, which are then read.
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
        self.hidden_states: str | None = None
        self.device = next(model.parameters()).device
        is_cpu = self.device.type == "cpu"
        self.batch_tokens = tokens_of_pass(batch_tokens, self.device)
        self._generated_tokens = min(batch_tokens, _CPU_GENERATED) if is_cpu else batch_tokens
        self.shape, self.autocast = shape, autocast
        self.cost = Cost()
        self.answers: dict[str, list[Answer]] | None = None
        self._plans: dict[tuple[tuple[str, str], ...], Plan] = {}
        with self._inference():
            self._logits_at = LogitsAt(model)
            self._widest_tree = widest_tree(model, self._logits_at, self.device)

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
        self._charge(plan.cost, from_cache=plan.from_cache)
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
        for number, split in enumerate(splits):
            own = trees_of(number, split.split.directory, split.metric, self._widest_tree)
            together += own[0]
            apart += own[1]
        stores = [open_states(self.hidden_states, split.split, split.metric) for split in splits]
        with_states = attach_states([*together, *apart], stores)
        if with_states is not None:
            together, apart = with_states[: len(together)], with_states[len(together) :]
        passes = (*pack(together, self.batch_tokens, alone=False), *pack(apart, self.batch_tokens, alone=True))
        # The last token of a row counts, as in training, although nothing that follows it is asked.
        lengths = [len(row["input_ids"]) for split in splits for row in read_rows(split.split.directory)]
        cost = RowCost(len(lengths), sum(2 * length - 1 for length in lengths), 0)
        cost = sum((tree.cost for tree in (*together, *apart)), cost)
        self._plans[key] = Plan(passes, cost, with_states is not None)
        return self._plans[key]

    def _charge(self, work: RowCost, *, from_cache: bool = False) -> None:
        self.cost.num_tokens += int(work.num_tokens)
        self.cost.flops += work.forward_flops(self.shape.above if from_cache else self.shape)

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
            self.answers[split.name] = [
                replace(answer, loss=result.loss_sum / result.num_labels)
                for answer, result in zip(answers, results, strict=False)  # no answers for the metric `loss`
            ]
        correct = [answer.is_correct for answer in answers]
        return SubDatasetScore(
            sub_dataset=split.name,
            accuracy=sum(correct) / len(results) if split.metric != "loss" else None,
            loss=_mean_loss(results),
            num_examples=len(results),
            correct="".join(str(int(flag)) for flag in correct),
        )


def tokens_of_pass(batch_tokens: int, device: torch.device) -> int:
    """Return the most tokens of a forward pass of scoring."""
    return min(batch_tokens, _CPU_TOKENS) if device.type == "cpu" else batch_tokens


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
