"""The text around a question: the tokenizer's chat template, the plain one or a user's own, and what it must keep."""

import inspect
import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gainrl_ray.config import PromptConfig
from gainrl_ray.errors import DataError

PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'user' %}Question: {{ message.content }}\n{% else %}Answer: {{ message.content }}\n\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)
"""`data.prompt.template=plain`, for base models; it ends where an answer begins."""

# Every template sees this clock, so that a prompt scored today is the prompt trained tomorrow. It is the date that
# Llama 3.1 and 3.2 were given where no clock was at hand.
_TEMPLATE_DATE = datetime(2024, 7, 26)

# Two questions that no template contains. Their mixed case and digits make a template that rewrites questions show.
_SENTINELS = ("Zq7vKwXj3pH", "mB5tRyUc8fLd2")

_KEPT_BORDERS = 4096  # of different turns before a question

_NO_SYSTEM = "data.prompt.system=null (what it says can stand in data.prompt.instruction)"
_NO_EXAMPLE = "data.prompt.example_question=null and data.prompt.example_answer=null"
_OTHER = "use another template: data.prompt.template=plain, or a file"


class ChatTemplate:
    """The messages of a question as text, under one tokenizer and one PromptConfig: `before` + question + `after`."""

    def __init__(self, tokenizer: Any, config: PromptConfig) -> None:
        """Locate the question and every other part of the prompt in what the template writes.

        Raises:
            DataError: no template, one that refuses the messages, does not contain the question exactly once and
                unchanged, leaves another part of the prompt out, or does not use an argument that it is given.
        """
        self._tokenizer, self._config = tokenizer, config
        self.text = self._chosen()
        """The template itself."""
        self._arguments = self._checked_arguments()
        self._found: dict[str, tuple[str, str]] = {}
        self.before, self.after = self.borders("")
        self._check_parts()

    def render(self, questions: Sequence[tuple[str, str]]) -> list[str]:
        """The texts of prompts, each of turns and a question. Raises DataError for what the template refuses."""
        try:
            return self._render(questions, self._config)
        except Exception as error:  # templates raise whatever they like
            remedy = _OTHER if any(turns for turns, _ in questions) else self._remedy()
            raise DataError(
                f"the chat template refuses the prompt ({type(error).__name__}: {error}): {remedy}"
            ) from error

    def borders(self, turns: str) -> tuple[str, str]:
        """What the template writes before and after a question that these turns lead up to.

        Raises: DataError for turns that the template refuses or leaves out.
        """
        if turns not in self._found:
            before, after = self._borders(turns)
            for turn in _parsed(turns):  # of answers, templates may leave out the reasoning
                if turn["role"] != "assistant" and turn["content"].strip() not in before:
                    raise DataError(_lost(f"a turn of role {turn['role']!r}", f"leave it out of the data, or {_OTHER}"))
            if len(self._found) >= _KEPT_BORDERS:
                self._found.clear()
            self._found[turns] = before, after
        return self._found[turns]

    def _render(self, questions: Sequence[tuple[str, str]], config: PromptConfig) -> list[str]:
        return self._tokenizer.apply_chat_template(
            [_messages(turns, question, config) for turns, question in questions],
            chat_template=self.text,
            tokenize=False,
            add_generation_prompt=True,
            **self._arguments,
        )

    def _remedy(self) -> str:
        """What to set so that the template takes the prompt."""
        without_system = {"system": None}
        without_example = {"example_question": None, "example_answer": None}
        for changes, remedy in (
            (without_system, f"set {_NO_SYSTEM}"),
            (without_example, f"set {_NO_EXAMPLE}"),
            (without_system | without_example, f"set {_NO_SYSTEM}, {_NO_EXAMPLE}"),
        ):
            try:
                self._render([("", sentinel) for sentinel in _SENTINELS], self._config.model_copy(update=changes))
            except Exception:  # a template raises what its author likes
                continue
            return remedy
        return _OTHER

    def _chosen(self) -> str:
        if self._config.template is not None:
            return PLAIN_TEMPLATE if self._config.template == "plain" else self._config.template
        if not self._tokenizer.chat_template:
            raise DataError(
                "the tokenizer has no chat template: for a base model set data.prompt.template=plain with "
                "rollout.stop='[\"Question:\"]', or data.prompt.template to a Jinja file; else use an "
                "instruction-tuned model"
            )
        try:
            return self._tokenizer.get_chat_template()
        except ValueError as error:
            raise DataError(f"the tokenizer's chat template cannot be chosen: {error}") from error

    def _checked_arguments(self) -> dict[str, Any]:
        """All that the template is given beside the messages."""
        given = self._config.template_arguments
        taken = {"messages", *inspect.signature(self._tokenizer.apply_chat_template).parameters} & given.keys()
        unused = [name for name in given if not re.search(rf"\b{re.escape(name)}\b", self.text)]
        if taken or unused:
            raise DataError(
                f"data.prompt.template_arguments: {', '.join(sorted(taken) or unused)} "
                + ("cannot be set: this program gives it" if taken else "is no variable of the chat template")
                + "; accepted are variables that its text reads, such as enable_thinking in Qwen3's"
            )
        own: dict[str, Any] = {
            "date_string": _TEMPLATE_DATE.strftime("%d %b %Y"),
            "strftime_now": _TEMPLATE_DATE.strftime,
        }
        if self._config.template == "plain":  # begins as the tokenizer begins a text
            begins = self._tokenizer("a")["input_ids"][:1] == [self._tokenizer.bos_token_id]
            own["bos_token"] = self._tokenizer.bos_token if begins else ""
        return own | given

    def _borders(self, turns: str) -> tuple[str, str]:
        found = []
        texts = self.render([(turns, sentinel) for sentinel in _SENTINELS])
        for sentinel, text in zip(_SENTINELS, texts, strict=True):
            if text.count(sentinel) != 1:
                raise DataError(
                    f"the chat template writes the question {text.count(sentinel)} times where once was expected, so "
                    f"its span cannot be found; it wrote {_shortened(text)!r}: use a template that copies the user's "
                    "message unchanged"
                )
            before, _, after = text.partition(sentinel)
            found.append((before, after))
        if found[0] != found[1]:
            raise DataError(
                "the chat template writes other text around another question, so the shared prefix cannot be found: "
                "use a template that does not depend on the user's message"
            )
        return found[0]

    def _check_parts(self) -> None:
        """Raise DataError for a part of the prompt that the template leaves out or changes.

        White space at the ends of a message is the template's own.
        """
        config, place = self._config, 0
        if config.system is not None and config.system.strip() not in self.before:
            raise DataError(_lost("data.prompt.system", f"set {_NO_SYSTEM}, or {_OTHER}"))
        for name, part in (
            ("example_question", config.example_question and config.example_question + config.instruction),
            ("example_answer", config.example_answer),
        ):
            place = self.before.find(part.strip(), place) if part else place
            if place < 0:
                remedy = f"set {_NO_EXAMPLE}, or {_OTHER}"
                if name == "example_answer" and "</think>" in (part or ""):
                    remedy = (
                        f"it drops the reasoning of earlier turns: write the example without <think> tags, {remedy}"
                    )
                raise DataError(_lost(f"data.prompt.{name}", remedy))
            place += len(part.strip()) if part else 0
        if not self.after.startswith(config.instruction.rstrip()):
            raise DataError(_lost("data.prompt.instruction", f"set it to '', or {_OTHER}"))


def _messages(turns: str, question: str, config: PromptConfig) -> list[dict[str, str]]:
    """A system turn of the problem's own takes the place of the configured one."""
    messages, earlier = [], _parsed(turns)
    if earlier and earlier[0]["role"] == "system":
        messages.append(earlier.pop(0))
    elif config.system is not None:
        messages.append({"role": "system", "content": config.system})
    if config.example_question is not None and config.example_answer is not None:
        messages.append({"role": "user", "content": config.example_question + config.instruction})
        messages.append({"role": "assistant", "content": config.example_answer})
    return [*messages, *earlier, {"role": "user", "content": question + config.instruction}]


def _parsed(turns: str) -> list[dict[str, str]]:
    return json.loads(turns) if turns else []


def _lost(setting: str, remedy: str) -> str:
    return f"the chat template leaves out or changes {setting}: {remedy}"


def _shortened(text: str, length: int = 200) -> str:
    return text if len(text) <= length else text[:length] + "..."
