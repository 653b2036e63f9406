"""Who may ask what: the reader's token opens every GET, the admin's token commands as well.

Both travel as `Authorization: Bearer TOKEN`. Browsers that are sent to a route by hand may give the
token as a password of HTTP Basic instead, but only to look: they attach it to every request, also
to those that another site has made them send.
"""

import base64
import binascii
import secrets
from collections.abc import Callable
from typing import Annotated

from fastapi import Header, HTTPException

from volley.learner.token import Tokens

Authorization = Annotated[str, Header(include_in_schema=False)]
Guard = Callable[[str], None]

CHALLENGE = {"WWW-Authenticate": 'Basic realm="Volley: the token is the password"'}
UNKNOWN = (
    "wrong or missing token: send `Authorization: Bearer` with the run's VOLLEY_TOKEN, "
    "which is also in the file `token` of the run folder"
)
NOT_ADMIN = (
    "this takes the admin token: send `Authorization: Bearer` with the run's VOLLEY_ADMIN_TOKEN, "
    "which is also in the file `admin_token` of the run folder"
)


def may_look(tokens: Tokens) -> Guard:
    """A dependency that lets pass who has either token, and answers 401 to all others."""

    def check(authorization: Authorization = "") -> None:
        given = _bearer(authorization) or _password(authorization)
        if not _is_one_of(given, tokens.reader, tokens.admin):
            raise HTTPException(401, UNKNOWN, CHALLENGE)

    return check


def may_command(tokens: Tokens) -> Guard:
    """A dependency that lets pass who has the admin token; 403 for the reader's, else 401."""

    def check(authorization: Authorization = "") -> None:
        given = _bearer(authorization)
        if _is_one_of(given, tokens.admin):
            return
        if _is_one_of(given, tokens.reader):
            raise HTTPException(403, NOT_ADMIN)
        raise HTTPException(401, NOT_ADMIN, {"WWW-Authenticate": "Bearer"})

    return check


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _password(authorization: str) -> str:
    """Of HTTP Basic, whatever the user's name."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""


def _is_one_of(given: str, *tokens: str) -> bool:
    return any(secrets.compare_digest(given.encode(), token.encode()) for token in tokens)
