"""The built-in model's tokenizer: a byte-level BPE of Qwen2's form, trained on the built-in problems."""

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

END_OF_TEXT = "<|endoftext|>"
MESSAGE_START = "<|im_start|>"
MESSAGE_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, MESSAGE_START, MESSAGE_END)
LARGEST_VOCABULARY = 1024  # with the special tokens; fewer when the texts have no more merges to offer

# Qwen2.5's ChatML without tools and without a default system prompt.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def train_tokenizer(texts: Iterable[str], max_length: int) -> Qwen2Tokenizer:
    """A Qwen2 tokenizer: every byte, merges learned from `texts`, the ChatML tokens last; LARGEST_VOCABULARY at most.

    The pre-tokenizer is Qwen2's (each digit alone, spaces glued to the word after) and so is the NFC normalisation,
    since transformers and vLLM put Qwen2's own in place of any other when they load a tokenizer beside a Qwen2 model.
    """
    raw = Tokenizer(BPE())
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LARGEST_VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    return _as_qwen2(raw, max_length)


def _as_qwen2(raw: Tokenizer, max_length: int) -> Qwen2Tokenizer:
    """The trained vocabulary and merges in the class that AutoTokenizer picks for a Qwen2 model."""
    model = json.loads(raw.to_str())["model"]
    vocabulary = dict(model["vocab"])
    for token in SPECIAL_TOKENS:  # ids given here, since the class adds its own special tokens in another order
        vocabulary[token] = len(vocabulary)
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[tuple(merge) for merge in model["merges"]],  # pyright: ignore[reportArgumentType]
        eos_token=MESSAGE_END,
        pad_token=END_OF_TEXT,
        unk_token=None,  # pyright: ignore[reportArgumentType]
        model_max_length=max_length,
    )
    added = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    tokenizer.add_tokens(added)  # pyright: ignore[reportArgumentType]
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
