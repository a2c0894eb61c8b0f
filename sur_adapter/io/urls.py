"""Removes credentials from URLs before they are written to files."""

import re
from urllib.parse import unquote, urlsplit, urlunsplit

CREDENTIAL = re.compile(
    r"token|signature|credential|passw|secret|session|hmac|jwt|auth(?!or)|api-?key|(?:^|[-_.])(?:key|sig|pwd|pass|policy)(?:[-_.]|$)", re.I
)  # names of query parameters that grant access


def strip_credentials(url: str | None) -> str | None:
    """Removes user, password and query parameters that look like credentials; the rest of the URL is unchanged."""
    if not url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # not a URL; it is never requested
        return url.partition("?")[0].rpartition("@")[2]
    query, fragment = ("&".join(p for p in text.split("&") if not _is_credential(p)) for text in (parts.query, parts.fragment))
    stripped = parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query, fragment=fragment)
    return url if stripped == parts else urlunsplit(stripped)


def _is_credential(parameter: str) -> bool:
    return bool(CREDENTIAL.search(unquote(parameter.partition("=")[0])))


def reject_credentials(param: str, url: str) -> None:
    """Raises ValueError if a URL of params.yaml, a file that is shared, contains credentials."""
    if strip_credentials(url) != url:
        raise ValueError(f"params.yaml: {param} contains a user, a password or a key: remove it; tokens are read from the environment")
