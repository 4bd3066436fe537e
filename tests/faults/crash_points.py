"""The functions at which test_every_phase.py ends a search, by their public names, in the order of a search."""

from __future__ import annotations

from typing import NamedTuple

FLOW, BUILD, TRAIN, SCORE = "flows/cli.py", "workers/build_base.py", "workers/train.py", "workers/score.py"
TEST = "test_scores_spec.json"


class CrashPoint(NamedTuple):
    """A point at which the process, and the search that owns it, end.

    Attributes:
        signal: KILL for a machine that is lost, TERM for one that gives notice.
        phase: name of the point.
        process: part of the command line of the process.
        place: `module:function` or `module:class.method`.
        call: which call of the function in one process.
        when: before or after that call.
    """

    signal: str
    phase: str
    process: str
    place: str
    call: int
    when: str


EVERY = tuple(
    CrashPoint(*fields)
    for fields in (
        ("KILL", "start", FLOW, "tasks.data.base_model:prepare_base_model", 1, "before"),
        ("KILL", "model build", BUILD, "tasks.workers.build_base:publish_folder", 1, "before"),
        ("KILL", "tokenization", FLOW, "tasks.data.tokenization:publish_folder", 2, "before"),
        ("TERM", "opening", FLOW, "tasks.registry.runs:log_datasets", 1, "after"),
        ("KILL", "begun in MLflow, not in the journal", FLOW, "tasks.registry.runs:log_datasets", 1, "after"),
        ("KILL", "model load", TRAIN, "tasks.workers.model:load_base", 1, "after"),
        ("KILL", "training step", TRAIN, "tasks.workers.training.optimization:learning_rate_at", 5, "before"),
        ("KILL", "in an accumulation", TRAIN, "tasks.workers.training.stepping:Stepper._forward", 21, "after"),
        ("TERM", "in an accumulation, told", TRAIN, "tasks.workers.training.stepping:Stepper._forward", 9, "after"),
        ("KILL", "restoring", TRAIN, "tasks.workers.training.learner:Learner.restore", 1, "after"),
        ("KILL", "checkpoint write", TRAIN, "tasks.record.rollout:write_hashed", 1, "after"),
        ("KILL", "end of a checkpoint's files", TRAIN, "tasks.record.rollout:write_hashed", 3, "after"),
        ("TERM", "between two files", TRAIN, "tasks.record.rollout:write_hashed", 1, "after"),
        ("KILL", "publication", TRAIN, "tasks.workers.training.checkpoint:publish_checkpoint", 1, "after"),
        ("KILL", "evaluation", SCORE, "tasks.workers.scoring:Scorer.forward_passes", 2, "after"),
        ("TERM", "evaluation, told", SCORE, "tasks.workers.scoring:Scorer.forward_passes", 1, "after"),
        ("KILL", "generation", SCORE, "tasks.workers.generation:Generator.generate", 1, "before"),
        ("KILL", "registration", FLOW, "tasks.registry.checkpoints:create_checkpoint", 2, "after"),
        ("KILL", "recording of scores", FLOW, "tasks.registry.checkpoints:log_scores", 2, "after"),
        ("TERM", "decision, told", FLOW, "tasks.pruning:append_event", 1, "before"),
        ("KILL", "decision", FLOW, "tasks.pruning:append_event", 1, "before"),
        ("KILL", "decision on record", FLOW, "tasks.pruning:append_event", 1, "after"),
        ("KILL", "rollback", FLOW, "tasks.rollback:find_whole", 1, "after"),
        ("KILL", "removal of old checkpoints", FLOW, "tasks.rollback:remove_unneeded", 1, "after"),
        ("KILL", "champion export", TEST, "tasks.workers.scoring:Scorer.score_all", 1, "before"),
        ("TERM", "champion export, told", TEST, "tasks.workers.scoring:Scorer.score_all", 1, "before"),
        ("KILL", "champion not in the journal", FLOW, "tasks.champion:append_event", 1, "before"),
        ("KILL", "removal of all but the champion", FLOW, "tasks.champion:keep_the_champion", 1, "before"),
        ("KILL", "report", FLOW, "tasks.reporting:curves_frame", 1, "after"),
        ("KILL", "end of the MLflow run", FLOW, "tasks.registry.runs:close_search_run", 1, "before"),
    )
)
# One point of each kind: of every process, before and after it leaves something behind, lost and with notice.
IN_CI = tuple(
    point
    for point in EVERY
    if point.phase
    in (
        "begun in MLflow, not in the journal",
        "in an accumulation",
        "in an accumulation, told",
        "restoring",
        "end of a checkpoint's files",
        "generation",
        "registration",
        "decision, told",
        "decision on record",
        "champion export",
        "champion not in the journal",
        "report",
    )
)
