"""What Label Studio is given: the form that annotators fill in, and the tasks.

https://labelstud.io/guide/task_format
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from llava_dvc.data.imports.formats.label_studio import ZONE_FIELD

NUMBER, HEADS, IMAGE = "people", "heads", "image"
"""Names in the form, and in what annotators answer."""

_FORM = """<View>
  <Header value="$note"/>
  <View style="display: flex; flex-wrap: wrap; align-items: center; column-gap: 12px">
{fields}
  </View>
{hint}  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
</View>
"""
_CAPTION = '    <Header value="{}" size="5"/>\n'
_NUMBER = _CAPTION + '    <Number name="people" toName="image" min="0" max="9999" step="1" {rule}/>'
_HEADS = (
    _CAPTION.format("Mark each")
    + '    <KeyPointLabels name="heads" toName="image" strokeWidth="5">\n'
    '      <Label value="head" background="#e6194b" selected="true"/>\n'
    "    </KeyPointLabels>"
)
_HINT = (
    '  <Header size="6" value="One click is one head only if Keep label selected is on in the '
    'settings below the picture. Else press 1 before each click."/>\n'
)
"""Label Studio takes the label away after each region. Later clicks would make no point."""
_ZONES = (
    _CAPTION.format("Draw the zone")
    + '    <PolygonLabels name="zone" toName="image" strokeWidth="3" opacity="0.2">\n'
    "{labels}\n"
    "    </PolygonLabels>"
)


@dataclass(frozen=True)
class Guess:
    """The model's answer for a frame."""

    count: int
    low: int
    high: int
    score: float
    """The probability of `count`."""
    model: str
    """The beginning of the adapter's digest."""

    def __str__(self) -> str:
        return f"The model counts {self.count} ({self.low} to {self.high})."


def form(heads: bool, zones: Collection[str] = ()) -> str:
    """The labelling configuration: a number, or with `heads` a point on each head.

    With heads the number may stay empty: it is that of the points. Of `zones`, annotators can draw
    the outlines.
    """
    fields = [_NUMBER.format("People", rule='required="true"')]
    if heads:
        fields = [_HEADS, _NUMBER.format("Number (optional)", rule="")]
    if zones:
        labels = (f"      <Label value={quoteattr(name)}/>" for name in sorted(zones))
        fields.append(_ZONES.format(labels="\n".join(labels)))
    return _FORM.format(fields="\n".join(fields), hint=_HINT if heads else "")


def asks_for(config: str, heads: bool, zones: Collection[str] = ()) -> bool:
    """Whether a configuration, perhaps edited by hand, has what `form` has."""
    names = {(tag.tag, tag.get("name")) for tag in _tags(config)}
    needed = {("Number", NUMBER), ("Image", IMAGE), *([("KeyPointLabels", HEADS)] if heads else [])}
    return needed <= names and set(zones) <= zones_asked(config)


def zones_asked(config: str) -> set[str]:
    """The zones that annotators can draw."""
    fields = [tag for tag in _tags(config) if tag.get("name") == ZONE_FIELD]
    return {label.get("value", "") for field in fields for label in field.iter("Label")}


def _tags(config: str) -> list[ElementTree.Element]:
    try:
        return list(ElementTree.fromstring(config).iter())
    except ElementTree.ParseError:
        return []


def asks_for_heads(config: str) -> bool:
    return asks_for(config, heads=True)


def task(
    name: str, image: str, known: Mapping[str, Any], guess: Guess | None, heads: bool
) -> dict[str, Any]:
    """The task of a frame. `image` is the picture's address.

    `known` may have the frame's `camera`, and its `label`: the count in labels.csv. A guess becomes
    a prediction, which fills in the form. With `heads` it does not: the number would contradict
    the points until all are there.
    """
    label = f"The label is {known['label']}." if "label" in known else ""
    note = f"{label} {guess or ''}".strip() or "How many people are there?"
    entry: dict[str, Any] = {"data": {"image": image, "frame": name, "note": note, **known}}
    if guess:
        number = {"type": "number", "from_name": NUMBER, "to_name": IMAGE}
        result = [] if heads else [{**number, "id": NUMBER, "value": {"number": guess.count}}]
        prediction = {"model_version": guess.model, "score": guess.score, "result": result}
        entry["predictions"] = [prediction]
    return entry
