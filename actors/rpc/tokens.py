"""The one check of tokens."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from leworld.errors import RightsError


def owner_of(token: str, tokens: Mapping[str, str]) -> str:
    """Name whose token it is; the comparison takes the same time whatever is guessed.

    Raises:
        RightsError: the token is unknown.
    """
    for known, owner in tokens.items():
        if hmac.compare_digest(known.encode(), token.encode()):
            return owner
    raise RightsError("unknown token: ask the server's owner for one")
