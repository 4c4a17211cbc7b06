"""Dialogues in rows of preferences: where the prompt ends, and what text a template makes of it.

Two ways to write one are known here, both of public data sets: a text with ``\\n\\nHuman:`` and
``\\n\\nAssistant:`` before each turn (Anthropic's hh-rlhf), and a list of messages, each with a
role and a content. All before the last answer is the prompt.

Left out on purpose: images and sound, other names of the keys (``from`` and ``value``), and the
tools that a template could list.
"""

from __future__ import annotations

from typing import Any

__all__: list[str] = []

Turn = dict[str, Any]
ANSWER = "\n\nAssistant:"


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Split two texts, both with ``ANSWER`` in it, into a prompt and two responses.

    Args:
        chosen: a dialogue with the better answer at its end.
        rejected: the same with the other one.

    Returns:
        The prompt, which ends with ``ANSWER``, and the two responses.

    Raises:
        ValueError: the dialogues differ before their last answers.
    """
    (start, _, better), (other, _, worse) = chosen.rpartition(ANSWER), rejected.rpartition(ANSWER)
    if start.strip() != other.strip():
        raise ValueError("chosen and rejected differ before their last answers")
    return start + ANSWER, better, worse


def read_turns(column: str, messages: list[Any]) -> list[Turn]:
    """Check messages, and make text of their contents.

    Args:
        column: the column that holds them, for messages.
        messages: objects with a role and a content: text, or a list of parts that are text. Only
            the call of a tool needs no content. Other keys are the template's.

    Returns:
        The turns, without the empty keys that ``datasets`` fills in.

    Raises:
        ValueError: a message has no role or no content, or holds something other than text.
    """
    turns = []
    for number, message in enumerate(messages, start=1):
        where = f"message {number} of the column {column!r}"
        if not isinstance(message, dict):
            raise ValueError(f"{where} must be an object, got {type(message).__name__}")
        turn = {key: value for key, value in message.items() if value is not None}
        content = turn.get("content", "" if "tool_calls" in turn else None)
        if not isinstance(turn.get("role"), str) or not isinstance(content, (str, list)):
            raise ValueError(f"{where} must have a role and a content, got {turn!r:.60}")
        if isinstance(content, list):
            for part in content:
                part = part if isinstance(part, dict) else {"type": type(part).__name__}
                kind = part.get("type", "text")
                if kind != "text" or not isinstance(part.get("text"), str):
                    raise ValueError(f"{where} must hold text alone, got a part of type {kind!r}")
            content = "".join(part["text"] for part in content)
        turns.append({**turn, "content": content})
    return turns


def split_turns(
    prompt: list[Turn], chosen: list[Turn], rejected: list[Turn]
) -> tuple[list[Turn], Turn, Turn]:
    """Split rows of messages into the dialogue and its two last answers.

    Chosen and rejected may hold the last answer alone, or repeat the turns before it: those of the
    prompt, its end (the user's turn), or more than the prompt says (a system's turn, earlier ones).

    Args:
        prompt: the turns of the prompt; none where it stands in chosen and rejected.
        chosen: turns that end with the better answer.
        rejected: turns that end with the other one.

    Returns:
        The turns before the answer, the better answer, the other one.

    Raises:
        ValueError: no answer, one that is not the assistant's or has no text (the call of a tool
            alone), or turns that differ.
    """
    dialogues, answers = [], []
    for column, turns in (("chosen", chosen), ("rejected", rejected)):
        if not turns or not turns[-1]["content"].strip():
            raise ValueError(f"the column {column!r} is empty")
        *before, answer = turns
        if answer["role"] != "assistant":
            raise ValueError(
                f"the column {column!r} must end with a message of the assistant, got one of "
                f"{answer['role']!r}"
            )
        size, more = len(prompt), len(before) - len(prompt)
        if _same(prompt[max(0, -more) :], before):
            dialogues.append(prompt)
        elif _same(before[:size], prompt) or _same(before[max(0, more) :], prompt):
            dialogues.append(before)
        else:
            raise ValueError(f"the column {column!r} repeats other turns than the prompt's")
        answers.append(answer)
    if not _same(*dialogues):
        raise ValueError("chosen and rejected differ before their last answers")
    if not dialogues[0]:
        raise ValueError("nothing stands before the answers: the prompt is missing")
    return dialogues[0], *answers


def write_turns(tokenizer: Any, dialogue: list[Turn], *answers: Turn) -> tuple[str, ...]:
    """Make text of turns, as the chat template of a tokenizer writes them.

    prompt + response + end token = what the template writes of dialogue and answer

    Args:
        tokenizer: has ``apply_chat_template`` and ``eos_token``, as those of Hugging Face.
        dialogue: the turns before the answer.
        answers: answers to it.

    Returns:
        The prompt, up to where the assistant begins, and a response for each answer, without the
        end token, which a policy adds.

    Raises:
        ValueError: the template refuses the turns, or writes the dialogue in another way once it
            is answered.
    """
    try:
        prompt, *wholes = (
            tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opened)
            for turns, opened in ((dialogue, True), *(([*dialogue, it], False) for it in answers))
        )
    except Exception as error:  # a template raises what it likes
        raise ValueError(f"the chat template refuses these messages: {error}") from error
    for whole in wholes:
        if not whole.startswith(prompt):
            raise ValueError(
                f"the chat template writes {prompt[-40:]!r} before an answer is there and another "
                f"text after: write prompt, chosen and rejected as texts"
            )
    end = tokenizer.eos_token or ""
    return prompt, *(whole[len(prompt) :].rstrip().removesuffix(end) for whole in wholes)


def _same(ones: list[Turn], others: list[Turn]) -> bool:
    """Whether two lists hold the same turns; white space around a content does not count."""

    def said(turn: Turn) -> tuple:
        return turn["role"], turn["content"].strip(), turn.get("tool_calls")

    return [*map(said, ones)] == [*map(said, others)]
