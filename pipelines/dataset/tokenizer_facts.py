"""What the commit of the sequences keeps of their tokenizer."""

from pipelines.dataset.chat_template import write_chat_format
from pipelines.dataset.examples.encode import TextEncoder
from pipelines.dataset.tokenizer import ChosenTokenizer, from_json, write_tokenizer


def keep_tokenizer(chosen: ChosenTokenizer, folder: str, *, is_chat: bool) -> dict[str, str]:
    """Keep the tokenizer in `folder`, and how conversations are written if the task has some. Returns their
    names, and what makes the tokens on a machine with the packages of this one."""
    # A copy: an encoder changes the settings of its tokenizer.
    encoder = TextEncoder(from_json(chosen.tokenizer.to_str()), is_framed=False)
    facts = {"tokenizer": write_tokenizer(chosen.tokenizer, folder), "encoder": encoder.description}
    if is_chat:
        chat = chosen.chat.with_end_token(chosen.tokenizer, chosen.end_token_id)
        facts["chat"] = write_chat_format(chat, folder)
    return facts
