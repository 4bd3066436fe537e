"""Score a model on one split: log-likelihood of choices, greedy exact match, numeric answers, loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from tasks.algorithm.answers import number_in
from tasks.algorithm.costs import ModelShape
from tasks.contracts import ScoreSplit, SubDatasetScore
from tasks.data.model_size import cache_width
from tasks.errors import NonFiniteScoreError
from tasks.workers.forward import Row, collate, supports_logit_positions, token_logits, token_losses


@dataclass
class Cost:
    """Tokens and FLOPs of scoring so far."""

    num_tokens: int = 0
    flops: float = 0.0


@dataclass(frozen=True)
class GoldPass:
    """What one forward pass over prompt and gold completion says of one row.

    Attributes:
        loss_sum, num_supervised: summed cross-entropy in nats and its tokens.
        greedy_ids: the most likely token at each completion position, given the gold tokens before it.
        choice_scores: log-probability of each choice where every choice is one token; else None.
    """

    loss_sum: float
    num_supervised: int
    greedy_ids: list[int]
    choice_scores: list[float] | None


class Scorer:
    """Scores one model on many splits; the model's weights may change between calls."""

    def __init__(
        self, model: Any, tokenizer: Any, batch_tokens: int, shape: ModelShape, *, autocast: bool
    ) -> None:
        self.model, self.tokenizer, self.batch_tokens, self.shape = (
            model.eval(),
            tokenizer,
            batch_tokens,
            shape,
        )
        self.device = next(model.parameters()).device
        self.generated_tokens = generated_tokens(batch_tokens, model.config.get_text_config())
        self.keeps_logits = supports_logit_positions(model)
        self.autocast = autocast
        self.cost = Cost()
        self._ends: frozenset[int] = frozenset()

    def score(self, split: ScoreSplit) -> SubDatasetScore:
        """Return the split's score.

        Raises:
            NonFiniteScoreError: the model gives no finite loss.
        """
        rows = _read_rows(split.split.directory)
        self._ends = end_tokens(self.tokenizer, rows)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            passes = self._gold_passes(rows)
            correct = self._correct(split, rows, passes)
        loss = sum(p.loss_sum for p in passes) / sum(p.num_supervised for p in passes)
        if not np.isfinite(loss):
            raise NonFiniteScoreError(split.name, "validation loss", loss)
        return SubDatasetScore(
            sub_dataset=split.name,
            accuracy=sum(correct) / len(rows) if split.metric != "loss" else None,
            loss=loss,
            num_examples=len(rows),
            correct="".join(str(int(flag)) for flag in correct),
        )

    def _correct(self, split: ScoreSplit, rows: list[dict[str, Any]], passes: list[GoldPass]) -> list[bool]:
        if split.metric == "loss":
            return []
        if split.metric == "multiple_choice":
            return self._choose(rows, passes)
        return self._match(rows, passes, split.max_new_tokens, is_numeric=split.metric == "numeric")

    def _gold_passes(self, rows: list[dict[str, Any]]) -> list[GoldPass]:
        results: list[GoldPass | None] = [None] * len(rows)
        for indices in _batches([row["num_tokens"] for row in rows], self.batch_tokens):
            batch_rows = [rows[i] for i in indices]
            logits, losses, flags, positions = self._forward([_as_row(row) for row in batch_rows])
            greedy = logits.argmax(-1).cpu().numpy()
            for line, index in enumerate(indices):
                row = rows[index]
                mask = flags[line]
                first = np.searchsorted(positions, row["prompt_length"] - 1)
                completion = mask & (positions >= row["prompt_length"] - 1)
                scores = None
                if row["choice_ids"] and _first_tokens_decide(row):
                    options = torch.tensor([choice[0] for choice in row["choice_ids"]], device=logits.device)
                    scores = logits[line, first].log_softmax(-1)[options].tolist()
                results[index] = GoldPass(
                    float(losses[line].sum()), int(mask.sum()), greedy[line][completion].tolist(), scores
                )
        return [result for result in results if result is not None]

    def _forward(self, rows: Sequence[Row]) -> tuple[torch.Tensor, Any, Any, Any]:
        """Return logits (rows, k, vocabulary), and losses, supervised flags (rows, k) and positions (k,)."""
        batch = collate(rows, self.device, packed=False)
        logits = token_logits(self.model, batch, at_positions=self.keeps_logits)
        losses = token_losses(logits, batch).cpu().double().numpy()  # Apple's GPUs have no double
        lengths = [len(ids) for ids, _ in rows]
        self._charge(sum(lengths), sum(n * n for n in lengths), int(batch.is_supervised.sum()))
        return logits, losses, batch.is_supervised.cpu().numpy(), batch.positions.cpu().numpy()

    def _charge(self, num_tokens: int, num_pairs: int, num_head_positions: int) -> None:
        self.cost.num_tokens += num_tokens
        self.cost.flops += self.shape.forward_flops(num_tokens, num_pairs, num_head_positions)

    def _choose(self, rows: list[dict[str, Any]], passes: list[GoldPass]) -> list[bool]:
        """Say for each row whether the right choice has the highest log-likelihood; the first wins a tie."""
        scores = [p.choice_scores for p in passes]
        open_rows = [i for i, score in enumerate(scores) if score is None]
        flat = [(i, choice) for i in open_rows for choice in range(len(rows[i]["choice_ids"]))]
        inputs = [_choice_row(rows[i], choice) for i, choice in flat]
        sums = [0.0] * len(flat)
        for indices in _batches([len(ids) for ids, _ in inputs], self.batch_tokens):
            _, losses, _, _ = self._forward([inputs[i] for i in indices])
            for line, index in enumerate(indices):
                sums[index] = -float(losses[line].sum())
        for (i, _), value in zip(flat, sums, strict=True):
            scores[i] = [*(scores[i] or []), value]
        return [int(np.argmax(np.asarray(s))) == row["gold"] for s, row in zip(scores, rows, strict=True)]

    def _match(
        self, rows: list[dict[str, Any]], passes: list[GoldPass], max_new_tokens: int, *, is_numeric: bool
    ) -> list[bool]:
        """Say for each row whether greedy generation gives its completion, or the number of its answer.

        Where the gold pass agrees with every token, generation would give just that text. Elsewhere the tokens
        before the first disagreement, and the one there, are what generation gives; it goes on from there, and
        only where the text may still match.
        """
        wanted = [row["answer" if is_numeric else "completion"] for row in rows]
        correct: list[bool] = []
        open_rows: list[int] = []
        starts: list[list[int]] = []
        for index, (row, gold) in enumerate(zip(rows, passes, strict=True)):
            target = row["input_ids"][row["prompt_length"] :]
            agreed = next(
                (i for i, (a, b) in enumerate(zip(gold.greedy_ids, target, strict=True)) if a != b), None
            )
            if agreed is None:
                correct.append(True)
                continue
            begun = [*target[:agreed], gold.greedy_ids[agreed]]
            verdict = self._decided(begun, wanted[index], max_new_tokens, is_numeric=is_numeric)
            correct.append(bool(verdict))
            if verdict is None:
                open_rows.append(index)
                starts.append(begun)
        texts = self._generate([rows[i] for i in open_rows], starts, max_new_tokens)
        for index, text in zip(open_rows, texts, strict=True):
            correct[index] = is_match(text, wanted[index], is_numeric=is_numeric)
        return correct

    def _decided(self, begun: list[int], answer: str, limit: int, *, is_numeric: bool) -> bool | None:
        """Return whether a text that begins so matches; None where generation has to tell."""
        text = self._text(begun)
        if begun[-1] in self._ends or len(begun) >= limit:
            return is_match(text, answer, is_numeric=is_numeric)
        if is_numeric or "\ufffd" in text or answer.strip().startswith(text.strip()):
            return None
        return False

    def _generate(self, rows: list[dict[str, Any]], starts: list[list[int]], limit: int) -> list[str]:
        """Return the greedy completion of each row, of at most `limit` tokens, the begun ones included."""
        prompts = [
            row["input_ids"][: row["prompt_length"]] + begun for row, begun in zip(rows, starts, strict=True)
        ]
        texts = [""] * len(rows)
        for indices in _batches([len(prompt) + limit for prompt in prompts], self.generated_tokens):
            width = max(len(prompts[i]) for i in indices)
            left = limit - min(len(starts[i]) for i in indices)
            pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
            ids = torch.tensor(
                [[pad] * (width - len(prompts[i])) + prompts[i] for i in indices], device=self.device
            )
            mask = torch.tensor(
                [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in indices], device=self.device
            )
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=left,
                do_sample=False,
                num_beams=1,
                pad_token_id=pad,
                eos_token_id=sorted(self._ends) or None,
                temperature=None,
                top_p=None,
                top_k=None,
            )[:, width:].tolist()
            for line, index in enumerate(indices):
                new = output[line][: limit - len(starts[index])]
                new = new[: next((i for i, token in enumerate(new) if token in self._ends), None)]
                texts[index] = self._text(starts[index] + new)
                length = len(prompts[index]) + len(new)
                self._charge(length, length * length, len(new))
        return texts

    def _text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(
            [token for token in ids if token not in self._ends], skip_special_tokens=True
        )
        return text


def generated_tokens(batch_tokens: int, config: Any) -> int:
    """Return how many padded tokens to generate at once: as many as take the memory of the logits of `batch_tokens`.

    Each token of generation is a pass through the whole model, so few large batches are done first. What stays in
    memory is keys and values; logits, of which generation has one position's, lie in bfloat16 and in float32 otherwise.
    """
    width = cache_width(config)
    return batch_tokens * max(1, 2 * config.vocab_size // width) if width else batch_tokens


def end_tokens(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    """Return the tokens that end a completion: end-of-text, and those that a chat's template ends the turns with.

    The two may differ (Qwen2.5's base: `<|endoftext|>`, `<|im_end|>`), and a row is trained to end with its own. Only
    the tokenizer's added tokens count, since a template without an end leaves a row that ends with its last word.
    """
    own = {row["input_ids"][-1] for row in rows if row["supervised"][-1]} & set(
        tokenizer.added_tokens_decoder
    )
    return frozenset(own | {tokenizer.eos_token_id} - {None})


def is_match(text: str, answer: str, *, is_numeric: bool) -> bool:
    """Say whether a generated text gives the answer: equal but for outer space, or the same number."""
    if not is_numeric:
        return text.strip() == answer.strip()
    number = number_in(text)
    return number is not None and number == number_in(answer)


@cache  # one entry a sub-dataset; every checkpoint of a round is scored on the same rows
def _read_rows(directory: str) -> list[dict[str, Any]]:
    import datasets

    rows: list[dict[str, Any]] = datasets.load_from_disk(directory).to_list()
    return rows


def _as_row(row: dict[str, Any]) -> Row:
    return np.asarray(row["input_ids"], dtype=np.int32), np.asarray(row["supervised"], dtype=np.int8)


def _choice_row(row: dict[str, Any], choice: int) -> Row:
    prompt, tail = row["input_ids"][: row["prompt_length"]], row["choice_ids"][choice]
    flags = [0] * len(prompt) + [1] * len(tail)
    return np.asarray(prompt + tail, dtype=np.int32), np.asarray(flags, dtype=np.int8)


def _first_tokens_decide(row: dict[str, Any]) -> bool:
    """Say whether every choice is one token, so that one position's logits hold all their log-likelihoods."""
    first_gold = row["input_ids"][row["prompt_length"]]
    choices = row["choice_ids"]
    return all(len(choice) == 1 for choice in choices) and choices[row["gold"]][0] == first_gold


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield indices of rows of like length; a batch has at most `budget` padded tokens, or one row."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[index] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
