"""YAML as plain data with places.

No tags, no anchors, no aliases, no duplicate keys, nothing two readers could understand differently (`no`, `010`,
`1_000`); bounded in depth. Scalars follow the core schema of YAML 1.2, restricted to what JSON can say.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import yaml

from authz.served_names import BIDIRECTIONAL

MAX_DEPTH: Final = 32
MAX_INTEGER: Final = 2**63

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_WORDS: Final[dict[str, Any]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_AMBIGUOUS = re.compile(
    r"(?:yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    r"|[-+]?0[0-9][0-9_.]*|[-+]?0[xXoObB][0-9A-Fa-f_]+|[-+]?[0-9][0-9]*_[0-9_.]*|[-+]?[0-9]+(?::[0-5]?[0-9])+)\Z"
)
# YAML 1.1 ends lines at these, editors do not: a comment could hide an entry.
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]|\r(?!\n)")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_MAX_HIDDEN = 1000
"""At most this many characters are reported that must not stand in a file: one that is no text has millions."""


@dataclass(frozen=True, slots=True)
class YamlFault:
    """Text that is not the YAML we take; positions count from 1."""

    line: int
    column: int
    code: str
    message: str
    hint: str


@dataclass(slots=True)
class YamlNode:
    """A value and where it starts. `value` is a scalar, a list of nodes, or a list of (key node, value node)."""

    line: int
    column: int
    value: Any
    is_mapping: bool = False

    @property
    def pairs(self) -> list[tuple["YamlNode", "YamlNode"]]:
        """Keys and values of a mapping, in order."""
        pairs: list[tuple[YamlNode, YamlNode]] = self.value
        return pairs

    @property
    def is_list(self) -> bool:
        """Whether this is a sequence."""
        return isinstance(self.value, list) and not self.is_mapping

    def plain(self) -> Any:
        """Return the JSON value: dict, list, str, int, float, bool or None."""
        if self.is_mapping:
            return {key.value: value.plain() for key, value in self.pairs}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def read_yaml(text: str) -> tuple[YamlNode | None, list[YamlFault]]:
    """Return the document, or None when it is empty or has a fault that no reading survives, and all faults."""
    faults = list(islice(_hidden_text(text), _MAX_HIDDEN))
    if faults:
        return None, faults
    builder = _Builder(faults)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if not builder.take(event):
                return None, faults
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = _inside(text, mark.line, mark.column) if mark is not None else (1, 1)
        hint = _syntax_hint(text, line, column)
        faults.append(YamlFault(line, column, "yaml", f"not YAML: {error.problem or error.context}", hint))
        return None, faults
    except yaml.YAMLError as error:
        faults.append(YamlFault(1, 1, "yaml", f"not YAML: {' '.join(str(error).split())}", "write plain YAML"))
        return None, faults
    return builder.root, faults


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Builder:
    """Builds nodes from events with its own stack, so that depth is bounded before memory or recursion is."""

    def __init__(self, faults: list[YamlFault]) -> None:
        self.root: YamlNode | None = None
        self._faults = faults
        self._open: list[YamlNode] = []
        self._keys: list[YamlNode | None] = []
        self._seen: list[set[str]] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> bool:
        """Add one event; False ends the reading."""
        line, column = _start_of(event)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._fault(line, column, "yaml", "a second document", "one file is one document: remove `---`")
                return False
        elif isinstance(event, yaml.AliasEvent):
            self._fault(line, column, "yaml-alias", "an alias", "write the value out: anchors and aliases are not read")
            self._add(YamlNode(line, column, None))
        elif isinstance(event, yaml.NodeEvent):
            self._start(event, line, column)
            if len(self._open) > MAX_DEPTH:
                self._fault(line, column, "yaml-depth", f"nested deeper than {MAX_DEPTH} levels", "flatten it")
                return False
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
            self._keys.pop()
            self._seen.pop()
        return True

    def _start(self, event: yaml.NodeEvent, line: int, column: int) -> None:
        if event.anchor is not None:
            hint = "write the value out: anchors and aliases are not read"
            self._fault(line, column, "yaml-alias", f"an anchor `&{event.anchor}`", hint)
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._fault(line, column, "yaml-tag", f"a tag `{tag}`", "remove it: values are plain data")
        if isinstance(event, yaml.ScalarEvent):
            node = YamlNode(line, column, self._scalar(event, line, column))
            self._add(node)
            return
        node = YamlNode(line, column, [], is_mapping=isinstance(event, yaml.MappingStartEvent))
        self._add(node)
        self._open.append(node)
        self._keys.append(None)
        self._seen.append(set())

    def _add(self, node: YamlNode) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if not parent.is_mapping:
            parent.value.append(node)
            return
        key = self._keys[-1]
        if key is None:
            self._keys[-1] = self._checked_key(node)
        else:
            parent.value.append((key, node))
            self._keys[-1] = None

    def _checked_key(self, node: YamlNode) -> YamlNode:
        if not isinstance(node.value, str):
            self._fault(node.line, node.column, "yaml-key", "a key that is no text", "quote it")
            return YamlNode(node.line, node.column, "")
        if node.value in self._seen[-1]:
            message = f"the key `{node.value}` stands here twice"
            self._fault(node.line, node.column, "duplicate-key", message, "keep one of them")
        else:
            self._seen[-1].add(node.value)
        return node

    def _scalar(self, event: yaml.ScalarEvent, line: int, column: int) -> Any:
        text: str = event.value
        if _UNSTORABLE.search(text) is not None:
            message = "text with a NUL or half a surrogate pair"
            self._fault(line, column, "control-character", message, "remove the escape")
        if event.style is not None and event.style != "":
            return text
        if text in _WORDS:
            return _WORDS[text]
        if text == "<<":
            self._fault(line, column, "yaml-alias", "a merge key", "write the values out, or quote it")
        if _AMBIGUOUS.match(text) is not None:
            message = f"readers of YAML do not agree on what `{text}` is"
            hint = f"quote it, as in `'{text}'`, or write `true`, `false` or a plain decimal number"
            self._fault(line, column, "ambiguous-scalar", message, hint)
            return text
        if _INTEGER.match(text) is not None:
            return self._integer(text, line, column)
        if _FLOAT.match(text) is not None:
            return self._float(text, line, column)
        return text

    def _integer(self, text: str, line: int, column: int) -> int:
        # int() of a very long literal is quadratic, and refused by Python itself past 4,300 digits.
        value = int(text) if len(text) <= len(str(MAX_INTEGER)) + 1 else MAX_INTEGER
        if not -MAX_INTEGER <= value < MAX_INTEGER:
            self._fault(line, column, "number-range", "a whole number beyond 64 bits", "quote it")
            return 0
        return value

    def _float(self, text: str, line: int, column: int) -> float:
        value = float(text)
        if value in {float("inf"), float("-inf")}:
            self._fault(line, column, "number-range", "a number too large", "quote it")
            return 0.0
        return value

    def _fault(self, line: int, column: int, code: str, message: str, hint: str) -> None:
        self._faults.append(YamlFault(line, column, code, message, hint))


def _start_of(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def _inside(text: str, line: int, column: int) -> tuple[int, int]:
    """Return a place counted from 1; one after the end of the text becomes the end of its last line."""
    lines = text.split("\n")
    return (line + 1, column + 1) if line < len(lines) else (len(lines), len(lines[-1]) + 1)


def _syntax_hint(text: str, line: int, column: int) -> str:
    """Return what is most often behind text that is not YAML."""
    shown = text.split("\n")[line - 1]
    if "\t" in shown[: column + 1]:
        return "indent with blanks, not with tabs"
    return "quote texts that hold `: `, ` #`, or begin with one of `[]{}&*!|>%@`"


def _hidden_text(text: str) -> Iterator[YamlFault]:
    if _HIDDEN.search(text) is not None:
        for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
            for match in _HIDDEN.finditer(line):
                name = f"U+{ord(match.group()):04X}"
                hint = "end lines with a line feed (LF, or CR LF)" if match.group() == "\r" else "remove or escape it"
                yield YamlFault(number, match.start() + 1, "control-character", f"control character {name}", hint)
    if not text.isascii() and BIDIRECTIONAL.search(text) is not None:
        for number, line in enumerate(text.split("\n"), 1):
            for match in BIDIRECTIONAL.finditer(line):
                message = f"U+{ord(match.group()):04X} makes text show in another order than it is read"
                yield YamlFault(number, match.start() + 1, "bidirectional-text", message, "remove it")
