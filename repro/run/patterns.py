"""What ``--metric`` says: a metric's name, and how its numbers are found in a line of output.

The group of an expression says *where* the number is; the number itself is read as a whole, whatever the group's
character class (docs/adr/0027-metrics-of-output.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from repro.errors import ConfigError

_SIGN = r"(?:(?<![\w.)\]])[+\-\u2212])?"
_DIGITS = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]+(?:_[0-9]+)*)"
_WORDS = r"(?:nan|NaN|NAN|inf|Inf|INF|Infinity|∞)(?!\w)"
_NUMBER = rf"{_SIGN}(?:(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+\-\u2212]?[0-9]+)?%?|{_WORDS})"
_TOKEN = re.compile(_NUMBER)
#: What directly follows a number that is part of something else, and would be read wrongly if it were cut off.
_TAIL = re.compile(
    r"[xX][0-9a-fA-F]|[dD][+-]?[0-9]|[kKMGTB](?![A-Za-z])|[kKMG](?:it|i?B)|\.[0-9]|j\b|[+-][0-9.]+j\b"
    r"|\s?[\u00d7x*]\s?10\s?(?:\^|\*\*)"
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_IDENTIFIER = re.compile(r"[A-Za-z_][\w./-]*")
#: A ``NAME=`` that something else than text follows is text of the line itself: ``Epoch=\d+ loss=(...)``.
_NAMED = re.compile(r"([A-Za-z_][\w./-]*)=(?=[A-Za-z\"'<{]|\\b|\\[\[({]|\^|\(\?[aiLmsux:=!<]|\[[A-Za-z])")
_ATOM = re.compile(
    r"(?P<escape>\\.)|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<flag>\(\?[aiLmsux-]+\)|\(\?#[^)]*\)|\(\?P=\w+\))"
    r"|(?P<open>\((?:\?(?:P<\w+>|[aiLmsux-]*:|[=!>]|<[=!]))?)|(?P<close>\))|(?P<times>[*+?]|\{[0-9,]+\})|(?P<text>.)",
    re.DOTALL,
)
#: Numbers as people print them: a group that takes none of them says more than where the number is.
_SAMPLES = "0 5 42 100 1234 0.5 0.25 1.0 12.34 99.9 123.456 0.1234 -1 -0.5 1e-05 6.05e-06 nan".split()
#: Between a name and its number, in ``loss=``, ``loss: ``, ``"loss": ``, ``loss -> tensor(``.
_BETWEEN = r"""["']?(?:\s*(?:[:=]|->|=>)\s*|\s+)["']?(?:[A-Za-z_][\w.]*\()?"""
#: Escapes that stand for a place or a gap, not for a letter.
_GAPS = ("\\b", "\\B", "\\s", "\\S", "\\A", "\\W", "\\t", "\\n")
_SEPARATORS = ("\\s", "\\t", "\\=", "\\:", '\\"', "\\'", "\\ ", "\\[", "\\(", "\\{", "\\$")
_FORMS = "--metric loss, --metric NAME=REGEX, or a named group: (?P<loss>...)"


class Number(NamedTuple):
    """A number of a line, as printed; ``value`` is None where it cannot be read in one way alone."""

    text: str
    value: float | None


class Pattern(NamedTuple):
    """One metric of the output: its name, the expression as it was given, and what searches a line."""

    name: str
    text: str
    search: re.Pattern[str]

    def numbers(self, line: str) -> list[Number]:
        """Return the numbers of a line that this pattern is about, in their order; terminal colours do not count."""
        line = _ESCAPES.sub("", line)
        spans = [found.span(1) for found in self.search.finditer(line) if found[1]]
        return [_whole(line, *span) for span in spans]


def parse(texts: Sequence[str]) -> dict[str, str]:
    """Return name and expression of every ``--metric``.

    Raises:
        ConfigError: for one that has no name, more than one, or that of another.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, expression = _split(text)
        if name in found:
            raise ConfigError(
                f"--metric {text!r}: the metric {name} has a pattern already, {found[name]!r}",
                hint=f"give each a name of its own: --metric '{name}_2=...'",
            )
        compile_pattern(name, expression)
        found[name] = expression
    return found


def compile_pattern(name: str, text: str) -> Pattern:
    """Return the pattern of a metric: of a word (as in ``loss=0.5`` or ``"loss": 0.5``), or of an expression.

    Raises:
        ConfigError: when the expression cannot be compiled, or has not one group.
    """
    if _IDENTIFIER.fullmatch(text):
        return Pattern(name, text, re.compile(rf"(?<![\w./-]){re.escape(text)}{_BETWEEN}({_NUMBER})"))
    try:
        compiled = re.compile(text)
    except re.error as error:
        raise ConfigError(f"--metric {text!r}: not a regular expression: {error}", hint=_FORMS) from error
    if compiled.groups != 1:
        raise ConfigError(
            f"--metric {text!r}: one group for the value is expected, not {compiled.groups}",
            hint="--metric loss finds loss=0.5, or put ( ) around the number; (?: ) makes a group that takes nothing",
        )
    return Pattern(name, text, _widened(text, compiled))


def _whole(line: str, start: int, end: int) -> Number:
    """Return the whole number that a part of a line belongs to."""
    token = next((item for item in _TOKEN.finditer(line) if item.start() < end and item.end() > start), None)
    if token is None:
        return Number(line[start:end], None)
    tail = _TAIL.match(line, token.end())
    is_cut = tail is not None or ("." not in token[0] and re.match(r",[0-9]", line[token.end() :]) is not None)
    if is_cut:
        return Number(re.split(r"\s", line[token.start() :], maxsplit=1)[0], None)
    return Number(token[0], _value(token[0]))


def _value(token: str) -> float:
    """Return a number as it is printed: 12% is 12."""
    return float(token.rstrip("%").replace(",", "").replace("\u2212", "-").replace("∞", "inf"))


def _widened(text: str, compiled: re.Pattern[str]) -> re.Pattern[str]:
    """Return an expression with any number in place of its group, if the group takes numbers."""
    group = _group(text)
    if group is None or compiled.flags & re.VERBOSE:
        return compiled
    start, end = group
    try:
        inner = re.compile(text[start:end], compiled.flags)
        is_number = any(inner.fullmatch(sample) for sample in _SAMPLES)
        return re.compile(f"{text[:start]}{_NUMBER}{text[end:]}", compiled.flags) if is_number else compiled
    except re.error:  # it refers to something outside of the group
        return compiled


class _Atom(NamedTuple):
    """One piece of an expression; whether it is ``repeated`` by what follows it."""

    kind: str
    text: str
    place: int
    repeated: bool


def _atoms(text: str) -> list[_Atom]:
    atoms: list[_Atom] = []
    for piece in _ATOM.finditer(text):
        if piece.lastgroup != "times":
            atoms.append(_Atom(str(piece.lastgroup), piece[0], piece.start(), repeated=False))
        elif atoms:
            atoms[-1] = atoms[-1]._replace(repeated=True)
    return atoms


def _group(text: str) -> tuple[int, int] | None:
    """Return where the inside of the only capturing group begins and ends."""
    depth, start = 0, -1
    for kind, atom, place, _ in _atoms(text):
        if kind == "open":
            if start < 0 and (atom == "(" or atom.startswith("(?P<")):
                start, depth = place + len(atom), 0
            depth += 1
        elif kind == "close":
            depth -= 1
            if start >= 0 and depth == 0:
                return start, place
    return None


def _split(text: str) -> tuple[str, str]:
    """Return name and expression of one ``--metric``."""
    if _IDENTIFIER.fullmatch(text):
        return text, text
    named = _NAMED.match(text)
    if named is not None and _has_words(text[named.end() :]):
        return named[1], text[named.end() :]
    pattern = compile_pattern("", text)
    names = list(pattern.search.groupindex)
    name = names[0] if names else _word_before(text)
    if name is None:
        raise ConfigError(f"--metric {text!r}: what the metric is called is not clear", hint=_FORMS)
    return name, text


def _has_words(text: str) -> bool:
    """Say whether an expression has text of its own before its group, or is a word alone."""
    if _IDENTIFIER.fullmatch(text):
        return True
    group = _group(text)
    before = text[: group[0]] if group is not None else ""
    return any(atom.kind == "text" and atom.text.isalpha() for atom in _atoms(before))


def _word_before(text: str) -> str | None:
    """Return the identifier directly before the group; None where there is none, or a part of it is not text."""
    group = _group(text)
    if group is None:
        return None
    atoms = _atoms(text[: group[0]])[:-1]
    while atoms and _is_separator(atoms[-1]):
        atoms.pop()
    word = ""
    while atoms and _is_of_word(atoms[-1]):
        word = atoms.pop().text[-1] + word
    word = word.lstrip("0123456789./-")
    return word if word and (not atoms or _is_boundary(atoms[-1])) else None


def _is_separator(atom: _Atom) -> bool:
    if atom.kind == "text":
        return atom.text in " =:\"'>" or (atom.repeated and atom.text in "+-")
    if atom.kind == "escape":
        return atom.text in _SEPARATORS
    return atom.kind == "set" and not any(char.isalnum() for char in atom.text.replace("\\s", ""))


def _is_of_word(atom: _Atom) -> bool:
    if atom.repeated:
        return False
    if atom.kind == "text":
        return atom.text.isalnum() or atom.text in "_/.-"
    return atom.text in ("\\.", "\\-", "\\/", "\\_")


def _is_boundary(atom: _Atom) -> bool:
    """Say whether a word may begin after this: it takes no letter that the word goes on with."""
    if atom.kind == "text":
        return not (atom.text.isalnum() or (atom.text == "." and not atom.repeated))
    if atom.kind == "escape":
        return atom.text in _GAPS or not atom.text[-1].isalnum()
    return atom.kind == "flag" or (atom.kind == "set" and not any(char.isalnum() for char in atom.text))
