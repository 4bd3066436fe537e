"""Lay out rows for one forward pass: a prompt and the texts that may follow it as a tree, trees end to end in lines.

A text that follows the prompt sees the prompt and itself, and its positions go on from the prompt's. Each beginning
that several texts share is computed once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.algorithm.costs import RowCost
from tasks.workers.cut import HIDDEN_STATES, States, placed_states
from tasks.workers.forward import LogitsAt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
# Counted on real10's rows with 8,192 and 32,768 tokens a pass: 4 and 1 % are padding; without the limit 4 and 9 %.
_MOST_LINES = 64
# Largest difference of a log-probability, in standard deviations. Measured (SmolLM2-135M, float32, three sets of random
# tokens): 1e-5 to 2e-3, and 0 in float64; 0.5 and more where a mask is not taken as it is meant.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Query:
    """Tokens of one text whose log-probabilities are wanted.

    Attributes:
        owner: any key of the text; its results are handed back under it.
        nodes: index in the tree of the token before each of them.
        tokens: the tokens themselves.
    """

    owner: Any
    nodes: Ints
    tokens: Ints


@dataclass(frozen=True)
class Tree:
    """A prompt and the texts that may follow it, in depth-first order; what follows a text's last token is not asked.

    Attributes:
        ids, depths: token and position in its text of each node.
        ends: index behind the last node below each node. Node i sees node j if j ≤ i < ends[j].
        queries: what is wanted.
        states: outputs of the frozen layers for each node, of shape (nodes, width); None: the pass computes them.
    """

    ids: Ints
    depths: Ints
    ends: Ints
    queries: tuple[Query, ...]
    states: States | None = None

    @property
    def is_chain(self) -> bool:
        """Whether each node sees all before it."""
        return bool((self.ends == len(self.ends)).all())

    @property
    def cost(self) -> RowCost:
        """What a pass over its nodes takes: a node attends to those of its text before it, as a row's tokens do."""
        asked = np.unique(np.concatenate([query.nodes for query in self.queries]))
        return RowCost(len(self.ids), int((2 * self.depths + 1).sum()), len(asked))


def grow(prompt: list[int], texts: Sequence[list[int]]) -> tuple[Ints, Ints, Ints, list[Ints]]:
    """Return ids, depths and ends of the tree, and for each text the nodes before its tokens."""
    ids, depths, ends = list(prompt), list(range(len(prompt))), [0] * len(prompt)
    before: list[Ints] = [np.zeros(0, dtype=np.int64)] * len(texts)
    path: list[int] = []
    last: list[int] = []
    # In this order, texts with a common beginning follow each other.
    for index in sorted(range(len(texts)), key=lambda i: texts[i][:-1]):
        inner = texts[index][:-1]
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(inner, last, strict=False)))
        path = [*path[:shared], *range(len(ids), len(ids) + len(inner) - shared)]
        ids.extend(inner[shared:])
        depths.extend(range(len(prompt) + shared, len(prompt) + len(inner)))
        ends.extend([0] * (len(inner) - shared))
        for node in path:
            ends[node] = len(ids)
        before[index] = np.asarray([len(prompt) - 1, *path], dtype=np.int64)
        last = inner
    ends[: len(prompt)] = [len(ids)] * len(prompt)
    return np.asarray(ids), np.asarray(depths), np.asarray(ends), before


@dataclass(frozen=True)
class Pass:
    """The trees of one forward pass in lines of one width.

    Attributes:
        lines: trees that lie end to end.
        width: tokens of a line, padding included.
    """

    lines: tuple[tuple[Tree, ...], ...]
    width: int

    def inputs(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Return the arguments of the model.

        A line of one chain needs no mask: padding lies behind it, where no token of the row looks.
        """
        shape = (len(self.lines), self.width)
        ids, depths = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        ends = np.tile(np.arange(1, self.width + 1), (shape[0], 1))  # padding sees itself
        states = []
        for line, trees in enumerate(self.lines):
            start = 0
            for tree in trees:
                stop = start + len(tree.ids)
                ids[line, start:stop], depths[line, start:stop] = tree.ids, tree.depths
                ends[line, start:stop] = tree.ends + start
                if tree.states is not None:
                    states.append((line * self.width + start, tree.states))
                start = stop
        tensors = {"input_ids": torch.from_numpy(ids).to(device)}
        if states:  # all trees of a pass have them, or none
            tensors[HIDDEN_STATES] = placed_states(states, shape, device)
        if all(len(trees) == 1 and trees[0].is_chain for trees in self.lines):
            return tensors
        order = torch.arange(self.width, device=device)
        ends_of = torch.from_numpy(ends).to(device)
        sees = (order <= order[:, None]) & (order[:, None] < ends_of[:, None, :])
        return tensors | {"position_ids": torch.from_numpy(depths).to(device), "attention_mask": sees[:, None]}

    @property
    def queries(self) -> list[Query]:
        return [query for trees in self.lines for tree in trees for query in tree.queries]

    def asked(self) -> tuple[Ints, Ints]:
        """Return the positions with logits wanted, counted through all lines, and the place there of each token's."""
        nodes = []
        for line, trees in enumerate(self.lines):
            start = line * self.width
            for tree in trees:
                nodes += [query.nodes + start for query in tree.queries]
                start += len(tree.ids)
        positions, places = np.unique(np.concatenate(nodes), return_inverse=True)
        return positions, places


def pack(trees: Sequence[Tree], budget: int, *, alone: bool) -> list[Pass]:
    """Return passes of at most `budget` tokens with padding, or one tree; a function of the sizes and the budget alone.

    Each line takes the largest tree left that fits, again and again. Attention looks over whole lines, so they are as
    narrow as the longest tree left; with a large budget wider, since few trees of a length leave much padding.

    Args:
        alone: put one tree in each line.
    """
    sizes = [len(tree.ids) for tree in trees]
    left = sorted(range(len(trees)), key=lambda i: sizes[i])
    passes = []
    while left:
        width = sizes[left[-1]] if alone else max(sizes[left[-1]], budget // _MOST_LINES)
        lines: list[tuple[Tree, ...]] = []
        while left and (not lines or (len(lines) + 1) * width <= budget):
            room = width
            indices: list[int] = []
            while left and sizes[left[0]] <= room and not (alone and indices):
                indices.append(left.pop(bisect_right(left, room, key=lambda i: sizes[i]) - 1))
                room -= sizes[indices[-1]]
            lines.append(tuple(trees[i] for i in indices))
        passes.append(Pass(tuple(lines), max(sum(len(tree.ids) for tree in line) for line in lines)))
    return passes


def answers_of(
    each: Pass, logits_at: LogitsAt, device: torch.device, *, greedy: bool
) -> Iterator[tuple[Query, Floats, Ints]]:
    """Run a pass; yield each query with the log-probability of each token and, if `greedy`, the most likely ones."""
    positions, places = each.asked()
    queries = each.queries
    tokens = np.concatenate([query.tokens for query in queries])
    logits = logits_at(each.inputs(device), torch.from_numpy(positions).to(device))
    found = logits.log_softmax(-1)[torch.from_numpy(places), torch.from_numpy(tokens)]
    likelihoods = found.cpu().double().numpy()  # Apple's GPUs have no double
    likeliest = logits.argmax(-1).cpu().numpy()[places] if greedy else tokens
    stop = 0
    for query in queries:
        start, stop = stop, stop + len(query.tokens)
        yield query, likelihoods[start:stop], likeliest[start:stop]


def keeps_texts_apart(logits_at: LogitsAt, device: torch.device) -> bool:
    """Return whether the model gives texts of trees in one line the logits that it gives each of them alone.

    A model with a recurrent layer, without masks of one's own, or that counts positions by itself does not.
    """
    size = logits_at.model.get_input_embeddings().weight.shape[0]
    texts = [[i * 7919 % size for i in text] for text in ([3, 5, 7, 2], [3, 5, 4, 6, 2], [8, 1], [9, 3, 2])]
    prompts = [[i * 7919 % size for i in prompt] for prompt in ([4, 3, 2, 1], [6, 7, 5])]
    trees = [_probe(prompt, texts) for prompt in prompts]
    chains = [_probe(prompt, [text]) for prompt in prompts for text in texts]
    alone = _likelihoods(pack(chains, 1, alone=True), logits_at, device)
    try:
        together = _likelihoods(pack(trees, 64, alone=False), logits_at, device)
    except (TypeError, ValueError, RuntimeError):
        return False
    differences = [abs(together[owner] - values).max() for owner, values in alone.items()]
    tolerance = max(_TOLERANCE, logits_at.tolerance) * np.std(np.concatenate([*alone.values()]))
    return bool(max(differences) <= tolerance)


def _probe(prompt: list[int], texts: Sequence[list[int]]) -> Tree:
    ids, depths, ends, before = grow(prompt, texts)
    queries = [Query((*prompt, *text), nodes, np.asarray(text)) for text, nodes in zip(texts, before, strict=True)]
    return Tree(ids, depths, ends, tuple(queries))


def _likelihoods(passes: Sequence[Pass], logits_at: LogitsAt, device: torch.device) -> dict[Any, Floats]:
    answers = (answer for each in passes for answer in answers_of(each, logits_at, device, greedy=False))
    return {query.owner: likelihoods for query, likelihoods, _ in answers}
