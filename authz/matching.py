"""Casbin's matching functions, answering as PyCasbin's do, in time linear in their arguments.

Source: `casbin.util.builtin_operators` of PyCasbin 2.8. What PyCasbin raises on raises here too.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from wcmatch import glob
from wcmatch._wcparse import PatternLimitException

from authz.linear_regex import LinearPattern, compile_pattern
from authz.pattern_machine import PatternError, UnsupportedPatternError

__all__ = [
    "MATCHING_FUNCTIONS",
    "PatternError",
    "UnsupportedPatternError",
    "glob_match",
    "ip_match",
    "key_match",
    "key_match2",
    "key_match3",
    "key_match4",
    "key_match5",
    "regex_match",
]

MAX_BRACE_EXPANSIONS = 100

# The rewriting of PyCasbin, to the letter: dots in patterns stay wildcards, as they are there.
_KEY2_NAME = re.compile(r"(.*?):[^\/]+(.*?)")
_KEY3_NAME = re.compile(r"(.*?){[^\/]+?}(.*?)")
_KEY4_NAME = re.compile(r"{([^/]+)}")
_KEY5_NAME = re.compile(r"{[^/]+}")
_SPECIAL = frozenset(".^$*+?{}[]\\|()")
_STARS = re.compile(r"\*{2,}")


def key_match(name: str, pattern: str) -> bool:
    """`/foo/bar` matches `/foo/*`: what stands before the first `*` is a prefix; without `*` it is equality."""
    star = pattern.find("*")
    if star == -1:
        return name == pattern
    if len(name) > star:
        return name[:star] == pattern[:star]
    return name == pattern[:star]


def key_match2(name: str, pattern: str) -> bool:
    """`/resource1` matches `/:resource`, `/foo/bar` matches `/foo/*`; the rest is a regular expression."""
    if ":" not in pattern and _SPECIAL.isdisjoint(pattern):
        return _is_plain_match(name, pattern)
    return _regular(_key2_source(pattern)).matches(_text(name))


def key_match3(name: str, pattern: str) -> bool:
    """`/resource1` matches `/{resource}`; otherwise as `keyMatch2`."""
    if _SPECIAL.isdisjoint(pattern):
        return _is_plain_match(name, pattern)
    return _regular(_key3_source(pattern)).matches(_text(name))


def key_match4(name: str, pattern: str) -> bool:
    """As `keyMatch3`, and equal names in braces stand for equal parts: `/parent/{id}/child/{id}`.

    Raises:
        PatternError: the pattern has groups besides the names in braces.
    """
    if _SPECIAL.isdisjoint(pattern):
        return _is_plain_match(name, pattern)
    names, source = _key4_source(pattern)
    compiled = _regular(source)
    text = _text(name)
    if not compiled.matches(text):
        return False
    if len(names) != compiled.groups:
        raise PatternError("keyMatch4: the pattern has groups of its own")
    if len(set(names)) == len(names):
        return True
    captured = compiled.captures(text) or ()
    bound: dict[str, str | None] = {}
    return all(bound.setdefault(key, part) == part for key, part in zip(names, captured, strict=True))


def key_match5(name: str, pattern: str) -> bool:
    """As `keyMatch3`, on the name without its query (`?…`)."""
    text = _text(name)
    query = text.find("?")
    path = text if query == -1 else text[:query]
    if _SPECIAL.isdisjoint(pattern):
        return _is_plain_match(path, pattern)
    return _regular(_key5_source(pattern)).matches(path)


def regex_match(name: str, pattern: str) -> bool:
    """The pattern matches at the beginning of the name, as `re.match` does; it need not reach the end."""
    if _SPECIAL.isdisjoint(_text(pattern)):
        return _text(name).startswith(pattern)
    return _regular(pattern).matches(_text(name))


def _is_plain_match(name: str, pattern: str) -> bool:
    """Match a pattern without special characters; `$` stands before a final line feed as well."""
    return _text(name) in {pattern, f"{pattern}\n"}


def is_literal(function: str, pattern: str) -> bool:
    """Whether a pattern is taken letter by letter, so that no name makes it raise."""
    return _SPECIAL.isdisjoint(pattern) and (function != "keyMatch2" or ":" not in pattern)


def glob_match(name: str, pattern: str) -> bool:
    """Shell pattern over path segments: `*`, `?`, `[…]`, `{a,b}` and `**` as a whole segment."""
    text = _text(name)
    return any(compiled.matches(text, whole=True) for compiled in _glob_patterns(_text(pattern)))


def ip_match(address: str, pattern: str) -> bool:
    """The address equals the pattern or lies in its network (CIDR); an invalid pattern matches nothing.

    Raises:
        ValueError: the first argument is no address.
    """
    parsed = ip_address(address)
    network = _network(pattern)
    return network is not None and parsed in network


@lru_cache(maxsize=4096)
def _network(pattern: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(pattern, strict=False)
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def _key2_source(pattern: str) -> str:
    source = _KEY2_NAME.sub(r"\g<1>[^\/]+\g<2>", pattern.replace("/*", "/.*"))
    return "^(.*)$" if source == "*" else f"^{source}$"


@lru_cache(maxsize=4096)
def _key3_source(pattern: str) -> str:
    return "^" + _KEY3_NAME.sub(r"\g<1>[^\/]+\g<2>", pattern.replace("/*", "/.*")) + "$"


@lru_cache(maxsize=4096)
def _key4_source(pattern: str) -> tuple[tuple[str, ...], str]:
    text = pattern.replace("/*", "/.*")
    return tuple(_KEY4_NAME.findall(text)), "^" + _KEY4_NAME.sub("([^/]+)", text) + "$"


@lru_cache(maxsize=4096)
def _key5_source(pattern: str) -> str:
    return "^" + _KEY5_NAME.sub("[^/]+", pattern.replace("/*", "/.*")) + "$"


def _regular(source: str) -> LinearPattern:
    return compile_pattern(source)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a matching function got {type(value).__name__} for text")
    return value


@lru_cache(maxsize=4096)
def _glob_patterns(pattern: str) -> tuple[LinearPattern, ...]:
    """Return one compiled pattern for each brace expansion.

    wcmatch only translates: its own matching backtracks, which patterns such as `*a*a*a*a*b` turn into minutes.
    """
    while pattern.startswith("*/"):
        pattern = pattern[1:]
    text = "/".join(part if part == "**" else _STARS.sub("*", part) for part in pattern.split("/"))
    if text.endswith("/**"):
        text = "{" + text[:-3] + "," + text + "}"
    try:
        included, excluded = glob.translate(text, flags=glob.GLOBSTAR | glob.BRACE, limit=MAX_BRACE_EXPANSIONS)
    except (PatternLimitException, RecursionError) as error:
        raise UnsupportedPatternError(f"the glob pattern is too big: {error}") from error
    except ValueError as error:
        raise PatternError(f"invalid glob pattern: {error}") from error
    if excluded:
        raise UnsupportedPatternError("a glob pattern cannot exclude")
    # wcmatch puts `*x` before another `*` into an atomic group; the earliest `x` is as good as any.
    return tuple(compile_pattern(source, free_atomic=True) for source in included)


MATCHING_FUNCTIONS: dict[str, Callable[[str, str], bool]] = {
    "globMatch": glob_match,
    "ipMatch": ip_match,
    "keyMatch": key_match,
    "keyMatch2": key_match2,
    "keyMatch3": key_match3,
    "keyMatch4": key_match4,
    "keyMatch5": key_match5,
    "regexMatch": regex_match,
}
"""By the names that matchers and `--function` use."""
