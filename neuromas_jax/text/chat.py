"""A node's prompt in the turns of a chat model, from the tokenizer's own chat template (extra `transformers`).

    config.backbone = "models/Qwen3-0.6B"
    config.prompt = chat_prompt(config.backbone)

The question is a user's turn, and so are the node's tag, each message of its inbox, and what it is asked to write; then the
model's own turn begins. Turns are told apart by control tokens, which no message may hold, so no message can pass for another
turn. For a Qwen3 model and the first node of a second layer:

    <|im_start|>user
    What is 3 + 4?<|im_end|>
    <|im_start|>user
    You are agent 1 of layer 2.<|im_end|>
    <|im_start|>user
    Message 1:
    7, I think.<|im_end|>
    <|im_start|>user
    Write the final answer ...<|im_end|>
    <|im_start|>assistant
    <think>

    </think>

"""

from pathlib import Path

from neuromas_jax.backbone.hub import model_folder

ASKED, SAID, AGAIN = "The-question", "The-reply", "The-next-question"  # stand for texts while the template is rendered
DATE = "26 Jul 2024"  # for templates that write one: the same prompt every day
# The paper's reading: no roles, a structural tag, a format line. Its exact words are not published; these are ours.
TAG = "You are agent {index} of layer {layer}."
NOTE = "Write what helps the next agents to answer the question, in at most {message_tokens} tokens."
FINAL = "Write the final answer to the question, in at most {message_tokens} tokens. End with a line `Answer: ` and it alone."
SLOT = "Message {k}:\n"


def chat_prompt(
    folder: str | Path, system: str = "", thinking: bool = False, tag: str = TAG, slot: str = SLOT, note: str = NOTE,
    final: str = FINAL,
) -> dict[str, str]:
    """The fields of `PromptTemplate` for a chat model, as `config.prompt` takes them.

    Args:
      folder: of its tokenizer, with a chat template; or a Hub id.
      system: text of a system turn; without one the template writes what it writes by itself.
      thinking: whether the model may think first, where its template has such a switch.
      tag, slot, note, final: the words of `PromptTemplate`'s fields, without control tokens.

    Raises:
      ValueError: no chat template in the folder, or one that cannot write such turns; or `transformers` is not installed.
      FileNotFoundError: no such folder.
    """
    prefix, end, between, suffix = chat_turns(folder, system, thinking)
    prefix, between, suffix = (text.replace("{", "{{").replace("}", "}}") for text in (prefix, between, suffix))
    return dict(start=prefix, tag=between + tag, slot=between + slot, note=between + note + suffix,
                final=between + final + suffix, end=end)


def chat_turns(folder: str | Path, system: str = "", thinking: bool = False) -> tuple[str, str, str, str]:
    """What a chat template writes around texts.

    Returns:
      What comes before the first user's text; the token that ends the model's turn; what stands between it and a user's next
      text, that token included; and what comes behind a user's text, up to where the model writes.

    Raises as `chat_prompt`.
    """
    try:
        import jinja2  # noqa: F401  transformers renders the template with it, and does not bring it
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError("a chat template needs transformers and jinja2: pip install neuromas_jax[transformers]") from error
    tokenizer = AutoTokenizer.from_pretrained(str(model_folder(folder)))
    if not tokenizer.chat_template:
        raise ValueError(f"{folder} has no chat template; take the folder of an instruction-tuned model, or write config.prompt "
                         "by hand")
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}, {"role": "user", "content": AGAIN}]
    turns = [{"role": "system", "content": system}, *turns] if system else turns
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=thinking, date_string=DATE)
    except Exception as error:  # a template may raise what it likes
        hint = "; without `system` it may" if system else ""
        raise ValueError(f"the chat template of {folder} cannot write two rounds of user and assistant ({error}){hint}"
                         ) from error
    if any(text.count(mark) != 1 for mark in (ASKED, SAID, AGAIN)):
        raise ValueError(f"the chat template of {folder} changes or repeats the texts of its turns; write config.prompt by hand")
    prefix, rest = text.split(ASKED, 1)
    between, suffix = rest.split(SAID)[1].split(AGAIN)
    added = sorted((token for token in tokenizer.get_added_vocab() if between.lstrip().startswith(token)), key=len)
    if not added:
        raise ValueError(f"the chat template of {folder} ends no turn of the model with a control token, but goes on with "
                         f"{between!r}; write config.prompt by hand")
    return prefix, added[-1], between, suffix
