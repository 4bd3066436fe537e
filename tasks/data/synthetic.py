"""Generate the quickstart's rows from a seed, and build its character tokenizer."""

from __future__ import annotations

import difflib
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING

from tasks.config.sub_datasets import SyntheticConfig
from tasks.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPLITS = ("validation", "test", "train")  # the order in which they are cut from the pool
CHARACTERS = string.ascii_letters + string.digits + " \n" + "!\"#%&'()*+,-./:;<=>?[]_|"
MODEL_MAX_LENGTH = 128
PREFIX = " => "  # precedes the answer of each sub-dataset; never part of the base's text
MOST_REPEATS = 1000  # consecutive draws without a new prompt after which a skill counts as exhausted

ROMAN = tuple(
    zip(
        (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1),
        ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"),
        strict=True,
    )
)


@dataclass(frozen=True)
class Exercise:
    """The values of a prompt, its answer, and a plausible wrong answer, which never equals it."""

    given: tuple[object, ...]
    right: str
    wrong: str


@dataclass(frozen=True)
class Form:
    """A surface format of a skill: `prompt` is a format string over the exercise's `given`."""

    draw: Callable[[Random], Exercise]
    prompt: str
    prefix: str = PREFIX


def _word(rng: Random, alphabet: str, shortest: int, longest: int) -> str:
    return "".join(rng.choices(alphabet, k=rng.randint(shortest, longest)))


def _extreme(rng: Random, pick: Callable[[list[int]], int], separator: str = " ") -> Exercise:
    digits = [rng.randint(0, 9) for _ in range(rng.randint(4, 7))]
    right = pick(digits)
    others = sorted(set(digits) - {right})
    wrong = rng.choice(others or [(right + 1) % 10])
    return Exercise((separator.join(map(str, digits)),), str(right), str(wrong))


def _largest(rng: Random) -> Exercise:
    return _extreme(rng, max)


def _largest_by_comma(rng: Random) -> Exercise:
    return _extreme(rng, max, ",")


def _smallest(rng: Random) -> Exercise:
    return _extreme(rng, min)


def _smallest_by_comma(rng: Random) -> Exercise:
    return _extreme(rng, min, ",")


def _count(rng: Random) -> Exercise:
    count = rng.randint(0, 4)
    letters = ["e"] * count + rng.choices(string.ascii_lowercase.replace("e", ""), k=rng.randint(5, 7) - count)
    rng.shuffle(letters)
    wrong = count + 1 if count == 0 else count + rng.choice((-1, 1))
    return Exercise(("e", "".join(letters)), str(count), str(wrong))


def _compare(rng: Random) -> Exercise:
    left, right = rng.sample(range(10, 100), 2)
    signs = ("more", "less") if left > right else ("less", "more")
    return Exercise((left, right), *signs)


def _shifted(word: str, by: int) -> str:
    letters = string.ascii_lowercase
    return word.translate(str.maketrans(letters, letters[by:] + letters[:by]))


def _shift(rng: Random) -> Exercise:
    word = _word(rng, string.ascii_lowercase, 3, 6)
    return Exercise((word,), _shifted(word, 1), _shifted(word, 2))


def _roman_numeral(number: int) -> str:
    text = ""
    for value, sign in ROMAN:
        text += sign * (number // value)
        number %= value
    return text


def _to_roman(rng: Random) -> Exercise:
    number = rng.randint(1000, 2999)
    return Exercise((number,), _roman_numeral(number), _roman_numeral(number + 1))


def _reverse(rng: Random) -> Exercise:
    word = _word(rng, string.ascii_lowercase, 3, 6)
    return Exercise((word,), word[::-1], word[:0:-1])


def _sort(rng: Random) -> Exercise:
    digits = rng.sample(string.digits, rng.randint(3, 4))
    return Exercise((" ".join(digits),), " ".join(sorted(digits)), " ".join(sorted(digits, reverse=True)))


def _copy(rng: Random) -> Exercise:
    word = _word(rng, string.ascii_letters, 3, 8)
    return Exercise((word,), word, word[1:])


_BASE = (
    Form(_largest, "max {} =>", " "),
    Form(_smallest, "min {} =>", " "),
    Form(_count, "cnt {} {} =>", " "),
    Form(_compare, "cmp {} {} =>", " "),
    Form(_shift, "shift {} =>", " "),
    Form(_to_roman, "roman {} =>", " "),
    Form(_reverse, "rev {} =>", " "),
    Form(_sort, "sort {} =>", " "),
    Form(_copy, "copy {} =>", " "),
)

SKILLS: Mapping[str, tuple[Form, ...]] = MappingProxyType(
    {
        "max": (Form(_largest, "max {}?"),),
        "cnt": (Form(_count, "cnt {} {}?"),),
        "cmp": (Form(_compare, "cmp {} {}?"),),
        "max2": (Form(_largest_by_comma, "[{}].max"),),
        "cnt2": (Form(_count, "#{} | {}"),),
        "cmp2": (Form(_compare, "{} : {}"),),
        "caes": (Form(_shift, "next {}?"),),
        "roman": (Form(_to_roman, "roman {}?"),),
        # Used in `held_out.yaml` only: choices made on the skills above are checked on these.
        "min": (Form(_smallest, "min {}?"),),
        "sort": (Form(_sort, "sort {}?"),),
        "rev": (Form(_reverse, "rev {}?"),),
        "min2": (Form(_smallest_by_comma, "[{}].min"),),
        "sort2": (Form(_sort, "{} in order"),),
        "rev2": (Form(_reverse, "{} | backwards"),),
        "copy": (Form(_copy, "copy {}?"),),
        "roman2": (Form(_to_roman, "{} as roman"),),
        # Used in `held_out2.yaml` and `held_out3.yaml` only, for the same reason.
        "max3": (Form(_largest, "top of {}"),),
        "cnt3": (Form(_count, "how many {} in {}"),),
        "caes3": (Form(_shift, "{} + 1"),),
        "roman3": (Form(_to_roman, "write {}"),),
        "copy3": (Form(_copy, "{} again"),),
        "max4": (Form(_largest_by_comma, "of {} the most"),),
        "cnt4": (Form(_count, "{} within {}"),),
        "caes4": (Form(_shift, "after {}"),),
        "roman4": (Form(_to_roman, "{} in Rome"),),
        "copy4": (Form(_copy, "say {}"),),
        "base": _BASE,
    }
)


def synthetic_rows(settings: SyntheticConfig, split: str, seed: int) -> list[dict[str, str]]:
    """Return the rows of one split, each with `prompt`, `completion` and `answer`.

    One pool of unique prompts is drawn and cut into validation, test and train, in this order. So no prompt is in two
    splits, and the number of train rows does not change validation and test. Only train has wrong labels and repeats.

    Args:
        split: train, validation or test.
    Raises:
        DataError: the skill or the split is unknown, or the skill has too few unique prompts.
    """
    if settings.skill not in SKILLS:
        raise _unknown(settings.skill, "synthetic.skill", settings.skill, tuple(SKILLS))
    if split not in SPLITS:
        raise _unknown(settings.skill, "splits", split, SPLITS)
    first_train = settings.validation_rows + settings.test_rows
    cuts = {
        "validation": (0, settings.validation_rows),
        "test": (settings.validation_rows, first_train),
        "train": (first_train, first_train + settings.unique_rows),
    }
    start, end = cuts[split]
    pool = _draw_pool(settings.skill, first_train + settings.unique_rows, seed)[start:end]
    if split != "train":
        return [_row(form, exercise, exercise.right) for form, exercise in pool]
    num_wrong = round(settings.wrong_labels * len(pool))
    wrong = set(Random(f"labels/{seed}/{settings.skill}").sample(range(len(pool)), num_wrong))
    rows = [
        _row(form, exercise, exercise.wrong if index in wrong else exercise.right)
        for index, (form, exercise) in enumerate(pool)
    ]
    return [dict(row) for _ in range(settings.repeats) for row in rows]


def _draw_pool(skill: str, num_rows: int, seed: int) -> list[tuple[Form, Exercise]]:
    """Draw `num_rows` exercises with unique prompts; a longer pool begins with every shorter one."""
    rng = Random(f"rows/{seed}/{skill}")
    pool: dict[str, tuple[Form, Exercise]] = {}
    repeats = 0
    while len(pool) < num_rows and repeats < MOST_REPEATS:
        form = rng.choice(SKILLS[skill])
        exercise = form.draw(rng)
        prompt = form.prompt.format(*exercise.given)
        repeats = repeats + 1 if prompt in pool else 0
        pool.setdefault(prompt, (form, exercise))
    if len(pool) == num_rows:
        return list(pool.values())
    raise DataError(
        skill,
        "synthetic",
        got=f"{len(pool)} unique prompts, and no new one in {MOST_REPEATS} draws",
        expected=f"{num_rows} (unique_rows + validation_rows + test_rows), no prompt twice",
        fix="lower synthetic.unique_rows (repeats makes up the size), validation_rows or test_rows",
    )


def _row(form: Form, exercise: Exercise, answer: str) -> dict[str, str]:
    prompt = form.prompt.format(*exercise.given)
    return {"prompt": prompt, "completion": form.prefix + answer, "answer": answer}


def _unknown(skill: str, where: str, got: str, known: tuple[str, ...]) -> DataError:
    near = difflib.get_close_matches(got, known, n=1)
    fix = f"write {near[0]}" if near else f"write one of these instead of {got!r}"
    return DataError(skill, where, got=repr(got), expected=f"one of {', '.join(known)}", fix=fix)


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Build the quickstart's tokenizer: one token per character, no added tokens, `<unk>` for other characters."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ("<pad>", "<eos>", "<unk>", *CHARACTERS)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=MODEL_MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
