"""The configuration of one sub-dataset: where its rows lie, its splits, and how columns become text."""

from __future__ import annotations

from string import Formatter
from typing import Literal

from pydantic import Field, model_validator

from tasks.config.section import Name, Settings, Text


class Carve(Settings):
    """Take a split out of the training rows, by seed."""

    carve: int = Field(ge=1, description="Rows to take out of train.")


class SplitsConfig(Settings):
    """Names (or files) of the splits, or how to carve them; `test: null` means there is none."""

    train: Text = "train"
    validation: Text | Carve = "validation"
    test: Text | Carve | None = "test"


class MaxRows(Settings):
    """Upper limits; a seeded sample is taken where a split has more."""

    train: int | None = Field(None, ge=1)
    validation: int | None = Field(None, ge=1)
    test: int | None = Field(None, ge=1)


class OptionsConfig(Settings):
    """A question's options: `{options}` is then the lines `A. …`; `{letter}` and `{option}` are the right one's."""

    texts: Text | tuple[str, ...] = Field(
        description="The column that holds the options, as `choices[text]`, or a format string for each option."
    )
    right: Text = Field(description="Format string of the right option's label.")
    labels: Text | tuple[str, ...] | None = Field(
        None, description="What `right` calls the options: a column or a text each; None: A, B, C …"
    )
    shuffle: bool = Field(
        False, description="Draw the options' order; for columns in which the right one always stands first."
    )


class TemplateConfig(Settings):
    """Columns to text: Python format strings over a row's columns; `{question}` is the column `question`."""

    prompt: str
    completion: str
    choices: str | tuple[str, ...] | None = Field(
        None, description="The column that holds the choices, or a format string for each choice."
    )
    answer: str | None = Field(None, description="Format string of the answer that is compared.")
    options: OptionsConfig | None = Field(
        None, description="Letters for a question's options; the choices are then one completion an option."
    )

    @model_validator(mode="after")
    def _can_be_filled(self) -> TemplateConfig:
        lists = [self.choices]
        texts = [self.prompt, self.completion, self.answer or ""]
        if self.options is not None:
            lists += [self.options.texts, self.options.labels]
            texts.append(self.options.right)
        for text in (*texts, *(text for texts in lists if isinstance(texts, tuple) for text in texts)):
            if any(column == "" or column[0].isdigit() for column in _columns_of(text)):
                raise ValueError(f"wanted a column's name in each pair of braces; got {text!r:.80}")
        if not _columns_of(self.completion):
            raise ValueError(f"completion names no column, as {{answer}} would; got {self.completion!r:.80}")
        return self

    @model_validator(mode="after")
    def _options_take_effect(self) -> TemplateConfig:
        if self.options is not None and self.choices is not None:
            raise ValueError("choices takes no effect beside options, which give them; leave it out")
        if self.options is not None and not {"letter", "option"} & set(_columns_of(self.completion)):
            raise ValueError(
                f"options need a completion that names {{letter}} or {{option}}; got {self.completion!r:.80}"
            )
        return self


class SyntheticConfig(Settings):
    """Rows of one of the quickstart's skills, generated from the seed."""

    skill: Text
    unique_rows: int = Field(300, ge=1)
    repeats: int = Field(1, ge=1, description="How often each unique row stands in train.")
    wrong_labels: float = Field(
        0.0, ge=0, le=1, description="Share of unique train rows with a wrong answer."
    )
    validation_rows: int = Field(200, ge=1)
    test_rows: int = Field(500, ge=1)


class SubDatasetConfig(Settings):
    """One member of the mixture: exactly one of `path`, `hub` and `synthetic`."""

    name: Name
    path: Text | None = Field(
        None, description="A folder of split files, or one file (JSONL, JSON, CSV, Parquet)."
    )
    hub: Text | None = Field(None, description="A dataset id on the hub.")
    hub_config: str | None = None
    revision: str | None = None
    synthetic: SyntheticConfig | None = None
    splits: SplitsConfig = SplitsConfig()
    max_rows: MaxRows = MaxRows()
    template: TemplateConfig | None = None
    metric: Literal["auto", "multiple_choice", "exact_match", "numeric", "loss"] = Field(
        "auto",
        description="auto: multiple_choice where rows have choices, numeric where completions hold `####`, "
        "else exact_match.",
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="Limit of greedy generation; None: the longest validation completion plus 8."
    )

    @model_validator(mode="after")
    def _has_one_origin(self) -> SubDatasetConfig:
        origins = [key for key in ("path", "hub", "synthetic") if getattr(self, key) is not None]
        if len(origins) != 1:
            raise ValueError(f"give exactly one of path, hub and synthetic; got {origins or 'none'}")
        for key in ("hub_config", "revision"):
            if getattr(self, key) is not None and self.hub is None:
                raise ValueError(f"{key} takes effect only with hub")
        return self

    @model_validator(mode="after")
    def _options_take_effect(self) -> SubDatasetConfig:
        if self.synthetic is not None and self.template is not None:
            raise ValueError("template takes no effect with synthetic, whose rows are texts already")
        named = {key: name for key, name in self.splits if isinstance(name, str)}
        renamed = [key for key, name in named.items() if name != key]
        if self.synthetic is not None and renamed:
            raise ValueError(
                f"splits.{renamed[0]} takes no effect with synthetic; set its numbers of rows instead"
            )
        if self.splits.test is None and self.max_rows.test is not None:
            raise ValueError("max_rows.test takes no effect where splits.test is null")
        if self.max_new_tokens is not None and self.metric in ("multiple_choice", "loss"):
            raise ValueError(
                f"max_new_tokens takes no effect with metric={self.metric}; nothing is generated"
            )
        return self


def _columns_of(template: str) -> list[str]:
    """Return what stands in the braces of a format string, and in those inside a format.

    Raises:
        ValueError: it is no format string.
    """
    try:
        parts = [(name, form) for _, name, form, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"{error}; a brace that is text is written twice; got {template!r:.80}") from None
    return [name for name, _ in parts] + [name for _, form in parts if form for name in _columns_of(form)]
