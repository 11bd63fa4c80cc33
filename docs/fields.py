"""What the sources do not spell out, for the reference: the constructor that fields make.

Equinox writes the `__init__` of a module from its fields, those of its bases first. griffe, which
reads the sources for the site, does not know of it; nor does a class's page have the attributes
that a base documents.
"""

import re
from collections.abc import Iterator
from typing import Any

import griffe

MODULE = "equinox.Module"
PLACE = re.compile(r"^Attributes:\n((?:[ \t]+.*\n?|\n(?=[ \t]))*)", re.MULTILINE)
NAME = re.compile(r"^    (\w+)(?: \(.*\))?:", re.MULTILINE)


class Fields(griffe.Extension):
    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        modules = [cls for cls in classes(pkg, set()) if is_module(cls)]
        texts = {cls.path: written(cls) for cls in modules}
        for cls in modules:
            if "__init__" not in cls.members:
                cls.set_member("__init__", constructor(cls))
            inherit_attributes(cls, texts)


def classes(place: griffe.Object, seen: set[str]) -> Iterator[griffe.Class]:
    for member in place.members.values():
        if member.is_alias or member.path in seen:
            continue
        seen.add(member.path)
        if isinstance(member, griffe.Class):
            yield member
        if isinstance(member, griffe.Module | griffe.Class):
            yield from classes(member, seen)


def line_of(cls: griffe.Class) -> list[griffe.Class]:
    """The class and what it inherits from, in the order that attributes are looked for."""
    try:
        return [cls, *cls.mro()]
    except ValueError:
        return [cls]


def is_module(cls: griffe.Class) -> bool:
    bases = (base for one in line_of(cls) for base in one.bases)
    return any(getattr(base, "canonical_path", base) == MODULE for base in bases)


def constructor(cls: griffe.Class) -> griffe.Function:
    found: dict[str, griffe.Parameter] = {}
    for one in reversed(line_of(cls)):
        for member in one.members.values():
            if isinstance(member, griffe.Attribute) and is_field(member):
                found[member.name] = parameter(member)  # a field keeps the place of the first
    ordered = sorted(found.values(), key=lambda one: one.kind is griffe.ParameterKind.keyword_only)
    itself = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    made = griffe.Function(
        "__init__", parameters=griffe.Parameters(itself, *ordered), returns="None", parent=cls
    )
    return made


def is_field(attribute: griffe.Attribute) -> bool:
    annotation = attribute.annotation
    if annotation is None or "property" in attribute.labels:
        return False
    outer = annotation.left if isinstance(annotation, griffe.ExprSubscript) else annotation
    if str(outer).rpartition(".")[2] in ("ClassVar", "AbstractClassVar", "AbstractVar"):
        return False
    return str(settings(attribute).get("init")) != "False"


def settings(attribute: griffe.Attribute) -> dict[str, Any]:
    """The keyword arguments of `eqx.field(...)`."""
    value = attribute.value
    called = value.canonical_path if isinstance(value, griffe.ExprCall) else ""
    if called not in ("equinox.field", "dataclasses.field"):
        return {}
    return {one.name: one.value for one in value.arguments if isinstance(one, griffe.ExprKeyword)}


def parameter(attribute: griffe.Attribute) -> griffe.Parameter:
    asked = settings(attribute)
    default = attribute.value
    if asked or (isinstance(default, griffe.ExprCall) and "field" in default.canonical_path):
        default = asked.get("default", made(asked.get("default_factory")))
    only = str(asked.get("kw_only")) == "True"
    kinds = griffe.ParameterKind
    kind = kinds.keyword_only if only else kinds.positional_or_keyword
    return griffe.Parameter(
        attribute.name, annotation=attribute.annotation, kind=kind, default=default
    )


def made(factory: Any) -> Any:
    if factory is None:
        return None
    return factory.body if isinstance(factory, griffe.ExprLambda) else f"{factory}()"


def written(cls: griffe.Class) -> dict[str, str]:
    """The lines on each attribute in the class's own docstring."""
    place = PLACE.search(cls.docstring.value) if cls.docstring else None
    if place is None:
        return {}
    block = place[1]
    starts = [*NAME.finditer(block)]
    ends = [one.start() for one in starts[1:]] + [len(block)]
    return {one[1]: block[one.start() : ends[i]].rstrip() for i, one in enumerate(starts)}


def inherit_attributes(cls: griffe.Class, texts: dict[str, dict[str, str]]) -> None:
    if cls.docstring is None:
        return
    own = texts[cls.path]
    lent: dict[str, str] = {}
    for base in line_of(cls)[1:]:
        lent = {k: v for k, v in texts.get(base.path, {}).items() if k not in own} | lent
    if not lent:
        return
    more, text = "\n".join(lent.values()), cls.docstring.value
    place = PLACE.search(text)
    if place:
        head, tail = text[: place.end()].rstrip(), text[place.end() :]
        cls.docstring.value = f"{head}\n{more}\n\n{tail}"
    else:
        head, mark, tail = text.partition("\nExamples:")
        cls.docstring.value = f"{head.rstrip()}\n\nAttributes:\n{more}\n{mark}{tail}"
