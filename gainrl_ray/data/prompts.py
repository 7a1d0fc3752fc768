"""Problems to prompts: the chat template of the tokenizer, and where in its tokens the question stands."""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gainrl_ray.config import PromptConfig
from gainrl_ray.data.chat_template import ChatTemplate
from gainrl_ray.data.vocabulary import rowless_tokens
from gainrl_ray.errors import DataError
from gainrl_ray.types import Problem, Prompt, Span

# First characters that tokenizers merge differently with what stands before them.
_PROBES = ("What is 2?", "7 apples", "$x$", "\\frac12", "(a)", '"a"', "a", "Ünder", "数", "-1", ".5", "_", "<b>", "π")


@dataclass(frozen=True, slots=True)
class RefusedPrompt:
    """Why a problem has no prompt: `reason` is one of few words for counting, `detail` a sentence."""

    reason: str
    detail: str


class PromptBuilder:
    """Prompts of problems under one tokenizer and one PromptConfig; the same in scoring, training and evaluation.

    A prompt is [system prompt,] [example exchange,] question + instruction, and the opening of the answer, as the
    chat template writes them. Its spans partition it:

    - prefix: `prefix_ids`, the same tokens in every prompt; of a problem with turns before its question, all up to it;
    - question: the tokens after it up to the last one with a character of the question, so that a token across
      the question's border counts to the question;
    - suffix: the rest, the instruction included.
    """

    def __init__(self, tokenizer: Any, config: PromptConfig) -> None:
        """Locate the question in the template.

        Args:
            tokenizer: a transformers tokenizer that maps tokens to characters (a "fast" one).

        Raises:
            DataError: a tokenizer without characters, or as ChatTemplate.
        """
        self._tokenizer, self._config = tokenizer, config
        if not getattr(tokenizer, "is_fast", False):
            raise DataError(
                f"the tokenizer {type(tokenizer).__name__} does not map tokens to characters, so the question's span "
                "cannot be found: use a model folder with a tokenizer.json"
            )
        self._template = ChatTemplate(tokenizer, config)
        self._prefix_text, self._suffix_text = self._template.before, self._template.after
        self._special = {
            token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        self.prefix_ids = self._shared_prefix()
        if rowless := rowless_tokens(tokenizer, self.prefix_ids):
            raise DataError(
                f"the prompt's text before the question holds {rowless[0]!r}, for which the model has no row: its "
                "tokenizer has more tokens than its embedding; use another chat template or system prompt"
            )

    def build(self, problem: Problem) -> Prompt:
        """The prompt of one problem.

        Raises:
            DataError: it is longer than `max_tokens`, holds a special token, or does not fit the template.
        """
        built = self.build_all([problem])[0]
        if isinstance(built, RefusedPrompt):
            raise DataError(f"problem {problem.id!r}: {built.detail}")
        return built

    def build_all(self, problems: Sequence[Problem]) -> list[Prompt | RefusedPrompt]:
        """The prompt of each problem, or why there is none; tokenised together, which is several times faster."""
        if not problems:
            return []
        refused = {turns: self._refused(turns) for turns in {problem.turns for problem in problems} if turns}
        usable = [problem for problem in problems if not refused.get(problem.turns)]
        texts = self._template.render([(problem.turns, problem.question) for problem in usable]) if usable else []
        encoded = self._encode(texts) if usable else ([], [])
        built = iter([self._prompt(*item) for item in zip(usable, texts, *encoded, strict=True)])
        return [refused.get(problem.turns) or next(built) for problem in problems]

    def continuations(self, before: str, texts: Sequence[str]) -> list[tuple[tuple[int, ...], int]]:
        """Of `before` + each text: the token ids after a prompt, and how many of them, the last, hold the text.

        A token across the border counts to the text. Tokens after the prompt do not merge with its own.
        """
        if not texts:
            return []
        encoded = zip(*self._encode([before + text for text in texts]), strict=True)
        return [(tuple(ids), sum(stop > len(before) for _, stop in offsets)) for ids, offsets in encoded]

    @cached_property
    def tokenizer_digest(self) -> str:
        """Hex sha256 of the tokenizer: vocabulary, merges, normalisation, added tokens."""
        state = json.loads(self._tokenizer.backend_tokenizer.to_str())
        for mutable in ("truncation", "padding"):  # set by the last call, not part of the tokenizer
            state.pop(mutable, None)
        return _digest(state)

    @cached_property
    def template_digest(self) -> str:
        """Hex sha256 of all that surrounds a question: template, system prompt, example, instruction."""
        # A template and its arguments are there as its text and as what it writes.
        config = self._config.model_dump(mode="json", exclude={"max_tokens", "template", "template_arguments"})
        return _digest([self._template.text, config, self._prefix_text, self._suffix_text])

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of all that a prompt depends on, `max_tokens` included."""
        return _digest([self.tokenizer_digest, self.template_digest, self._config.max_tokens])

    def _refused(self, turns: str) -> RefusedPrompt | None:
        """Why there is no prompt with these turns before the question; None where there is."""
        try:
            self._template.borders(turns)
        except DataError as error:
            return RefusedPrompt("turns refused by the template", str(error))
        special = next((content for content in self._special.values() if content in turns), None)
        detail = f"a turn before the question contains the special token {special!r}"
        return RefusedPrompt("special token", detail) if special else None

    def _shared_prefix(self) -> tuple[int, ...]:
        """The tokens before the question that no question changes."""
        texts = [self._prefix_text + probe + self._suffix_text for probe in _PROBES]
        shared: list[int] | None = None
        for ids, offsets in zip(*self._encode(texts), strict=True):
            before = [i for i, (_, stop) in zip(ids, offsets, strict=True) if stop <= len(self._prefix_text)]
            shared = before if shared is None else _common_start(shared, before)
        return tuple(shared or ())

    def _encode(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
        """Token ids and character ranges of each text."""
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=False,  # the template has written them
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return encoded["input_ids"], encoded["offset_mapping"]

    def _prompt(
        self, problem: Problem, text: str, ids: list[int], offsets: list[tuple[int, int]]
    ) -> Prompt | RefusedPrompt:
        before, after = self._template.borders(problem.turns)
        start = len(self.prefix_ids)
        if problem.turns:
            start = next((place for place, (_, stop) in enumerate(offsets) if stop > len(before)), len(ids))
        if text != before + problem.question + after:
            return RefusedPrompt("changed by the template", "the chat template does not copy the question unchanged")
        if not problem.turns and tuple(ids[:start]) != self.prefix_ids:
            return RefusedPrompt("changes the prefix", "the question changes the tokens of the shared prefix before it")
        stop = bisect_left(offsets, len(before) + len(problem.question), lo=start, key=lambda pair: pair[0])
        if rowless := rowless_tokens(self._tokenizer, ids):
            return RefusedPrompt("token unknown to the model", f"the model has no row for the token {rowless[0]!r}")
        special = self._special_token(problem.question, ids[start:stop])
        if special is not None:
            return RefusedPrompt("special token", f"the question contains the special token {special!r}")
        if len(ids) > self._config.max_tokens:
            limit = f"data.prompt.max_tokens is {self._config.max_tokens}"
            return RefusedPrompt("over-long prompt", f"its prompt has {len(ids)} tokens, {limit}")
        if stop == start:
            return RefusedPrompt("empty question", "the question has no tokens")
        return Prompt(
            problem_id=problem.id,
            token_ids=tuple(ids),
            prefix=Span(0, start),
            question=Span(start, stop),
            suffix=Span(stop, len(ids)),
        )

    def _special_token(self, question: str, ids: list[int]) -> str | None:
        """A special token that the question's text stands for, which could end the message; None without one."""
        for token_id in sorted(self._special.keys() & set(ids)):
            # The unknown token stands for any unknown character too.
            if token_id != self._tokenizer.unk_token_id or self._special[token_id] in question:
                return self._special[token_id]
        return None


def _common_start(a: list[int], b: list[int]) -> list[int]:
    """The longest list that both begin with."""
    length = next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:length]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
