"""XML as a tree whose elements know their line, without what makes XML from strangers dangerous."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..errors import InputError

_DEEP, _MANY = 64, 100_000  # elements; real files have some ten levels and some hundreds


@dataclass(slots=True)
class Element:
    """An element.

    Parameters
    ----------
    tag : str
    attributes : mapping
    where : str
        File and line, for errors.
    children : list of Element
    """

    tag: str
    attributes: Mapping[str, str]
    where: str
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[Element]:
        """Elements of a tag below this one, in order."""
        for child in self.children:
            if child.tag == tag:
                yield child
            yield from child.all(tag)

    def text(self, name: str) -> str:
        """Value of an attribute; InputError where it is missing."""
        try:
            return self.attributes[name]
        except KeyError:
            raise InputError(f"{self.where}: <{self.tag}> has no attribute {name!r}") from None

    def number(self, name: str, low: float, high: float, default: str | None = None) -> float:
        """Number of an attribute; InputError where it is missing without a default, or out of range."""
        said = self.text(name) if default is None else self.attributes.get(name, default)
        match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*", said)
        if match is None or not low <= float(match[1]) <= high:
            raise InputError(f"{self.where}: <{self.tag}> {name}={said!r:.40} (legal: {low:g} to {high:g})")
        return float(match[1])


def parse_tree(text: str, where: str) -> Element:
    """Root element of an XML text; document types, and with them entities, are refused.

    Raises
    ------
    InputError
        One line with the line of the text where it is not well formed, too deep or too long.
    """
    from xml.parsers import expat

    parser = expat.ParserCreate()
    top = Element("", {}, where)
    stack = [top]
    count = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        place = f"{where}: line {parser.CurrentLineNumber}"
        if len(stack) > _DEEP or count > _MANY:
            raise InputError(f"{place}: too much XML (legal: at most {_DEEP} levels and {_MANY} elements)")
        stack.append(Element(tag, attributes, place))
        stack[-2].children.append(stack[-1])

    def doctype(*_: object) -> None:
        raise InputError(f"{where}: line {parser.CurrentLineNumber}: a document type (legal: elements only)")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: stack.pop()
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text, True)
    except expat.ExpatError as problem:
        said = expat.errors.messages[problem.code]
        raise InputError(f"{where}: line {problem.lineno}: is not whole XML: {said}") from None
    except ValueError as problem:  # such as a declared encoding that does not exist
        if isinstance(problem, InputError):
            raise
        raise InputError(f"{where}: is not XML: {problem}") from None
    return top.children[0]
