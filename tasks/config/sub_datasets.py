"""Base class and common types of sections, and the section of one sub-dataset: source, splits, and template."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(min_length=1)]


class Settings(BaseModel):
    """Base class for configuration sections: frozen, unknown keys and infinite numbers forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def is_changed(self, field: str) -> bool:
        """Return whether a value differs from its default, given or not: a resolved configuration gives every field."""
        return bool(getattr(self, field) != type(self).model_fields[field].default)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first pydantic model named in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := model_in(part)) is not None), None)


class Carve(Settings):
    """A split taken out of the training rows, by seed."""

    carve: int = Field(ge=1, description="Rows to take out of train.")


class SplitsConfig(Settings):
    """Names or files of the splits."""

    train: Text = Field("train", description="Split or file to train on.")
    validation: Text | Carve = Field("validation", description="Split or file that decisions rest on.")
    test: Text | Carve | None = Field(
        "test", description="Split or file that scores the champion, once. null: there is none."
    )


class MaxRows(Settings):
    """Most rows of each split; of a larger split a sample is drawn by seed."""

    train: int | None = Field(None, ge=1, description="null: all.")
    validation: int | None = Field(None, ge=1, description="null: all.")
    test: int | None = Field(None, ge=1, description="null: all.")


class OptionsConfig(Settings):
    """Options of a question. `{options}` becomes the lines `A. …`; `{letter}` and `{option}` are the right one's."""

    texts: Text | tuple[str, ...] = Field(
        description="Column with the options, such as `choices[text]`, or a format string per option."
    )
    right: Text = Field(description="Format string of the right option's label.")
    labels: Text | tuple[str, ...] | None = Field(
        None,
        description="Names by which `right` picks an option: a column, or a text for each of the most options that a "
        "row has. null: A, B, C …",
    )
    shuffle: bool = Field(False, description="Shuffle the options, for data in which the right one always comes first.")


class TemplateConfig(Settings):
    """Python format strings over the columns of a row: `{question}` is the column `question`."""

    prompt: str = Field(description="Text before the completion; has no loss.")
    completion: str = Field(description="Text that is learned.")
    choices: str | tuple[str, ...] | None = Field(
        None, description="Column with the choices, or a format string per choice."
    )
    answer: str | None = Field(None, description="Format string of the answer that a generation is compared with.")
    options: OptionsConfig | None = Field(
        None, description="Letters for the options of a question; gives one choice per option."
    )

    @model_validator(mode="after")
    def _can_be_filled_and_takes_effect(self) -> TemplateConfig:
        lists = [self.choices]
        texts = [self.prompt, self.completion, self.answer or ""]
        if self.options is not None:
            lists += [self.options.texts, self.options.labels]
            texts.append(self.options.right)
        for text in (*texts, *(text for one in lists if isinstance(one, tuple) for text in one)):
            if any(column == "" or column[0].isdigit() for column in _columns_of(text)):
                raise ValueError(f"got {text!r:.80}; expected a column's name in each pair of braces")
        if not _columns_of(self.completion):
            raise ValueError(f"got completion {self.completion!r:.80}; expected the name of a column, as in {{answer}}")
        if self.options is not None and self.choices is not None:
            raise ValueError("choices takes no effect beside options, which give them; leave it out")
        if self.options is not None and not {"letter", "option"} & set(_columns_of(self.completion)):
            raise ValueError(
                f"got completion {self.completion!r:.80}; expected {{letter}} or {{option}} in it, beside options"
            )
        return self


class SyntheticConfig(Settings):
    """Generated rows of one of the quickstart's skills, by seed."""

    skill: Text = Field(description="Name of the skill; `tasks/data/synthetic.py` has them.")
    unique_rows: int = Field(300, ge=1, description="Different rows in train.")
    repeats: int = Field(1, ge=1, description="Copies of each unique row in train.")
    wrong_labels: float = Field(0.0, ge=0, le=1, description="Share of unique train rows with a wrong answer.")
    validation_rows: int = Field(200, ge=1, description="Rows in validation.")
    test_rows: int = Field(500, ge=1, description="Rows in test.")


class SubDatasetConfig(Settings):
    """One member of the mixture: exactly one of `path`, `hub` and `synthetic`."""

    name: Name = Field(description="Name in tables, metrics and `--set`.")
    path: Text | None = Field(
        None, description="A folder of split files or shards, or one file: JSONL, JSON, CSV, TSV, Parquet; .gz, .zst."
    )
    hub: Text | None = Field(None, description="A dataset id on the Hugging Face Hub.")
    hub_config: str | None = Field(None, description="Configuration of the hub's dataset.")
    revision: str | None = Field(None, description="Branch, tag or commit of the hub's dataset.")
    synthetic: SyntheticConfig | None = Field(None, description="Generated rows.")
    splits: SplitsConfig = SplitsConfig()
    max_rows: MaxRows = MaxRows()
    template: TemplateConfig | None = Field(
        None, description="null: rows have prompt and completion, messages, or another form that `msft init` knows."
    )
    metric: Literal["auto", "multiple_choice", "multiple_choice_normalized", "exact_match", "numeric", "loss"] = Field(
        "auto",
        description="auto: multiple_choice for rows with choices, numeric for completions with `####`, "
        "otherwise exact_match. multiple_choice_normalized: log-likelihoods of choices divided by their characters "
        "(without outer white space), as acc_norm of lm-evaluation-harness.",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="Limit of greedy generation. null: 7 more than the split's longest completion with its end.",
    )

    @model_validator(mode="after")
    def _settings_take_effect(self) -> SubDatasetConfig:
        origins = [key for key in ("path", "hub", "synthetic") if getattr(self, key) is not None]
        if len(origins) != 1:
            raise ValueError(f"give exactly one of path, hub and synthetic; got {origins or 'none'}")
        for key in ("hub_config", "revision"):
            if getattr(self, key) is not None and self.hub is None:
                raise ValueError(f"{key} takes effect only with hub")
        if self.synthetic is not None and self.template is not None:
            raise ValueError("template takes no effect with synthetic, whose rows are texts already")
        renamed = [key for key, name in self.splits if isinstance(name, str) and name != key]
        if self.synthetic is not None and renamed:
            raise ValueError(f"splits.{renamed[0]} takes no effect with synthetic; set its numbers of rows instead")
        if self.splits.test is None and self.max_rows.test is not None:
            raise ValueError("max_rows.test takes no effect where splits.test is null")
        if self.max_new_tokens is not None and self.metric in ("multiple_choice", "multiple_choice_normalized", "loss"):
            raise ValueError(f"max_new_tokens takes no effect with metric={self.metric}; nothing is generated")
        return self


def _columns_of(template: str) -> list[str]:
    """Return the column names of a format string, those inside a format too; raise ValueError if it is none."""
    try:
        parts = [(name, form) for _, name, form, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"got {template!r:.80}: {error}; write a brace that is text twice") from None
    return [name for name, _ in parts] + [name for _, form in parts if form for name in _columns_of(form)]
