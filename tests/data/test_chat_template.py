"""The families' own chat templates: what they write around a question, what they lose, and what is said then."""

from itertools import pairwise
from typing import Any

import pytest
from family_tokenizers import FAMILIES, R1, family_tokenizer, template

from gainrl_ray.config import PromptConfig
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.errors import DataError
from gainrl_ray.types import Problem, Prompt

ALL = PromptConfig(system="Be brief.", example_question="1+1?", example_answer="So: 2", instruction=" Think.")
WITHOUT_SYSTEM = ALL.model_copy(update={"system": None})
REASONED = {"example_answer": "<think>\nOne and one.\n</think>\n\nSo: 2"}
CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1? Think.<|im_end|>\n<|im_start|>assistant\n"
    "So: 2<|im_end|>\n<|im_start|>user\nWhat is 3+4? Think.<|im_end|>\n<|im_start|>assistant\n"
)
PHI = (
    "<|system|>\nBe brief.<|end|>\n<|user|>\n1+1? Think.<|end|>\n<|assistant|>\nSo: 2<|end|>\n"
    "<|user|>\nWhat is 3+4? Think.<|end|>\n<|assistant|>\n"
)
WRITTEN = {
    "command-r": (
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>1+1? Think.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>So: 2<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>What is 3+4? Think.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
    ),
    "gemma2": (
        "<bos><start_of_turn>user\n1+1? Think.<end_of_turn>\n<start_of_turn>model\nSo: 2<end_of_turn>\n"
        "<start_of_turn>user\nWhat is 3+4? Think.<end_of_turn>\n<start_of_turn>model\n"
    ),
    "gemma3": (
        "<bos><start_of_turn>user\nBe brief.\n\n1+1? Think.<end_of_turn>\n<start_of_turn>model\nSo: 2<end_of_turn>\n"
        "<start_of_turn>user\nWhat is 3+4? Think.<end_of_turn>\n<start_of_turn>model\n"
    ),
    "granite3.3": (
        "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>1+1? Think.<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>So: 2<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>What is 3+4? Think.<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>"
    ),
    "llama3.2": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n1+1? Think.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nSo: 2<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 3+4? Think.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "mistral-nemo": "<s>[INST]1+1? Think.[/INST]So: 2</s>[INST]Be brief.\n\nWhat is 3+4? Think.[/INST]",
    "mistral-v0.1": "<s>[INST] 1+1? Think. [/INST]So: 2</s> [INST] What is 3+4? Think. [/INST]",
    "olmo2": (
        "<|endoftext|><|system|>\nBe brief.\n<|user|>\n1+1? Think.\n<|assistant|>\nSo: 2<|endoftext|>\n"
        "<|user|>\nWhat is 3+4? Think.\n<|assistant|>\n"
    ),
    "phi3": PHI,
    "phi3.5": PHI,
    "qwen2.5": CHATML,
    "qwen3": CHATML,
    "r1-distill": (f"{R1[0]}Be brief.{R1[2]}1+1? Think.{R1[3]}So: 2{R1[1]}{R1[2]}What is 3+4? Think.{R1[3]}<think>\n"),
    "smollm2": CHATML,
}
REFUSES_SYSTEM = ("gemma2", "mistral-v0.1")
DROPS_REASONING = ("qwen3", "r1-distill")


def build(tokenizer: Any, config: PromptConfig, question: str = "What is 3+4?") -> Prompt:
    return PromptBuilder(tokenizer, config).build(Problem(id="p", question=question, answer="1", source="test"))


def parts(tokenizer: Any, prompt: Prompt) -> list[str]:
    """The texts of prefix, question and suffix, which are all of the prompt."""
    cuts = (0, prompt.question.start, prompt.question.stop, len(prompt.token_ids))
    assert (prompt.prefix.stop, prompt.suffix.start) == cuts[1:3]
    return [tokenizer.decode(prompt.token_ids[start:stop]) for start, stop in pairwise(cuts)]


def changed(tokenizer: Any, config: PromptConfig, **updates: Any) -> str:
    """What the template writes under changed settings."""
    return "".join(parts(tokenizer, build(tokenizer, config.model_copy(update=updates))))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_s_template_writes_every_part_once(family: str) -> None:
    tokenizer = family_tokenizer(family)
    prompt = build(tokenizer, WITHOUT_SYSTEM if family in REFUSES_SYSTEM else ALL)
    prefix, question, suffix = parts(tokenizer, prompt)
    assert prefix + question + suffix == WRITTEN[family]
    # A token across the border counts to the question.
    assert question.strip() == "What is 3+4?"
    begins = FAMILIES[family][1]
    if begins:
        first = tokenizer.convert_tokens_to_ids(begins)
        assert tokenizer("a")["input_ids"][0] == first == prompt.token_ids[0] != prompt.token_ids[1], "one, not two"


def test_a_template_s_text_takes_the_tokenizer_s_place() -> None:
    tokenizer = family_tokenizer("qwen2.5")
    text = "{% for m in messages %}{{ m.content }}|{% endfor %}"
    assert changed(tokenizer, ALL, template=text) == "Be brief.|1+1? Think.|So: 2|What is 3+4? Think.|"
    other, own = ALL.model_copy(update={"template": text}), PromptBuilder(tokenizer, ALL)
    assert PromptBuilder(tokenizer, other).template_digest != own.template_digest


@pytest.mark.parametrize("family", REFUSES_SYSTEM)
def test_a_template_without_a_system_role_says_what_to_set(family: str) -> None:
    with pytest.raises(DataError, match=r"refuses the prompt .*: set data\.prompt\.system=null"):
        build(family_tokenizer(family), ALL)


def test_a_template_that_takes_no_examples_says_what_to_set() -> None:
    tokenizer = family_tokenizer("qwen2.5")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('one turn') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    with pytest.raises(DataError, match=r"one turn\): set data\.prompt\.example_question=null and"):
        build(tokenizer, ALL)
    tokenizer.chat_template += "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    with pytest.raises(DataError, match=r"set data\.prompt\.system=null .*data\.prompt\.example_question=null and"):
        build(tokenizer, ALL)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_example_s_reasoning_is_there_or_missed(family: str) -> None:
    tokenizer, config = family_tokenizer(family), WITHOUT_SYSTEM.model_copy(update=REASONED)
    if family in DROPS_REASONING:
        with pytest.raises(DataError, match=r"changes data\.prompt\.example_answer: .*without <think> tags"):
            build(tokenizer, config)
    else:
        assert REASONED["example_answer"] in parts(tokenizer, build(tokenizer, config))[0]


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", "system"),
        ("{{ messages[0].content }}{{ messages[2].content }}{{ messages[3].content }}", "example_question"),
        ("{{ messages[0].content }}{{ messages[1].content }}{{ messages[3].content }}", "example_answer"),
        (
            "{% for m in messages %}{{ m.content.removesuffix(' Think.') if loop.last else m.content }}{% endfor %}",
            "instruction",
        ),
    ],
)
def test_a_part_that_gets_lost_is_named(text: str, lost: str) -> None:
    tokenizer = family_tokenizer("qwen2.5")
    with pytest.raises(DataError, match=rf"leaves out or changes data\.prompt\.{lost}: "):
        changed(tokenizer, ALL, template=text)


def test_white_space_at_a_message_s_ends_is_the_template_s_own() -> None:
    spaced = {"system": "Be brief.\n", "example_answer": " So: 2\n", "instruction": " Think.\n"}
    assert changed(family_tokenizer("llama3.2"), ALL, **spaced) == WRITTEN["llama3.2"]


def test_arguments_reach_the_template_and_make_other_prompts() -> None:
    tokenizer = family_tokenizer("qwen3")
    short = ALL.model_copy(update={"template_arguments": {"enable_thinking": False}})
    assert parts(tokenizer, build(tokenizer, short))[2].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert PromptBuilder(tokenizer, short).digest != PromptBuilder(tokenizer, ALL).digest
    same = ALL.model_copy(update={"template_arguments": {"enable_thinking": True}})
    assert PromptBuilder(tokenizer, same).digest == PromptBuilder(tokenizer, ALL).digest, "it writes the same prompts"
    dated = changed(family_tokenizer("llama3.2"), ALL, template_arguments={"date_string": "01 Jan 2025"})
    assert "Today Date: 01 Jan 2025\n" in dated


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"enable_thinking": False}, "enable_thinking is no variable of the chat template"),
        ({"add_generation_prompt": False}, "add_generation_prompt cannot be set: this program gives it"),
        ({"messages": "x"}, "messages cannot be set"),
    ],
)
def test_arguments_that_have_no_effect_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=rf"data\.prompt\.template_arguments: {match}"):
        changed(family_tokenizer("qwen2.5"), ALL, template_arguments=arguments)


def test_dates_in_a_default_system_prompt_stand_still() -> None:
    written = changed(family_tokenizer("granite3.3"), WITHOUT_SYSTEM)
    assert "Knowledge Cutoff Date: April 2024. Today's Date: July 26, 2024. You are Granite" in written


def test_of_several_templates_the_default_is_taken() -> None:
    tokenizer = family_tokenizer("command-r")
    tokenizer.chat_template = {"default": template("command-r"), "tool_use": "x", "rag": "y"}
    assert changed(tokenizer, ALL) == WRITTEN["command-r"]


@pytest.mark.parametrize(("family", "begins"), [("llama3.2", "<|begin_of_text|>"), ("qwen2.5", "")])
def test_the_plain_template_of_base_models(family: str, begins: str) -> None:
    tokenizer = family_tokenizer(family)
    tokenizer.chat_template = None
    with pytest.raises(DataError, match=r"no chat template: for a base model set data\.prompt\.template=plain"):
        build(tokenizer, ALL)
    plain = ALL.model_copy(update={"template": "plain"})
    prefix, question, suffix = parts(tokenizer, build(tokenizer, plain))
    assert prefix + question == begins + "Be brief.\n\nQuestion: 1+1? Think.\nAnswer: So: 2\n\nQuestion: What is 3+4?"
    assert question.strip() == "What is 3+4?" and suffix == " Think.\nAnswer:"
