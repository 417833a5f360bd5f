"""The whole config system: a table lookup, a signature check, and a record of what was called."""

from __future__ import annotations

import ast
import contextlib
import contextvars
import difflib
import inspect
import itertools
import numbers
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from data_pipelines.errors import InputError

T = TypeVar("T")

# Fields that Flax adds to every module's constructor; they are no options of ours.
_FRAMEWORK_FIELDS = ("self", "parent", "name")
# Annotations of several texts. A text alone has letters for items, and would pass for them.
_LISTS = {"Sequence[str]", "tuple[str, ...]", "list[str]", "Classes"}
# Annotation -> what it is called, alone and as the items of a list. What is not here is not judged.
_KINDS = {
    "int": ("a whole number", "whole numbers"),
    "float": ("a number", "numbers"),
    "bool": ("True or False", "True or False"),
    "str": ("a text", "texts"),
}
_SEVERAL, _GROUPS = ("Sequence", "list", "tuple"), ("Mapping", "dict")


class Call(NamedTuple):
    """A call of `build` or `call`; of arguments only those that a config can hold.

    Attributes:
      where: what the arguments belong to: an option's name, or a sentence that has it in quotes.
      entry: the name in the table; None where there is no table.
      given: the arguments.
      resolved: the arguments with the defaults of the others.
      defaults: those of the signature.
    """

    where: str
    entry: str | None
    given: Mapping[str, Any]
    resolved: Mapping[str, Any]
    defaults: Mapping[str, Any]


_CALLS: contextvars.ContextVar[list[Call] | None] = contextvars.ContextVar("calls", default=None)


@contextlib.contextmanager
def recording() -> Iterator[list[Call]]:
    """Inside it all calls of `build` and `call` are added to the list."""
    calls: list[Call] = []
    token = _CALLS.set(calls)
    try:
        yield calls
    finally:
        _CALLS.reset(token)


def _record(
    where: str,
    entry: str | None,
    function: Callable[..., Any],
    given: Mapping[str, Any],
    objects: Collection[str] = (),
) -> None:
    calls = _CALLS.get()
    if calls is None:
        return
    signature = inspect.signature(function)
    bound = signature.bind(**given)
    bound.apply_defaults()
    resolved = {name: bound.arguments[name] for name in options(function)}
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            resolved |= resolved.pop(name)
    defaults = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if parameter.default is not parameter.empty and name not in _FRAMEWORK_FIELDS
    }
    parts = [
        {name: value for name, value in found.items() if name not in objects}
        for found in (given, resolved, defaults)
    ]
    calls.append(Call(where, entry, *map(_plain, parts)))


class _Object(Exception):
    """A value that no config can hold."""


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that JSON can hold, as it holds them: lists for tuples."""

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): convert(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [convert(item) for item in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise _Object

    found = {}
    for name, value in arguments.items():
        with contextlib.suppress(_Object):
            found[name] = convert(value)
    return found


def options(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the keyword arguments that `function` accepts, in the order of its signature."""
    parameters = inspect.signature(function).parameters
    return tuple(name for name in parameters if name not in _FRAMEWORK_FIELDS)


def _accepted(what: str, names: tuple[str, ...], given: str) -> str:
    close = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{what}: {', '.join(names)}.{hint}"


def _lists_texts(parameter: inspect.Parameter) -> bool:
    """Whether an argument takes several texts, and not one as well, by its annotation."""
    kinds = [kind.strip() for kind in str(parameter.annotation).split("|")]
    return "str" not in kinds and not _LISTS.isdisjoint(kinds)


def _annotated(parameter: inspect.Parameter) -> ast.expr:
    """The annotation of an argument; without a text of it, one of which nothing is known."""
    found = parameter.annotation
    return ast.parse(found if isinstance(found, str) else "Any", mode="eval").body


def _fits(value: Any, kind: ast.expr) -> bool:
    """Whether plain data is of an annotation; objects, and what is unknown here, are."""
    match kind:
        case ast.BinOp(left=left, right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, *_])):
            return _fits(value, inner)
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in _SEVERAL:
            return _object(value) or (isinstance(value, list | tuple) and _fit(value, inner))
        case ast.Subscript(value=ast.Name(id=name)) if name in _GROUPS:
            return _object(value) or isinstance(value, Mapping)
        case ast.Name(id="bool"):
            return _object(value) or isinstance(value, bool)
        case ast.Name(id="str"):
            return _object(value) or isinstance(value, str)
        case ast.Name(id=("int" | "float") as name):
            number = numbers.Integral if name == "int" else numbers.Real
            return _object(value) or (isinstance(value, number) and not isinstance(value, bool))
    return True


def _object(value: Any) -> bool:
    """Whether a value is nothing that a config can hold: the program made it."""
    held = (bool, int, float, str, list, tuple, Mapping)
    return value is not None and not isinstance(value, held)


def _fit(values: Sequence[Any], inner: ast.expr) -> bool:
    """Whether the items of a list are of what stands in the brackets of its annotation."""
    each, length = _items(inner)
    return length in (None, len(values)) and all(map(_fits, values, itertools.cycle(each)))


def _items(inner: ast.expr) -> tuple[list[ast.expr], int | None]:
    """What stands in the brackets of a list's annotation, and how long such a list is."""
    if not isinstance(inner, ast.Tuple):
        return [inner], None
    *each, last = inner.elts
    several = isinstance(last, ast.Constant) and last.value is Ellipsis
    return (each, None) if several else (inner.elts, len(inner.elts))


def _words(kind: ast.expr, items: bool = False) -> str:
    """What an annotation is called in a sentence, or as the items of a list."""
    match kind:
        case ast.BinOp(left=left, right=right):
            return f"{_words(left, items)} or {_words(right, items)}"
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, *_])):
            return _words(inner, items)
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in _SEVERAL:
            each, length = _items(inner)
            number = f"{length} " if length else ""
            return f"{'lists' if items else 'a list'} of {number}{_words(each[0], True)}"
        case ast.Subscript(value=ast.Name(id=name)) if name in _GROUPS:
            return "groups of options" if items else "a group of options"
        case ast.Name(id=name) if name in _KINDS:
            return _KINDS[name][items]
    return ast.unparse(kind)


def check_options(where: str, function: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Raises InputError if `function(**keywords)` has an unknown or a missing argument.

    So does plain data of another type than the annotation of the argument.

    Args:
      where: what the keywords belong to, for the message.
      function: a callable without positional-only arguments.
      keywords: the arguments it is about to be called with.
    """
    signature = inspect.signature(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    names = options(function)
    for key in keywords:
        if key not in names and not takes_any:
            raise InputError(
                f"{where} has no option '{key}'. {_accepted('It accepts', names, key)}"
            )
        parameter = signature.parameters.get(key)
        if parameter is not None and isinstance(keywords[key], str) and _lists_texts(parameter):
            raise InputError(
                f"{where}: '{key}' is a list of texts, and '{keywords[key]}' is one; write "
                f"('{keywords[key]}',)."
            )
        if parameter is not None and not _fits(keywords[key], kind := _annotated(parameter)):
            raise InputError(f"{where}: '{key}' is {_words(kind)}, got {keywords[key]!r}.")
    try:
        signature.bind(**keywords)
    except TypeError as error:
        raise InputError(f"{where}: {error}. {_accepted('It accepts', names, '')}") from None


def call(where: str, function: Callable[..., T], /, **keywords: Any) -> T:
    """`function(**keywords)`, or one sentence about an option of `where` that it does not take."""
    check_options(where, function, keywords)
    _record(where, None, function, keywords)
    return function(**keywords)


def options_of(table: Mapping[str, Callable[..., Any]], spec: Mapping[str, Any]) -> tuple[str, ...]:
    """What the entry of `table` accepts; nothing for a name it lacks, which `build` refuses."""
    return options(table[spec["name"]]) if spec.get("name") in table else ()


def build(
    table: Mapping[str, Callable[..., T]],
    spec: Mapping[str, Any],
    /,
    where: str = "",
    **objects: Any,
) -> T:
    """Calls the entry of `table` that `spec['name']` names, with the rest of `spec` as arguments.

    Args:
      table: name -> class or function.
      spec: `{'name': ..., **keyword arguments}`.
      where: the option that has the spec, for the record, where it is not in the config as such.
      **objects: already built arguments that no config can hold (a model, a data source).

    Returns:
      What the table's entry returns.

    Raises:
      InputError: for a name that is not in the table, an argument the entry does not take (the
        sentence lists what is accepted), or one in `spec` that is among `objects`.
    """
    keywords = dict(spec)
    name = keywords.pop("name", None)
    names = tuple(sorted(table))
    if name not in table:
        raise InputError(f"There is no '{name}' here. {_accepted('Known names', names, str(name))}")
    if given_twice := sorted(set(keywords) & set(objects)):
        raise InputError(f"'{given_twice[0]}' is no option of '{name}': the program sets it.")
    keywords.update(objects)
    check_options(f"'{name}'", table[name], keywords)
    _record(where, name, table[name], keywords, objects)
    return table[name](**keywords)
