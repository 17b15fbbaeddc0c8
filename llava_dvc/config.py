"""The settings of a run: `params.yaml` as frozen types that allow no unknown key.

`python -m llava_dvc.config` prints the JSON schema of params.yaml for editors: params.schema.json.
No field has a default: every value is in `params.yaml`, which DVC tracks. For that reason this
module is not in the stages' `deps`.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

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
from pydantic_core import PydanticCustomError

from llava_dvc.config_errors import validation_lines
from llava_dvc.errors import UserError

PARAMS = Path("params.yaml")
LARGEST_NUMBER = 2**32 - 1
"""The largest seed of NumPy. No setting needs a larger number."""
MAX_PROCESSES = 1024
"""Of threads and of processes that load frames."""
MAX_TILES = 4
"""Across and down."""
Tiles = Annotated[int, Field(ge=1, le=MAX_TILES)]


class Section(BaseModel):
    """A section of params.yaml: frozen, without unknown keys, without infinity and NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _require_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses true and false for a number; pydantic would read them as 1 and 0."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation in (int, float, int | None):
            raise PydanticCustomError("number", "Expected a number")
        return value

    @field_validator("*")
    @classmethod
    def _require_small_number(cls, value: Any) -> Any:
        if isinstance(value, int | float) and abs(value) > LARGEST_NUMBER:
            raise PydanticCustomError("number", f"Expected at most {LARGEST_NUMBER}")
        return value


class Data(Section):
    exclude: tuple[str, ...]
    """Names of frames to leave out: paths inside data/frames/."""
    on_error: Literal["stop", "skip"]
    """With invalid rows or files prepare stops, or leaves them out and lists them."""
    max_skipped: int = Field(ge=0)
    """prepare stops when more rows and files than this would be skipped."""
    zone: str | None
    """A zone of data/zones.json: only people in it are counted. null counts in the whole frame."""
    unlabelled: Literal["refuse", "allow"]
    """Pictures in data/frames/ without a row in labels.csv are errors, or are only counted."""


class Split(Section):
    strategy: Literal["temporal", "blocked", "random", "camera"]
    eval: float = Field(gt=0, lt=1)
    """Share of all frames that is only used for evaluation."""
    val: float = Field(gt=0, lt=1)
    """Share of all frames on which training selects a checkpoint, without learning from them."""
    gap: int = Field(ge=0)
    """Frames left out between two splits: neighbours in time are nearly the same image."""
    train_until: int | None = Field(ge=0)
    """A frame number that replaces `eval`: all frames after it are for evaluation."""

    @model_validator(mode="after")
    def _check_combination(self) -> "Split":
        if self.eval + self.val >= 1:
            raise ValueError(
                f"split.eval: is {self.eval:g} and split.val is {self.val:g}, together "
                f"{self.eval + self.val:g}. Lower them: their sum must be below 1, so that frames "
                "are left for training."
            )
        if self.train_until is not None and self.strategy != "temporal":
            raise ValueError(
                f"split.train_until: is {self.train_until}, but split.strategy is "
                f"{self.strategy}. Set train_until to null, or strategy to temporal."
            )
        return self


class Prompt(Section):
    phrasings: Literal["all", "first"]
    """The lines of data/messages.txt that train; evaluation always asks the first."""


class Image(Section):
    geometry: Literal["pad", "squash", "crop"]
    drop_border: bool
    """Leave out the tokens of the border that `pad` adds: a quarter of those of a 4:3 frame."""
    tiles: tuple[Tiles, Tiles]
    """Columns and rows of tiles that a frame is cut into; each tile is counted on its own."""

    @field_validator("tiles", mode="before")
    @classmethod
    def _check_tiles(cls, value: Any) -> tuple[int, int]:
        match value:
            case [int(columns), int(rows)] if not any(isinstance(part, bool) for part in value):
                if min(columns, rows) >= 1 and max(columns, rows) <= MAX_TILES:
                    return columns, rows
        raise PydanticCustomError(
            "tiles", f"Expected columns and rows, each 1 to {MAX_TILES}, as in [1, 1]"
        )

    @model_validator(mode="after")
    def _check_border(self) -> "Image":
        if self.drop_border and self.geometry != "pad":
            raise ValueError(
                f"image.drop_border: is true, but image.geometry is {self.geometry} and only pad "
                "adds a border. Set drop_border to false."
            )
        return self


class Backbone(Section):
    name: str = Field(min_length=1)
    """A local folder or a Hub id."""
    revision: str | None
    """Commit of the Hub repository; null for a local folder."""
    quantization: Literal["nf4", "fp8", "none"]
    """Of the language model's linear layers. fp8 needs a GPU of compute capability 8.9 or more; a
    CPU imitates it slowly.
    """
    dtype: Literal["float32", "bfloat16", "float16"]
    """Data type of the backbone's computation; adapters are always float32."""
    unpacked: bool
    """Also keep the 4-bit weights in `dtype`: equal results, faster, four times the memory."""
    device: Literal["cpu", "cuda"]
    threads: int = Field(ge=1, le=MAX_PROCESSES)
    """CPU threads of PyTorch: their number changes the order of sums, and so the last digits."""


class Adapter(Section):
    method: Literal["lora", "rslora", "dora", "lora_plus"]
    r: int = Field(ge=1)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    projector: bool
    vision: bool


class Train(Section):
    launcher: str = Field(pattern=r"^(python|accelerate launch\b.*|torchrun\b.*)$")
    """`python`, or a command that starts one process for each GPU."""
    epochs: int = Field(ge=1)
    min_steps: int = Field(ge=1)
    """With splices: few frames are spliced more often, for at least this many steps in all."""
    batch_size: int = Field(ge=1)
    """Frames per batch, over all processes."""
    accumulation: int = Field(ge=1)
    """Batches whose gradients are summed for one step."""
    learning_rate: float = Field(gt=0)
    """The highest learning rate, at the end of the warm-up."""
    scheduler: Literal["constant", "linear", "cosine"]
    warmup: float = Field(ge=0, lt=1)
    """Share of the steps during which the learning rate rises from 0."""
    weight_decay: float = Field(ge=0)
    loss: Literal["ce", "soft", "expected"]
    """See llava_dvc/training/losses.py."""
    points: float = Field(ge=0)
    """Weight of the loss on where the people stand, if data/ has a points.csv. See
    llava_dvc/training/points.py.
    """
    optimizer: Literal["adamw", "adamw_8bit"]
    """`adamw_8bit` keeps its two moments in 8 bits: 6 bytes less per weight (arXiv 2110.02861)."""
    augment: tuple[Literal["flip", "splice", "light", "blur"], ...]
    """Augmentations that keep the count, or that know it. With `flip`, or with `splice` and points,
    an epoch has four copies of every frame. See llava_dvc/training/augment.py.
    """
    checkpointing: Literal["auto"] | bool | Annotated[int, Field(ge=1)]
    """Recompute activations in the backward pass, of all layers of the language model or of this
    number: less memory, more time. `auto` recomputes as few layers as the GPU's free memory allows.
    """
    compile: bool
    """Use torch.compile for the layers of language model and vision tower: the steps are faster
    after half a minute.
    """
    save_every: int = Field(ge=1)
    """Steps between two checkpoints; a killed run resumes from the last one."""
    checkpoint_to: str | None = Field(pattern=r"^(\w[\w+.-]*://.|/.)")
    """A folder for copies of the checkpoints, from which another machine resumes: an absolute path,
    or an address that fsspec knows. null makes no copies.
    """
    validate_every: int | None = Field(ge=1)
    """Steps between two validations; null validates only after every epoch. The adapter with the
    best validation is kept.
    """
    patience: int | None = Field(ge=1)
    """Stop after this many validations without a new best one; null never stops early."""
    workers: int = Field(ge=0, le=MAX_PROCESSES)
    """Processes that decode frames for the training loop; 0 decodes in the loop itself."""


class Evaluate(Section):
    batch_size: int = Field(ge=1)
    max_count: int = Field(ge=1, le=9999)
    """The largest count that an answer can have."""
    decode: Literal["median", "mean", "mode", "greedy"]
    flip: bool
    """Average the distributions of a frame and of its mirror image: twice the time."""
    compile: bool
    """Merge the adapter into the weights and use torch.compile: faster after half a minute. In 16
    bits the last digits differ.
    """


class Publish(Section):
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """Hub repository, `owner/name`."""
    private: bool
    merge: bool
    """Also build and evaluate one model of backbone and adapter merged."""
    push: bool
    """Upload at the end of the stage; never inside a DVC experiment."""
    force: bool
    """Upload even an adapter that is worse than its baselines."""

    @model_validator(mode="after")
    def _check_push(self) -> "Publish":
        if self.push:
            self.require_own_repo()
        return self

    def require_own_repo(self) -> None:
        """Raises UserError if `repo` is still the one of the presets."""
        if self.repo.startswith("your-name/"):
            raise UserError(
                f"publish.repo: is {self.repo}, a placeholder. Set it to OWNER/NAME, a repository "
                "of your own on the Hub."
            )


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

    @model_validator(mode="after")
    def _check_dora(self) -> "Config":
        if self.adapter.method == "dora" and self.backbone.quantization == "fp8":
            raise ValueError(
                "adapter.method: is dora, but backbone.quantization is fp8, and DoRA needs 16-bit "
                "weights. Set method to lora."
            )
        return self


def load_config(path: Path = PARAMS) -> Config:
    """Reads and checks `path`; raises UserError with one line for each mistake."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: is not a regular file. Copy presets/tiny.yaml over it.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found. Run from the repository's root.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8. Save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Correct the path.") from None
    except Exception as error:  # PyYAML raises any kind for a date or a number that is none
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML ({reason}). Correct it there.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: has no sections. Copy presets/tiny.yaml over it.")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = validation_lines(error, Config)
        raise UserError("\n".join(f"{path}: {line}" for line in lines)) from None


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"train": {"epochs": 1}}` as `{"train.epochs": 1}`, as DVC and MLflow show params."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def params_schema() -> str:
    """The text of params.schema.json."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(params_schema())
