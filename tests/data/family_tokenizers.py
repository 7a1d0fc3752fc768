"""Small tokenizers with the special tokens and the chat template of a model family."""

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from gainrl_ray.data.arithmetic import generate

LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [p.question for p in generate("train", 60)] + [
    "What is it?\nuser assistant system [INST] a [/INST]\n\n?\n?\n A conversation between User and Assistant. $x$"
] * 20

CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PHI = ["<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TURNS = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
R1 = [
    f"<\uff5c{name}\uff5c>"  # wide bars
    for name in ("begin▁of▁sentence", "end▁of▁sentence", "User", "Assistant")
]
INST = ["<s>", "</s>", "[INST]", "[/INST]"]
# By the template's file: special tokens, that which begins a text and that which ends it.
FAMILIES: dict[str, tuple[list[str], str | None, str]] = {
    "command-r": (
        [
            *("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            *("<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        ],
        "<BOS_TOKEN>",
        "<|END_OF_TURN_TOKEN|>",
    ),
    "gemma2": (TURNS, "<bos>", "<eos>"),
    "gemma3": (TURNS, "<bos>", "<eos>"),
    "granite3.3": (["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"], None, "<|end_of_text|>"),
    "llama3.2": (
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|>",
        "<|eot_id|>",
    ),
    "mistral-nemo": (INST, "<s>", "</s>"),
    "mistral-v0.1": (INST, "<s>", "</s>"),
    "olmo2": (["<|endoftext|>"], "<|endoftext|>", "<|endoftext|>"),
    "phi3": (PHI, None, "<|end|>"),
    "phi3.5": (PHI, None, "<|end|>"),
    "qwen2.5": (CHATML, None, "<|im_end|>"),
    "qwen3": (CHATML, None, "<|im_end|>"),
    "r1-distill": (R1, R1[0], R1[1]),
    "smollm2": (CHATML, None, "<|im_end|>"),
}


def template(family: str) -> str:
    """The text of the family's chat template."""
    return (Path(__file__).parent / "templates" / f"{family}.jinja").read_text()


def family_tokenizer(family: str) -> Any:
    """A byte-level tokenizer that begins texts with the family's first token, as the model's own does."""
    special, bos, eos = FAMILIES[family]
    names = {"bos_token": bos} if bos else {}
    tokenizer = wrapped(byte_level(), template(family), special, eos_token=eos, pad_token=eos, **names)
    if bos:
        begins = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))]
        )
        raw = tokenizer.backend_tokenizer
        raw.post_processor = processors.Sequence([raw.post_processor, begins])
    return tokenizer


def wrapped(raw: Tokenizer, template: str | None, special: list[str], **names: str) -> PreTrainedTokenizerFast:
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    tokenizer.chat_template = template
    return tokenizer


def byte_level(vocabulary: int = 400) -> Tokenizer:
    """A byte-level BPE with Llama 3's splitting, and its offsets without the space before a word."""
    return Tokenizer.from_str(_byte_level(vocabulary))


@cache
def _byte_level(vocabulary: int) -> str:
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    )
    return raw.to_str()


def metaspace() -> Tokenizer:
    """A BPE that writes a space as the first character of the word after it, and knows few characters."""
    raw = Tokenizer(BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    raw.decoder = decoders.Metaspace(prepend_scheme="never")
    raw.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False))
    return raw
