"""Addresses of servers may hold secrets: how an address is shown, and how its secrets are kept out of others' messages.

People write passwords unescaped, and libraries differ in where such a password ends: every reading counts as one.
"""

import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO
from urllib.parse import unquote, unquote_plus

__all__ = ["ScrubbedStream", "has_credentials", "scrubbed", "without_credentials"]

HIDDEN = "***"
_SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "MYSQL_PWD")
_SECRET_NAME = r"[\w.-]*(?:pass|pwd|secret|token|credential|auth|key|sig)[\w.-]*"
_OPTION = re.compile(rf"(?i)(?<![\w.-]){_SECRET_NAME}(?:=|%3D)((?:(?!%3B|%26)[^&;])+)")
_SHOWN_OPTION = re.compile(rf"(?i)(?<=[?&;])({_SECRET_NAME}=)[^\s&;'\"]+")
_SHOWN_USER = re.compile(r"(?i)(?:(?<=http://)|(?<=https://))[^\s/'\"]*@|(?<=://)[^\s/'\"]*:[^\s/'\"]*@")


def without_credentials(uri: str) -> str:
    """Return an address without user, password, options and control characters, fit for files and messages."""
    uri = "".join(c if c.isprintable() else " " for c in uri)
    scheme, separator, rest = uri.partition("://") if "://" in uri else ("", "", uri)
    if rest.startswith(("/", ".")) or not (separator or "@" in rest):
        # A path: there is no user, and "@" and "#" belong to it.
        return f"{scheme}{separator}{rest.partition('?')[0]}"
    address, _, options = re.sub(r"[#;]", "?", rest).partition("?")
    server, slash, path = address.rpartition("@")[2].partition("/")
    if ("@" in options and "@" not in address) or not re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:\d*)?", server):
        # Where the password ends is anybody's guess.
        return f"{scheme}{separator}{HIDDEN}"
    return f"{scheme}{separator}{server}{slash}{path}"


def has_credentials(uri: str) -> bool:
    """Say whether an address holds a password, a token, or an option whose name says that its value is secret."""
    return bool(_secrets_of(uri))


def scrubbed(text: str, *uris: str) -> str:
    """Return a message without the secrets of `uris`, of this process's arguments and of its environment."""
    secrets = {secret for uri in (*uris, *_given()) for secret in _secrets_of(uri)}
    secrets |= {os.environ[name] for name in _SECRET_VARIABLES if os.environ.get(name)}
    hidden = [False] * len(text)
    for secret in secrets:
        # Whole words: a password "a" is no reason to hide every a.
        begin = r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2}))" if secret[0].isalnum() else ""
        end = r"(?![A-Za-z0-9])" if secret[-1].isalnum() else ""
        for match in re.finditer(begin + re.escape(secret) + end, text):
            hidden[match.start() : match.end()] = [True] * len(secret)
    parts = (
        HIDDEN if secret else "".join(character for character, _ in run)
        for secret, run in itertools.groupby(zip(text, hidden, strict=True), key=lambda pair: pair[1])
    )
    return _in_addresses("".join(parts))


class ScrubbedStream:
    """A text stream that leaves out users, passwords and secret options of the addresses that anybody writes to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        self._stream.write(_in_addresses(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _in_addresses(text: str) -> str:
    """Return a text in which whatever looks like an address has no user, password or secret option."""
    return _SHOWN_OPTION.sub(rf"\1{HIDDEN}", _SHOWN_USER.sub("", text))


def _given() -> Iterator[str]:
    """Yield the addresses that this process was given."""
    yield from (argument for argument in sys.argv[1:] if "://" in argument or "@" in argument)
    yield from (value for value in os.environ.values() if re.fullmatch(r"[A-Za-z][\w+.-]*://\S+", value))


def _secrets_of(uri: str) -> set[str]:
    """Return what is secret in an address, in every form in which a message may have it."""
    scheme, _, rest = uri.partition("://") if "://" in uri else ("", "", uri)
    found: set[str] = set()
    user, colon, password = ("", "", "") if rest.startswith("/") else rest.rpartition("@")[0].partition(":")
    if colon:
        # Pieces of an unescaped password are taken for a host, a port, a path or an option, and named as such.
        found |= {password, password.partition("@")[0], *(one for one in re.split(r"[@/?#:;&=]", password) if one[2:])}
    elif scheme.rpartition("=")[2] in ("http", "https"):
        # A token is often written in the user's place.
        found.add(user)
    options = rest.partition("?")[2] or rest.partition("#")[2]
    found |= {match[1] for one in (options, unquote(options)) for match in _OPTION.finditer(one)}
    return {form for secret in found for form in (secret, unquote(secret), unquote_plus(secret)) if form}
