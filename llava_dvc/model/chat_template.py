"""The one chat template that every stage shares, and the tokens of an answer."""

from transformers import LlavaProcessor

from llava_dvc import errors
from llava_dvc.conversation import Messages

# The checkpoint's own template writes neither BOS nor EOS. A model tuned with it never learns to
# stop. The space before USER keeps the first word's tokens as in pretraining. The space after
# ASSISTANT: belongs to the prompt, so that the answer's tokens are the digits and EOS alone.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ ' USER: ' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% else %}"
    "{{ ' ASSISTANT: ' }}"
    "{% generation %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}"
    "{% endgeneration %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT: ' }}{% endif %}"
)


def user_turn(messages: Messages) -> Messages:
    """The conversation without the answer."""
    return [message for message in messages if message["role"] == "user"]


def render(processor: LlavaProcessor, messages: Messages) -> str:
    """A whole conversation as text: BOS, question, answer, EOS."""
    return str(processor.apply_chat_template(messages))


def render_prompt(processor: LlavaProcessor, messages: Messages) -> str:
    """The question as text, up to and with the space before the answer."""
    return str(processor.apply_chat_template(user_turn(messages), add_generation_prompt=True))


def answer_ids(processor: LlavaProcessor, prompt: str, text: str) -> list[int]:
    """Token ids of `text` after those of `prompt`. Both are tokenised whole.

    Raises UserError when the tokenizer joins the prompt's end with the answer's start. The prompt
    at prediction would then differ from the one that was trained.
    """
    tokenizer = processor.tokenizer
    before = tokenizer(prompt, add_special_tokens=False).input_ids
    whole = tokenizer(text, add_special_tokens=False).input_ids
    if whole[: len(before)] != before:
        raise errors.joined_tokens(text)
    return list(whole[len(before) :])
