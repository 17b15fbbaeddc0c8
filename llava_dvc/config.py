"""What a run is asked to do: `params.yaml` as one frozen, closed tree of types.

There are no defaults here: every value stands in `params.yaml`, which is what DVC hashes. That is
why this module may stay out of the stages' `deps`.
"""

import difflib
import reprlib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from llava_dvc.errors import UserError

PARAMS = Path("params.yaml")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind in (int, float, int | None):
            raise PydanticCustomError("number", "expected a number")
        return value


class Data(Section):
    exclude: tuple[str, ...]
    """Names of frames to leave out, relative to data/frames/."""
    on_error: Literal["stop", "skip"]
    """What bad rows and files do: stop prepare, or be left out, listed and logged."""
    max_skipped: int = Field(ge=0)
    """More rows and files than this stop even then."""


class Split(Section):
    strategy: Literal["temporal", "blocked", "random", "camera"]
    eval: float = Field(gt=0, lt=1)
    """Share of all frames that is only ever evaluated on."""
    val: float = Field(gt=0, lt=1)
    """Share of all frames that training watches but does not learn from."""
    gap: int = Field(ge=0)
    """Frames left out between neighbouring splits, because neighbours in time are nearly the same
    picture.
    """
    train_until: int | None = Field(ge=0)
    """A frame number that overrides `eval`: everything after it is evaluation."""

    @model_validator(mode="after")
    def _can_be_done(self) -> "Split":
        if self.eval + self.val >= 1:
            raise ValueError(
                f"split.eval + split.val is {self.eval + self.val:g}: nothing is left to train on; "
                "make them smaller"
            )
        if self.train_until is not None and self.strategy != "temporal":
            raise ValueError(
                f"split.train_until: is {self.train_until}, but split.strategy is "
                f"{self.strategy}; set train_until to null, or strategy to temporal"
            )
        return self


class Prompt(Section):
    phrasings: Literal["all", "first"]
    """Which lines of data/messages.txt train; evaluation always asks the first."""


class Image(Section):
    geometry: Literal["pad", "squash", "crop"]
    drop_border: bool
    """Give the border that `pad` adds no tokens: a quarter less to compute for a 4:3 frame."""

    @model_validator(mode="after")
    def _has_a_border(self) -> "Image":
        if self.drop_border and self.geometry != "pad":
            raise ValueError(
                f"image.drop_border: is true, but image.geometry is {self.geometry} and only pad "
                "adds a border; set drop_border to false"
            )
        return self


class Backbone(Section):
    name: str = Field(min_length=1)
    """A local folder or a Hub id."""
    revision: str | None
    """Commit of the Hub repository; null for a local folder."""
    quantization: Literal["nf4", "none"]
    dtype: Literal["float32", "bfloat16", "float16"]
    """What the backbone computes in; its adapters are always float32."""
    unpacked: bool
    """Keep the 4-bit weights in `dtype` too: the same numbers, faster, four times their memory."""
    device: Literal["cpu", "cuda"]
    threads: int = Field(ge=1)
    """CPU threads of PyTorch: sums are taken in another order with another number, so it is part of
    the result.
    """


class Adapter(Section):
    method: Literal["lora", "rslora", "dora", "lora_plus"]
    r: int = Field(ge=1)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    projector: bool
    vision: bool


class Train(Section):
    launcher: str = Field(pattern=r"^(python|accelerate launch\b.*|torchrun\b.*)$")
    """What starts the stage: `python`, or the command that starts it once a GPU."""
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Frames at once, over all processes together."""
    accumulation: int = Field(ge=1)
    """Batches whose gradients are added up before a step."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate, reached when warm-up ends."""
    scheduler: Literal["constant", "linear", "cosine"]
    warmup: float = Field(ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: float = Field(ge=0)
    loss: Literal["ce", "soft", "expected"]
    """What a wrong number costs: see llava_dvc/losses.py."""
    optimizer: Literal["adamw", "adamw_8bit"]
    """`adamw_8bit` keeps its two averages in 8 bits (arXiv 2110.02861): 6 bytes a weight less."""
    augment: tuple[Literal["flip", "light", "blur"], ...]
    """Other pictures of the same people. `flip` trains on every frame and on its mirror image: an
    epoch is twice as long.
    """
    checkpointing: Literal["auto"] | bool
    """Recompute activations in the backward pass: less memory, more time. `auto` does so where they
    would not fit into the GPU's free memory.
    """
    compile: bool
    """Compile the layers of language model and tower: faster steps after half a minute."""
    save_every: int = Field(ge=1)
    """Steps between two checkpoints that a killed run can resume from."""
    validate_every: int | None = Field(ge=1)
    """Steps between two countings of the validation frames, besides the one after every epoch. The
    adapter that is kept is the one that counted them best.
    """
    patience: int | None = Field(ge=1)
    """Stop after so many countings in a row that were not the best; null never stops early."""
    workers: int = Field(ge=0)
    """Processes that decode frames beside the training loop."""


class Evaluate(Section):
    batch_size: int = Field(ge=1)
    max_count: int = Field(ge=1, le=9999)
    """The largest count an answer can be."""
    decode: Literal["median", "mean", "mode", "greedy"]
    compile: bool
    """Add the adapter into the weights and compile what language model and tower compute: faster
    after half a minute; in 16 bits the last digits differ.
    """


class Publish(Section):
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Hub repository, `owner/name`."""
    private: bool
    merge: bool
    """Also make a model of its own, backbone and adapter in one, and evaluate that."""
    push: bool
    """Upload when the stage has run; never inside an experiment."""
    force: bool
    """Upload even what counts worse than its baselines."""


class Config(Section):
    seed: int = Field(ge=0)
    data: Data
    split: Split
    prompt: Prompt
    image: Image
    backbone: Backbone
    adapter: Adapter
    train: Train
    evaluate: Evaluate
    publish: Publish


def load_config(path: Path = PARAMS) -> Config:
    """Read and check `path`; raises UserError with one line per wrong value."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found. Run from the repository's root.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8. Save it as UTF-8.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: has no sections. Copy presets/tiny.yaml over it.")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {line}" for line in _lines(error))) from None


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"train": {"epochs": 1}}` as `{"train.epochs": 1}`, as DVC and MLflow show params."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _lines(error: ValidationError) -> Iterator[str]:
    """One line a mistake: a misspelt key is not reported as missing too, nor a value that is none
    of several types once for each.
    """
    meant = {_meant(p["loc"]) for p in error.errors() if p["type"] == "extra_forbidden"}
    found = dict.fromkeys(_line(p) for p in error.errors())
    missing = {f"{where}: {_MISSING}" for where in meant}
    yield from (line for line in found if line not in missing)


_MISSING = "missing; add it (presets/tiny.yaml shows every key)"


def _line(problem: ErrorDetails) -> str:
    where, kind = _place(problem["loc"])
    value = reprlib.repr(problem["input"])
    choices = _choices(kind)
    match problem["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key; did you mean {_meant(problem['loc'])}?"
        case "missing":
            return f"{where}: {_MISSING}"
        case "value_error":
            return str(problem["ctx"]["error"])
        case "model_type" | "model_attributes_type":
            return f"{where}: is {value}, expected a section with keys of its own"
        case "tuple_type":
            return f"{where}: is {value}, expected a list"
        case _ if choices:
            expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
            return f"{where}: is {value}, expected {expected}{_nearest(problem['input'], choices)}"
        case _:
            return f"{where}: is {value}; {problem['msg']}"


def _place(location: tuple[int | str, ...]) -> tuple[str, Any]:
    """A value's name in params.yaml, and its type; which member of a union failed is left out."""
    kind: Any = Config
    names: list[str] = []
    for part in location:
        fields = getattr(kind, "model_fields", None)
        if fields is None and not isinstance(part, int):
            break
        names.append(str(part))
        field = (fields or {}).get(str(part))
        kind = field.annotation if field else None
    return ".".join(names), kind


def _choices(kind: Any) -> list[str]:
    """The words that a value can be, as YAML has them; none when it can be more than words."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [repr(word) for word in get_args(kind)]
    if get_origin(kind) in (Union, UnionType):
        return [word for part in get_args(kind) for word in _choices(part)]
    return []


def _nearest(value: object, choices: list[str]) -> str:
    words = [choice.strip("'") for choice in choices]
    near = difflib.get_close_matches(str(value).lower(), words, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _meant(location: tuple[int | str, ...]) -> str:
    """The known key nearest to an unknown one, as params.yaml writes it."""
    *sections, key = map(str, location)
    section: Any = Config
    for name in sections:
        section = section.model_fields[name].annotation
    nearest = difflib.get_close_matches(key, section.model_fields, n=1, cutoff=0)
    return ".".join([*sections, *nearest])
