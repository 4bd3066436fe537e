"""Score a model on one split: log-likelihood of choices, exact match or number of a generation, and loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from tasks.algorithm.answers import Answer
from tasks.algorithm.costs import ModelShape, RowCost
from tasks.contracts import BY_CHOICES, ScoreSplit, SubDatasetScore
from tasks.errors import NonFiniteScoreError
from tasks.workers.forward import Row, collate, supports_logit_positions, token_logits, token_losses
from tasks.workers.generation import Generator, Goal, batches_by_length, end_tokens

Rows = Sequence[Mapping[str, Any]]


@dataclass
class Cost:
    """Tokens and FLOPs of scoring so far."""

    num_tokens: int = 0
    flops: float = 0.0


@dataclass(frozen=True)
class GoldPass:
    """Results of one forward pass over the prompt and the gold completion of a row.

    Attributes:
        loss_sum, num_labels: summed cross-entropy in nats, and the number of tokens with a loss.
        greedy_ids: most likely token at each position of the completion, given the gold tokens before it.
        choice_scores: log-probability of each choice if every choice is one token; else None.
    """

    loss_sum: float
    num_labels: int
    greedy_ids: list[int]
    choice_scores: list[float] | None


class Scorer:
    """Scores one model on many splits; the model's weights may change between calls.

    Args:
        ends: tokens that end a completion, beside those that end the rows of the split scored.

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
        self.batch_tokens, self.shape, self.autocast = batch_tokens, shape, autocast
        self.device = next(model.parameters()).device
        self.keeps_logits = supports_logit_positions(model)
        self.cost = Cost()
        self.answers: dict[str, list[Answer]] | None = None

    def score(self, split: ScoreSplit) -> SubDatasetScore:
        """Return the score of the split.

        Raises:
            NonFiniteScoreError: the model gives no finite loss.
        """
        rows = read_rows(split.split.directory)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            passes = self.gold_passes(rows)
            answers = self._answers(split, rows, passes)
        loss = sum(p.loss_sum for p in passes) / sum(p.num_labels for p in passes)
        if not np.isfinite(loss):
            raise NonFiniteScoreError(split.name, "validation loss", loss)
        if self.answers is not None:
            self.answers[split.name] = answers
        correct = [answer.is_correct for answer in answers]
        return SubDatasetScore(
            sub_dataset=split.name,
            accuracy=sum(correct) / len(rows) if split.metric != "loss" else None,
            loss=loss,
            num_examples=len(rows),
            correct="".join(str(int(flag)) for flag in correct),
        )

    def _answers(self, split: ScoreSplit, rows: Rows, passes: Sequence[GoldPass]) -> list[Answer]:
        """Return the answer to each row; none if the metric is the loss."""
        if split.metric == "loss":
            return []
        if split.metric in BY_CHOICES:
            return self._choose(rows, passes, is_normalized=split.metric == "multiple_choice_normalized")
        is_numeric = split.metric == "numeric"
        goals = [Goal(row["answer" if is_numeric else "completion"], is_numeric) for row in rows]
        ends = self.ends | end_tokens(self.tokenizer, rows)
        generator = Generator(
            self.model, self.tokenizer, ends, self.batch_tokens, self._charge, whole=self.answers is not None
        )
        return generator.answers(rows, [p.greedy_ids for p in passes], goals, split.max_new_tokens)

    def gold_passes(self, rows: Rows) -> list[GoldPass]:
        """Return the results of a forward pass over each row, in the order of the rows."""
        results: dict[int, GoldPass] = {}
        for indices in batches_by_length([row["num_tokens"] for row in rows], self.batch_tokens):
            logits, losses, has_label, positions = self._forward([_as_row(rows[i]) for i in indices])
            greedy = logits.argmax(-1).cpu().numpy()
            for line, index in enumerate(indices):
                row = rows[index]
                first = np.searchsorted(positions, row["prompt_length"] - 1)
                completion = has_label[line] & (positions >= row["prompt_length"] - 1)
                scores = None
                if row["choice_ids"] and _first_tokens_decide(row):
                    options = torch.tensor([choice[0] for choice in row["choice_ids"]], device=logits.device)
                    scores = logits[line, first].log_softmax(-1)[options].tolist()
                results[index] = GoldPass(
                    loss_sum=float(losses[line].sum()),
                    num_labels=int(has_label[line].sum()),
                    greedy_ids=greedy[line][completion].tolist(),
                    choice_scores=scores,
                )
        return [results[index] for index in range(len(rows))]

    def _forward(self, rows: Sequence[Row]) -> tuple[torch.Tensor, Any, Any, Any]:
        """Return logits (rows, k, vocabulary), losses and `has_label` (rows, k), and positions (k,)."""
        batch = collate(rows, self.device, packed=False)
        logits = token_logits(self.model, batch, at_positions=self.keeps_logits)
        losses = token_losses(logits, batch).cpu().double().numpy()  # Apple's GPUs have no double
        lengths = [len(ids) for ids, _ in rows]
        self._charge(sum(lengths), sum(n * n for n in lengths), int(batch.has_label.sum()))
        return logits, losses, batch.has_label.cpu().numpy(), batch.positions.cpu().numpy()

    def _charge(self, num_tokens: int, num_pairs: int, num_head_positions: int) -> None:
        self.cost.num_tokens += num_tokens
        self.cost.flops += RowCost(num_tokens, num_pairs, num_head_positions).forward_flops(self.shape)

    def _choose(self, rows: Rows, passes: Sequence[GoldPass], *, is_normalized: bool) -> list[Answer]:
        """Return for each row the choice with the highest log-likelihood; the first wins a tie.

        If normalized, it is divided by the number of characters of the choice without outer white space.
        """
        scores = [p.choice_scores for p in passes]
        open_rows = [i for i, score in enumerate(scores) if score is None]
        flat = [(i, choice) for i in open_rows for choice in range(len(rows[i]["choice_ids"]))]
        inputs = [_choice_row(rows[i], choice) for i, choice in flat]
        sums = [0.0] * len(flat)
        for indices in batches_by_length([len(ids) for ids, _ in inputs], self.batch_tokens):
            _, losses, _, _ = self._forward([inputs[i] for i in indices])
            for line, index in enumerate(indices):
                sums[index] = -float(losses[line].sum())
        for (i, _), value in zip(flat, sums, strict=True):
            scores[i] = [*(scores[i] or []), value]
        answers = []
        for row, likelihoods in zip(rows, scores, strict=True):
            sizes = [len(choice.strip()) for choice in row["choices"]] if is_normalized else 1
            chosen = int(np.argmax(np.asarray(likelihoods) / sizes))
            answers.append(Answer(text=row["choices"][chosen], is_correct=chosen == row["gold"]))
        return answers


@cache  # one entry a sub-dataset; every checkpoint of a round is scored on the same rows
def read_rows(directory: str) -> list[dict[str, Any]]:
    import datasets

    rows: list[dict[str, Any]] = datasets.load_from_disk(directory).to_list()
    return rows


def _as_row(row: Mapping[str, Any]) -> Row:
    return np.asarray(row["input_ids"], dtype=np.int32), np.asarray(row["loss_mask"], dtype=np.int8)


def _choice_row(row: Mapping[str, Any], choice: int) -> Row:
    """Return the prompt with one choice, whose tokens alone have a loss."""
    prompt, tail = row["input_ids"][: row["prompt_length"]], row["choice_ids"][choice]
    loss_mask = [0] * len(prompt) + [1] * len(tail)
    return np.asarray(prompt + tail, dtype=np.int32), np.asarray(loss_mask, dtype=np.int8)


def _first_tokens_decide(row: Mapping[str, Any]) -> bool:
    """Return whether every choice is one token, so that the logits of one position give all log-likelihoods."""
    first_gold = row["input_ids"][row["prompt_length"]]
    choices = row["choice_ids"]
    return all(len(choice) == 1 for choice in choices) and choices[row["gold"]][0] == first_gold
