"""Removes credentials from URLs before they are written down."""

import re
from urllib.parse import unquote, urlsplit, urlunsplit

SECRET = re.compile(
    r"token|signature|credential|passw|secret|session|hmac|jwt|auth(?!or)|api-?key|(?:^|[-_.])(?:key|sig|pwd|pass|policy)(?:[-_.]|$)", re.I
)  # names of what opens doors, or helps to


def strip_credentials(url: str | None) -> str | None:
    """An address as it may be written down: without user, password, and what looks like a key in its query; others letter for letter."""
    if not url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # no address: nobody will ask for it
        return url.partition("?")[0].rpartition("@")[2]
    query, fragment = ("&".join(part for part in some.split("&") if not _opens(part)) for some in (parts.query, parts.fragment))
    kept = parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query, fragment=fragment)
    return url if kept == parts else urlunsplit(kept)


def _opens(part: str) -> bool:
    return bool(SECRET.search(unquote(part.partition("=")[0])))


def reject_credentials(param: str, url: str) -> None:
    """ValueError where the address of a source holds what params.yaml, which is shared, must not."""
    if strip_credentials(url) != url:
        raise ValueError(
            f"params.yaml: {param} holds a user, a password or a key: leave it out; a token is read from the environment alone"
        )
