"""Greedy generation, and whether it gives the completion of a row or the number of its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tasks.algorithm.answers import number_in
from tasks.data.boundaries import decode
from tasks.data.chat_template import THOUGHT_END
from tasks.data.model_size import cache_width


@dataclass(frozen=True)
class Goal:
    """The text that a generation is compared with: a completion, or the text of a numeric answer."""

    text: str
    is_numeric: bool
    follows_thought: bool = False

    def is_met_by(self, generated: str) -> bool:
        """Return whether the texts are equal except for outer whitespace, or hold the same number."""
        if self.follows_thought:
            generated = generated.rpartition(THOUGHT_END)[2]
        if not self.is_numeric:
            return generated.strip() == self.text.strip()
        number = number_in(generated)
        return number is not None and number == number_in(self.text)


class Generator:
    """Generates greedily with one model, in batches that fill the memory which scoring takes for logits.

    Args:
        ends: tokens that end a completion.
        on_cost: called with (tokens, pairs of tokens, positions with logits) of the work.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        ends: frozenset[int],
        batch_tokens: int,
        on_cost: Callable[[int, int, int], None],
    ) -> None:
        self.model, self.tokenizer, self.ends, self._on_cost = model, tokenizer, ends, on_cost
        self._batch_tokens = generated_tokens(batch_tokens, model.config.get_text_config())
        self._device = next(model.parameters()).device

    def matches(
        self, rows: Sequence[Mapping[str, Any]], greedy_ids: Sequence[list[int]], goals: list[Goal], limit: int
    ) -> list[bool]:
        """Return for each row whether its greedy generation of at most `limit` tokens meets the goal.

        The forward pass over the labelled text gives `greedy_ids`, the most likely token at each position of the
        completion. Where it agrees with the whole completion and its end, generation gives that text. Elsewhere
        generation begins with the tokens before the first disagreement and the one there; it continues only where the
        text may still meet the goal.
        """
        correct: list[bool] = []
        undecided: list[int] = []
        starts: list[list[int]] = []
        for index, (row, greedy) in enumerate(zip(rows, greedy_ids, strict=True)):
            target = row["input_ids"][row["prompt_length"] :]
            differs = (i for i, (a, b) in enumerate(zip(greedy, target, strict=True)) if a != b)
            agreed = next(differs, None)
            if agreed is None and target[-1] in self.ends:
                correct.append(True)
                continue
            start = target if agreed is None else [*target[:agreed], greedy[agreed]]
            if THOUGHT_END in self._text(target) and THOUGHT_END not in goals[index].text:
                goals[index] = replace(goals[index], follows_thought=True)
            verdict = self._decide(start, goals[index], limit)
            correct.append(bool(verdict))
            if verdict is None:
                undecided.append(index)
                starts.append(start)
        prompts = [rows[i]["input_ids"][: rows[i]["prompt_length"]] for i in undecided]
        for index, text in zip(undecided, self.generate(prompts, starts, limit), strict=True):
            correct[index] = goals[index].is_met_by(text)
        return correct

    def _decide(self, start: list[int], goal: Goal, limit: int) -> bool | None:
        """Return whether a text that begins with `start` meets the goal; None where only generation tells."""
        text = self._text(start)
        if start[-1] in self.ends or len(start) >= limit:
            return goal.is_met_by(text)
        if goal.is_numeric or goal.follows_thought or "\ufffd" in text or goal.text.strip().startswith(text.strip()):
            return None
        return False

    def generate(self, prompts: Sequence[list[int]], starts: Sequence[list[int]], limit: int) -> list[str]:
        """Return the greedy completion of each prompt, of at most `limit` tokens with those of its start."""
        begun = [prompt + start for prompt, start in zip(prompts, starts, strict=True)]
        texts = [""] * len(prompts)
        for indices in batches_by_length([len(ids) + limit for ids in begun], self._batch_tokens):
            left = limit - min(len(starts[i]) for i in indices)
            for index, new in zip(indices, self._continue([begun[i] for i in indices], left), strict=True):
                new = new[: limit - len(starts[index])]
                new = new[: next((i for i, token in enumerate(new) if token in self.ends), None)]
                texts[index] = self._text(starts[index] + new)
                length = len(begun[index]) + len(new)
                self._on_cost(length, length * length, len(new))
        return texts

    def _continue(self, begun: Sequence[list[int]], max_new_tokens: int) -> list[list[int]]:
        """Return the tokens that follow each row; rows are padded on the left."""
        width = max(map(len, begun))
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        ids = [[pad] * (width - len(row)) + row for row in begun]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in begun]
        output = self.model.generate(
            input_ids=torch.tensor(ids, device=self._device),
            attention_mask=torch.tensor(mask, device=self._device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
            eos_token_id=sorted(self.ends) or None,
            temperature=None,
            top_p=None,
            top_k=None,
        )
        new: list[list[int]] = output[:, width:].tolist()
        return new

    def _text(self, ids: list[int]) -> str:
        kept = [token for token in ids if token not in self.ends]
        return decode(self.tokenizer, kept, skip_special_tokens=True)


def generated_tokens(batch_tokens: int, config: Any) -> int:
    """Return how many padded tokens to generate at once: as many as fit the memory of the logits of `batch_tokens`.

    Each generated token is a pass through the whole model, so few large batches take less time. Generation keeps keys
    and values; scoring keeps logits in bfloat16 and in float32.
    """
    width = cache_width(config)
    return batch_tokens * max(1, 2 * config.vocab_size // width) if width else batch_tokens


def end_tokens(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    """Return the tokens that end a completion: end-of-text, and the last token of a chat template's turns.

    The two may differ (Qwen2.5's base: `<|endoftext|>`, `<|im_end|>`), and a row is trained to end with its own. Only
    added tokens of the tokenizer count, since a template without an end leaves a row that ends with its last word.
    """
    own = {row["input_ids"][-1] for row in rows if row["loss_mask"][-1]}
    return frozenset(own & set(tokenizer.added_tokens_decoder) | {tokenizer.eos_token_id} - {None})


def batches_by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield indices of rows of similar length; a batch has at most `budget` padded tokens, or one row."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[index] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
