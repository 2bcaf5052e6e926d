"""The one check of tokens."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from leworld.errors import RightsError


def owner_of(token: str, tokens: Mapping[str, str]) -> str:
    """Return the owner of a token, by a comparison in constant time.

    Raises:
        RightsError: the token is unknown.
    """
    for known, owner in tokens.items():
        if hmac.compare_digest(known.encode(), token.encode()):
            return owner
    raise RightsError("unknown token: ask the server's owner for one")
