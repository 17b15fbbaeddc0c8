"""Writes pydantic's errors as lines about params.yaml: the key, its value, the remedy."""

import difflib
import reprlib
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]
"""The keys that lead to a value, as pydantic has them."""

MISSING = "missing. Add it (presets/tiny.yaml has every key)."


def validation_lines(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """One line for each mistake in the values that `model` refused.

    A misspelt key is not reported a second time as missing. A value that fits no member of a union
    is reported once, not once for each member.
    """
    details = error.errors()
    unknown = [d["loc"] for d in details if d["type"] == "extra_forbidden"]
    meant = {f"{_nearest_key(location, model)}: {MISSING}" for location in unknown}
    lines = dict.fromkeys(_setting_line(d, model) for d in details)
    yield from (line for line in lines if line not in meant)


def _setting_line(details: ErrorDetails, model: type[BaseModel]) -> str:
    key, annotation = _key_and_type(details["loc"], model)
    value = _shown(details["input"])
    words = _allowed_words(annotation)
    match details["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key. Did you mean {_nearest_key(details['loc'], model)}?"
        case "missing":
            return f"{key}: {MISSING}"
        case "value_error":
            return str(details["ctx"]["error"])
        case "model_type" | "model_attributes_type":
            return f"{key}: is {value}, expected a section with keys of its own."
        case "tuple_type":
            return f"{key}: is {value}, expected a list."
        case _ if words:
            expected = f"{', '.join(words[:-1])} or {words[-1]}"
            return f"{key}: is {value}, expected {expected}.{_suggestion(details['input'], words)}"
        case _:
            return f"{key}: is {value}. {details['msg']}."


def _shown(value: object) -> str:
    """A value in few characters."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"


def _key_and_type(location: Location, model: type[BaseModel]) -> tuple[str, Any]:
    """A value's key in params.yaml and its type; the members of a union have no key."""
    annotation: Any = model
    names: list[str] = []
    for part in location:
        fields = getattr(annotation, "model_fields", None)
        if fields is None and not isinstance(part, int):
            break
        names.append(str(part))
        field = (fields or {}).get(str(part))
        annotation = field.annotation if field else None
    return ".".join(names), annotation


def _allowed_words(annotation: Any) -> list[str]:
    """The words that a value may be, as YAML writes them; empty for other types."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [repr(word) for word in get_args(annotation)]
    if get_origin(annotation) in (Union, UnionType):
        parts = get_args(annotation)
        words = [word for part in parts for word in _allowed_words(part)]
        numbers = any(get_origin(part) is Annotated for part in parts)
        return [*words, "a whole number above 0"] if numbers else words
    return []


def _suggestion(value: object, words: list[str]) -> str:
    bare = [word.strip("'") for word in words]
    nearest = difflib.get_close_matches(str(value).lower(), bare, n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""


def _nearest_key(location: Location, model: type[BaseModel]) -> str:
    """The known key that is most like an unknown one, as params.yaml writes it."""
    *sections, key = map(str, location)
    section: Any = model
    for name in sections:
        section = section.model_fields[name].annotation
    nearest = difflib.get_close_matches(key, section.model_fields, n=1, cutoff=0)
    return ".".join([*sections, *nearest])
