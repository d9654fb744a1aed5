"""The Hub's token."""

from __future__ import annotations

from huggingface_hub import get_token


def require_token(token: str | None = None) -> None:
    """
    Checks, before anything is computed, that something can be pushed to the Hub.

    Args:
        token (`str`, *optional*):
            A token; the one of the environment or of `hf auth login` if not given.

    Raises:
        ValueError: If there is none.
    """
    if not (token or get_token()):
        raise ValueError(
            "Nothing can be pushed to the Hub without a token. Log in with `hf auth login`, set the environment "
            "variable HF_TOKEN, or pass `token` (`hub_token` in training arguments)."
        )
