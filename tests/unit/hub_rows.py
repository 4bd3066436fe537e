"""Rows of our own in the schema of each hub dataset of data/paper15.yaml, and what they become.

Columns and types are those of the hub's viewer: `choices` a struct of two lists, HellaSwag's label text, BoolQ's
answer a truth value, MedMCQA's and PIQA's a class index.
"""

from __future__ import annotations

from typing import Any

Expected = list[tuple[str, str, tuple[str, ...]]]


def _letters(letters: str) -> tuple[str, ...]:
    return tuple(f" {letter}" for letter in letters)


def _keyed(labels: str, texts: list[str], key: str) -> dict[str, Any]:
    return {"choices": {"label": list(labels), "text": texts}, "answerKey": key}


HUB_ROWS: dict[str, tuple[list[dict[str, Any]], Expected]] = {
    "commonsense_qa": (
        [
            {
                "id": "1",
                "question": "Where does a kettle stand?",
                "question_concept": "kettle",
                **_keyed("ABCDE", ["sky", "stove", "sea", "nest", "moon"], "B"),
            }
        ],
        [
            (
                "Question: Where does a kettle stand?\nA. sky\nB. stove\nC. sea\nD. nest\nE. moon\nAnswer:",
                " B",
                _letters("ABCDE"),
            )
        ],
    ),
    "openbookqa": (
        [
            {
                "id": "1",
                "question_stem": "Ice that is warmed will",
                **_keyed("ABCD", ["sing", "fly", "melt", "grow"], "C"),
            }
        ],
        [("Question: Ice that is warmed will\nA. sing\nB. fly\nC. melt\nD. grow\nAnswer:", " C", _letters("ABCD"))],
    ),
    "aqua_rat": (
        [
            {
                "question": "Three pens cost 6. What does one cost?",
                "options": ["A)1", "B)2", "C)3", "D)4", "E)5"],
                "rationale": "6 / 3 = 2\nAnswer B",
                "correct": "B",
            }
        ],
        [
            (
                "Question: Three pens cost 6. What does one cost?\nA)1\nB)2\nC)3\nD)4\nE)5\nAnswer:",
                " B",
                _letters("ABCDE"),
            )
        ],
    ),
    "gsm8k": (
        [{"question": "Two bags hold 4 each. How many?", "answer": "2 * 4 = <<2*4=8>>8\n#### 8"}],
        [("Question: Two bags hold 4 each. How many?\nAnswer:", " 2 * 4 = <<2*4=8>>8\n#### 8", ())],
    ),
    "sciq": (
        [
            {
                "question": "What do plants breathe out?",
                "distractor3": "gold",
                "distractor1": "iron",
                "distractor2": "salt",
                "correct_answer": "oxygen",
                "support": "",
            },
            {
                "question": "What pulls things down?",
                "distractor3": "light",
                "distractor1": "sound",
                "distractor2": "heat",
                "correct_answer": "gravity",
                "support": "It is a force.",
            },
        ],
        [
            (
                "Question: What do plants breathe out?\nA. oxygen\nB. gold\nC. salt\nD. iron\nAnswer:",
                " A",
                _letters("ABCD"),
            ),
            (
                "Question: What pulls things down?\nA. heat\nB. gravity\nC. light\nD. sound\nAnswer:",
                " B",
                _letters("ABCD"),
            ),
        ],
    ),
    "arc_easy": (
        [
            {"id": "1", "question": "Which is a star?", **_keyed("ABC", ["Sun", "Moon", "Mars"], "A")},
            {"id": "2", "question": "Which is hot?", **_keyed("1234", ["ice", "snow", "fire", "rain"], "3")},
            {"id": "3", "question": "Which eats?", **_keyed("ABCDE", ["rock", "cat", "sand", "air", "tin"], "B")},
        ],
        [
            ("Question: Which is a star?\nA. Sun\nB. Moon\nC. Mars\nAnswer:", " A", _letters("ABC")),
            ("Question: Which is hot?\nA. ice\nB. snow\nC. fire\nD. rain\nAnswer:", " C", _letters("ABCD")),
            ("Question: Which eats?\nA. rock\nB. cat\nC. sand\nD. air\nE. tin\nAnswer:", " B", _letters("ABCDE")),
        ],
    ),
    "hellaswag": (
        [
            {
                "ind": 1,
                "activity_label": "Cooking",
                "ctx_a": "A man breaks an egg.",
                "ctx_b": "he",
                "ctx": "A man breaks an egg. he",
                "endings": ["swims.", "sleeps.", "fries it.", "flies."],
                "source_id": "x~1",
                "split": "train",
                "split_type": "indomain",
                "label": "2",
            }
        ],
        [
            (
                "Context: A man breaks an egg. he\nChoose the best continuation:\n"
                "A. swims.\nB. sleeps.\nC. fries it.\nD. flies.\nAnswer:",
                " C",
                _letters("ABCD"),
            )
        ],
    ),
    "winogrande": (
        [{"sentence": "Ann paid Eve, since _ had sold the hat.", "option1": "Ann", "option2": "Eve", "answer": "2"}],
        [("Fill in the blank: Ann paid Eve, since _ had sold the hat.\nA. Ann\nB. Eve\nAnswer:", " B", _letters("AB"))],
    ),
    "boolq": (
        [
            {"question": "is snow cold", "answer": True, "passage": "Snow is frozen water."},
            {"question": "is fire cold", "answer": False, "passage": "Fire gives heat."},
        ],
        [
            ("Snow is frozen water.\nQuestion: is snow cold? (yes or no)\nAnswer:", " yes", (" yes", " no")),
            ("Fire gives heat.\nQuestion: is fire cold? (yes or no)\nAnswer:", " no", (" yes", " no")),
        ],
    ),
    "medmcqa": (
        [
            {
                "id": "1",
                "question": "Which is a bone?",
                "opa": "Liver",
                "opb": "Spleen",
                "opc": "Lung",
                "opd": "Femur",
                "cop": 3,
                "choice_type": "single",
                "exp": None,
                "subject_name": "Anatomy",
                "topic_name": None,
            }
        ],
        [("Question: Which is a bone?\nA. Liver\nB. Spleen\nC. Lung\nD. Femur\nAnswer:", " D", _letters("ABCD"))],
    ),
    "arc_challenge": (
        [{"id": "1", "question": "Which is a metal?", **_keyed("1234", ["tin", "wood", "glass", "wool"], "1")}],
        [("Question: Which is a metal?\nA. tin\nB. wood\nC. glass\nD. wool\nAnswer:", " A", _letters("ABCD"))],
    ),
    "piqa": (
        [{"goal": "Dry a shirt.", "sol1": "Hang it up.", "sol2": "Wet it.", "label": 0}],
        [("Goal: Dry a shirt.\nWhich solution is better?\nA. Hang it up.\nB. Wet it.\nAnswer:", " A", _letters("AB"))],
    ),
    "qasc": (
        [
            {
                "id": "1",
                "question": "What shines?",
                **_keyed("ABCDEFGH", ["mud", "fog", "soil", "coal", "dust", "rust", "wool", "lamps"], "H"),
                "fact1": "x",
                "fact2": "y",
                "combinedfact": "z",
                "formatted_question": "w",
            }
        ],
        [
            (
                "Question: What shines?\nA. mud\nB. fog\nC. soil\nD. coal\n"
                "E. dust\nF. rust\nG. wool\nH. lamps\nAnswer:",
                " H",
                _letters("ABCDEFGH"),
            )
        ],
    ),
    "quartz": (
        [
            {
                "id": "1",
                "question": "More sun makes it",
                **_keyed("AB", ["warmer", "colder"], "A"),
                "para": "The more sun, the more heat.",
                "para_id": "p",
            }
        ],
        [
            (
                "The more sun, the more heat.\nQuestion: More sun makes it\nA. warmer\nB. colder\nAnswer:",
                " A",
                _letters("AB"),
            )
        ],
    ),
    "race": (
        [
            {
                "example_id": "middle1.txt",
                "article": "Tom has a red bike.",
                "answer": "C",
                "question": "What colour is it?",
                "options": ["Blue", "Green", "Red", "White"],
            }
        ],
        [
            (
                "Tom has a red bike.\nQuestion: What colour is it?\nA. Blue\nB. Green\nC. Red\nD. White\nAnswer:",
                " C",
                _letters("ABCD"),
            )
        ],
    ),
}
