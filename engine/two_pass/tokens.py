"""The decoder's tokens: strings by id, from asr_tokens.json."""

from __future__ import annotations

from engine.bundle.folder import Bundle
from engine.bundle.json_file import read_json
from engine.bundle.schema import SecondPassConfig


def read_tokens(bundle: Bundle) -> tuple[str, ...]:
    """Read the tokens of a bundle's second pass.

    Returns:
        A string for every id; one that begins a word begins with a space, special ones are written <|...|>.
    Raises:
        ModelCapabilityError: the bundle has no second pass. BundleSchemaError: not a list of strings.
    """
    return tuple(read_json(bundle.file("asr_tokens"), list[str], "a list of tokens"))


def config_problems(config: SecondPassConfig, tokens: tuple[str, ...]) -> list[str]:
    """What does not fit between a configuration and its tokens, a phrase each."""
    problems = []
    if len(tokens) != config.vocab_size:
        problems.append(f"{len(tokens)} tokens for a decoder of {config.vocab_size}")
    outside = [i for i in (*config.prompt, config.end_id, config.no_speech_id) if i >= config.vocab_size]
    if outside:
        problems.append(f"special tokens {outside} outside the {config.vocab_size}")
    if not config.prompt or len(config.prompt) >= config.max_tokens:
        problems.append(f"a prompt of {len(config.prompt)} tokens where {config.max_tokens} have room")
    if config.n_heads * config.head_dim != config.hidden_size:
        problems.append(f"{config.n_heads} heads of {config.head_dim} over {config.hidden_size} channels")
    return problems
