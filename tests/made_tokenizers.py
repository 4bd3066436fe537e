"""Small tokenizers of each kind, with the marks of the chat templates in `chat_templates/`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tasks.data import chat_template

_FOLDERS = (Path(__file__).with_name("chat_templates"), Path(chat_template.__file__).with_name("chat_templates"))
TEMPLATES = {file.stem: file.read_text() for folder in _FOLDERS for file in sorted(folder.iterdir())}
# Each is one token, wherever a template names it.
_MARK = re.compile(r"<[|｜]\w+[|｜]>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]|</?(?:think|tool_call|tool_response)>")
_MARKS = sorted({mark for template in TEMPLATES.values() for mark in _MARK.findall(template)})
_TEXT = (
    "User: What is the capital of France? Assistant: Paris is the capital. The answer is 12, not 1.\n\n"
    "<|im_start|>assistant\nHello, world! It's 3.5 km away.\n- one\n- two\n\n\n  indented  twice\n"
)
# As in the tokenizers of Llama 3 and Qwen: line ends are taken up by what stands before them.
_SPLIT = Regex(r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def _byte_level(split: Any, *, trim_offsets: bool) -> Tokenizer:
    core = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    core.pre_tokenizer = byte_level if split is None else pre_tokenizers.Sequence([split, byte_level])
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return core


def _sentencepiece(scheme: str) -> Tokenizer:
    core = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if scheme != "never" else [])
    )
    return core


def _llama_2() -> Tokenizer:
    """As SentencePiece's models were converted first: the normalizer gives the prefix to each piece of text."""
    core = _sentencepiece("never")
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = None
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return core


def _unigram() -> Tokenizer:
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return core


def _wordpiece() -> Tokenizer:
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(cleanup=False)
    return core


_CORES = {
    "byte-level GPT-2": lambda: _byte_level(None, trim_offsets=True),
    "byte-level Llama 3": lambda: _byte_level(pre_tokenizers.Split(_SPLIT, "isolated"), trim_offsets=False),
    "SentencePiece prefix first": lambda: _sentencepiece("first"),
    "SentencePiece prefix always": lambda: _sentencepiece("always"),
    "SentencePiece no prefix": lambda: _sentencepiece("never"),
    "SentencePiece of Llama 2": _llama_2,
    "Unigram": _unigram,
    "WordPiece": _wordpiece,
}
KINDS = tuple(_CORES)


def _trainer(kind: str) -> Any:
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind.startswith("byte") else list(map(chr, range(33, 127)))
    special = ["<unk>", "<s>", "</s>"]
    if kind.startswith("Sentence"):
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    if kind == "Unigram":
        return trainers.UnigramTrainer(
            vocab_size=900, special_tokens=special, unk_token="<unk>", initial_alphabet=alphabet, show_progress=False
        )
    trainer = trainers.WordPieceTrainer if kind == "WordPiece" else trainers.BpeTrainer
    return trainer(vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False)


@cache
def _trained(kind: str) -> str:
    core = _CORES[kind]()
    core.train_from_iterator([_TEXT] * 4, _trainer(kind))
    # As in Qwen3, the marks of thoughts and calls are tokens that are part of the text.
    core.add_tokens([AddedToken(m, special="th" not in m and "tool_" not in m, normalized=False) for m in _MARKS])
    text: str = core.to_str()
    return text


def make_tokenizer(kind: str, template: str | None = None, *, framed: str = "") -> Any:
    """Return a tokenizer of a kind; `framed` is the pattern of its post-processor, such as `<s> $A </s>`."""
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer.from_str(_trained(kind))
    if framed:
        core.post_processor = processors.TemplateProcessing(single=framed, special_tokens=[("<s>", 1), ("</s>", 2)])
    unknown = {} if kind.startswith("byte") else {"unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", **unknown)
    tokenizer.chat_template = TEMPLATES.get(template, template) if template is not None else None
    return tokenizer
