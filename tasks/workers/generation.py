"""Greedy generation, and whether it gives the completion of a row or the number of its answer."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tasks.algorithm.answers import Answer, number_in
from tasks.algorithm.costs import RowCost
from tasks.data.boundaries import decode
from tasks.data.chat_template import THOUGHT_END
from tasks.data.model_size import cache_width
from tasks.workers.forward import supports_logit_positions


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

    def may_be_met_from(self, beginning: str) -> bool:
        """Return whether a text that begins so, and goes on, may still meet the goal."""
        is_open = self.is_numeric or self.follows_thought or "\ufffd" in beginning
        return is_open or self.text.strip().startswith(beginning.strip())

    def with_thought_of(self, completion: str) -> Goal:
        """Return the goal for a row with this whole completion: any thought before the text is as good."""
        return replace(self, follows_thought=THOUGHT_END in completion and THOUGHT_END not in self.text)


class Generator:
    """Generates greedily with one model, in batches that fill the memory which scoring takes for logits.

    Args:
        ends: tokens that end a completion.
        on_cost: called with the work on each row.
        whole: generate every text to its end, also where its beginning decides.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        ends: frozenset[int],
        batch_tokens: int,
        on_cost: Callable[[RowCost], None],
        *,
        whole: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.ends, self._on_cost, self._whole = model, tokenizer, ends, on_cost, whole
        config = model.config.get_text_config()
        self._batch_tokens = generated_tokens(batch_tokens, config)
        self._max_positions: int = getattr(config, "max_position_embeddings", None) or sys.maxsize
        self._device = next(model.parameters()).device
        model.generation_config = greedy_settings(tokenizer, ends)
        self._keeps_cache = _keeps_cache(model)
        self._last_alone = {"logits_to_keep": 1} if supports_logit_positions(model) else {}

    def answers(
        self,
        rows: Sequence[Mapping[str, Any]],
        greedy_ids: Sequence[list[int]],
        goals: Sequence[Goal],
        limits: Sequence[int],
    ) -> list[Answer]:
        """Return the greedy generation of at most its limit of tokens for each row, compared with its goal.

        The text is only the beginning where that decides.

        The forward pass over the labelled text gives `greedy_ids`, the most likely token at each position of the
        completion. Generation begins with the tokens before the first disagreement and the one there, and continues
        only where the text has not ended and may still meet the goal.
        """
        limits = [min(n, self._max_positions - row["prompt_length"]) for n, row in zip(limits, rows, strict=True)]
        targets = [row["input_ids"][row["prompt_length"] :] for row in rows]
        goals = [goal.with_thought_of(self._text(target)) for goal, target in zip(goals, targets, strict=True)]
        found: dict[int, Answer] = {}
        starts: dict[int, list[int]] = {}
        for index, (target, greedy, goal) in enumerate(zip(targets, greedy_ids, goals, strict=True)):
            start = self._begin(target, greedy, limits[index])
            text = self._text(start)
            if start[-1] in self.ends or len(start) >= limits[index]:
                # The completion's own tokens are right, also where the tokenizer does not decode them to its text.
                is_copy = not goal.is_numeric and start == target
                found[index] = Answer(text=text, is_correct=is_copy or goal.is_met_by(text))
            elif self._whole or goal.may_be_met_from(text):
                starts[index] = start
            else:
                found[index] = Answer(text=text, is_correct=False)
        prompts = [rows[i]["input_ids"][: rows[i]["prompt_length"]] for i in starts]
        texts = self.generate(prompts, list(starts.values()), [limits[i] for i in starts])
        for index, text in zip(starts, texts, strict=True):
            found[index] = Answer(text=text, is_correct=goals[index].is_met_by(text))
        return [found[index] for index in range(len(rows))]

    def _begin(self, target: list[int], greedy: list[int], limit: int) -> list[int]:
        """Return the first tokens of the greedy generation: those that agree with the target, and one more."""
        agreed = next((i for i, pair in enumerate(zip(greedy, target, strict=True)) if pair[0] != pair[1]), len(target))
        start = [*target[:agreed], *greedy[agreed : agreed + 1]][:limit]
        return start[: next((i + 1 for i, token in enumerate(start) if token in self.ends), None)]

    def generate(self, prompts: Sequence[list[int]], starts: Sequence[list[int]], limits: Sequence[int]) -> list[str]:
        """Return the greedy completion of each prompt, of at most its limit of tokens with those of its start."""
        begun = [prompt + start for prompt, start in zip(prompts, starts, strict=True)]
        sizes = [len(ids) + max(limits) for ids in begun]
        # Rows that may reach the model's last position are generated alone: others of a batch would go beyond it.
        inner = [i for i, size in enumerate(sizes) if size <= self._max_positions]
        batches = batches_by_length([sizes[i] for i in inner], self._batch_tokens)
        alone = [[i] for i, size in enumerate(sizes) if size > self._max_positions]
        texts = [""] * len(prompts)
        for indices in [*([inner[i] for i in batch] for batch in batches), *alone]:
            left = [limits[i] - len(starts[i]) for i in indices]
            for index, new in zip(indices, self._continue([begun[i] for i in indices], left), strict=True):
                new = new[: next((i for i, token in enumerate(new) if token in self.ends), None)]
                texts[index] = self._text(starts[index] + new)
                length = len(begun[index]) + len(new)
                self._on_cost(RowCost(length, length * length, len(new)))
        return texts

    def _continue(self, begun: Sequence[list[int]], limits: Sequence[int]) -> list[list[int]]:
        """Return the tokens that follow each row, of at most its limit; rows are padded on the left."""
        width = max(map(len, begun))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in begun], device=self._device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in begun], device=self._device)
        if self._keeps_cache:
            return self._step_on(ids, mask, limits)
        output = self.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max(limits), pad_token_id=pad)[
            :, width:
        ]
        return [new[:limit] for new, limit in zip(output.tolist(), limits, strict=True)]

    def _step_on(self, ids: torch.Tensor, mask: torch.Tensor, limits: Sequence[int]) -> list[list[int]]:
        """Generate token by token as `generate` does, but for rows that have ended, which leave the batch."""
        found: list[list[int]] = [[] for _ in limits]
        rows = list(range(len(limits)))  # those in the batch
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        while True:
            inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
            logits = self.model(**inputs, use_cache=True, **self._last_alone).logits
            ids = logits[:, -1:].argmax(-1)
            for row, token in zip(rows, ids[:, 0].tolist(), strict=True):
                found[row].append(token)
            lines = [
                line
                for line, row in enumerate(rows)
                if found[row][-1] not in self.ends and len(found[row]) < limits[row]
            ]
            if not lines:
                return found
            mask, positions = torch.cat([mask, torch.ones_like(ids)], dim=1), positions[:, -1:] + 1
            if len(lines) < len(rows):
                rows, kept = [rows[line] for line in lines], torch.tensor(lines, device=self._device)
                ids, mask, positions = ids[kept], mask[kept], positions[kept]
                cache.batch_select_indices(kept)

    def _text(self, ids: list[int]) -> str:
        kept = [token for token in ids if token not in self.ends]
        return decode(self.tokenizer, kept, skip_special_tokens=True)


def _keeps_cache(model: Any) -> bool:
    """Return whether keys and values of the attention are all that the model needs of earlier tokens."""
    base = getattr(model, "get_base_model", lambda: model)()
    takes = inspect.signature(base.forward).parameters
    if not {"past_key_values", "position_ids"} <= takes.keys():
        return False
    return {type(layer) for layer in DynamicCache(config=model.config).layers} <= {
        DynamicLayer,
        DynamicSlidingWindowLayer,
    }


def greedy_settings(tokenizer: Any, ends: frozenset[int]) -> GenerationConfig:
    """Return the settings of generation, in scoring and in the exported champion.

    They replace the base model's own, so that these change no score (`no_repeat_ngram_size`, `min_new_tokens`, …).
    """
    return GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(ends) or None,
        pad_token_id=tokenizer.pad_token_id,
    )


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
