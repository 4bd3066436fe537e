"""Average checkpoints by a greedy soup: `python -m tasks.workers.soup scores_spec.json`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tasks.algorithm.curves import mean_of
from tasks.algorithm.soup import Trial, tried
from tasks.contracts import CheckpointScores, ScoreRequest
from tasks.errors import CheckpointDamagedError
from tasks.record.events import Soup, SoupSpec, total_cost
from tasks.record.paths import SOUP_AVERAGE, SOUP_RESULT
from tasks.record.rollout import digest_of, publish_with_manifest, scores_in, verify
from tasks.runtime.files import make_folder, write_file
from tasks.workers.model import WEIGHTS, check_names, scored_file, trained_names
from tasks.workers.score import open_scorer, score_model
from tasks.workers.supervisor import run_worker
from tasks.workers.training.tensor_file import safetensors_parts


def cook(spec_path: Path) -> None:
    """Try the requested checkpoints in their order, publish the average of those that stay, and write which these are.

    The scores of each trial are written to a file when done. A trial that has scores of the very same checkpoints is
    not scored again, so that a worker that starts again goes on where the one before ended.
    """
    spec = SoupSpec.model_validate_json(spec_path.read_text())
    output = Path(spec.output_directory)
    make_folder(output)
    with open_scorer(spec) as scorer:
        average = Average(scorer.model)
        trials: tuple[Trial, ...] = ()
        costs = []
        for request in spec.requests:
            digest = average.digest_with(request)
            if scores_in(output, request.key, digest) is None:
                average.put_with(request)
                score_model(scorer, spec.splits, request.key, digest, output)
            scores = scores_in(output, request.key, digest)
            assert scores is not None
            costs.append(scores.cost)
            trials = tried(trials, request.key, mean_score(scores, spec.selection))
            if trials[-1].is_member:
                average.add(request)
    soup = Soup(trials=trials, cost=total_cost(costs))
    if soup.is_average:
        average.publish(output.parent / SOUP_AVERAGE, spec.requests[0])
    write_file(output.parent / SOUP_RESULT, soup.model_dump_json(indent=1))


class Average:
    """The sum of the scored weights of checkpoints, in float32 and in the order in which they were added."""

    def __init__(self, model: Any) -> None:
        self._model, self._names = model, trained_names(model)
        self._members: list[ScoreRequest] = []
        self._sum: dict[str, torch.Tensor] = {}
        self._last: tuple[ScoreRequest, Mapping[str, torch.Tensor]] | None = None  # that was read

    def digest_with(self, request: ScoreRequest) -> str:
        """Return the hash by which the average of the members and one more checkpoint is known."""
        return digest_of(Path(one.directory) for one in (*self._members, request))

    def put_with(self, request: ScoreRequest) -> None:
        """Give the model the average of the members and one more checkpoint."""
        weights, count = self._read(request), len(self._members) + 1
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if name in weights:
                    total = self._sum[name] + weights[name] if self._members else weights[name]
                    parameter.copy_(total / count)

    def add(self, request: ScoreRequest) -> None:
        """Make a checkpoint a member."""
        for name, value in self._read(request).items():
            self._sum[name] = self._sum[name] + value if self._members else value
        self._members.append(request)

    def publish(self, directory: Path, best: ScoreRequest) -> None:
        """Publish the average as a checkpoint; its round and step are those of its first member."""
        weights = {name: total / len(self._members) for name, total in self._sum.items()}
        members = [{"round": member.key.round, "step": member.key.step} for member in self._members]
        meta = {"round": best.key.round, "step": best.key.step, "members": members}
        num_bytes = sum(value.nbytes for value in weights.values())
        if not directory.exists():
            publish_with_manifest(directory, {WEIGHTS: safetensors_parts(weights)}, meta, num_bytes)

    def _read(self, request: ScoreRequest) -> Mapping[str, torch.Tensor]:
        if self._last is None or self._last[0] != request:
            self._last = None  # lets go of it before the next one is read
            self._last = request, self._read_anew(Path(request.directory))
        return self._last[1]

    def _read_anew(self, directory: Path) -> Mapping[str, torch.Tensor]:
        file = scored_file(directory)
        try:
            verify(directory, only=file)
        except CheckpointDamagedError as error:
            raise CheckpointDamagedError(str(directory), error.problems, is_decided=True) from error
        weights: dict[str, torch.Tensor] = load_file(directory / file)
        check_names(weights, self._names, str(directory))
        return weights


def mean_score(scores: CheckpointScores, selection: str) -> float:
    """Return the mean over sub-datasets of what the search selects by: the accuracy, or the negated loss."""
    by_loss = selection == "loss"
    return mean_of([-score.loss if by_loss or score.accuracy is None else score.accuracy for score in scores.scores])


if __name__ == "__main__":
    sys.exit(run_worker(cook, Path(sys.argv[1])))
