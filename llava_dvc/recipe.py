"""An adapter's folder: its recipe.json, and what its other files must be. Imports no torch."""

import base64
import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, ValidationError, field_validator
from safetensors import SafetensorError, safe_open

from llava_dvc import config, errors
from llava_dvc.config import Section
from llava_dvc.files import file_digest

WEIGHTS = "adapter_model.safetensors"
RECIPE = "recipe.json"
ADAPTER_CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
PROCESSOR_FILES = ("processor_config.json", "tokenizer.json", "tokenizer_config.json")
OLD_PROCESSOR_FILES = (
    "added_tokens.json", "preprocessor_config.json", "special_tokens_map.json", "tokenizer.model",
)  # fmt: skip
"""Files that transformers reads too, if they are there. llava-dvc does not write them."""
READ_FILES = (
    RECIPE, ADAPTER_CONFIG, WEIGHTS, CHAT_TEMPLATE_FILE, *PROCESSOR_FILES, *OLD_PROCESSOR_FILES,
)  # fmt: skip
"""Files that counting reads. A published folder has more."""
PACKAGES = (
    "accelerate", "bitsandbytes", "datasets", "numpy", "peft", "pillow", "tokenizers", "torch",
    "transformers", "trl",
)  # fmt: skip
"""Packages whose versions decide an adapter's bytes."""
LARGEST_COUNT = 9999
MAX_JSON = 64 * 2**20
"""Bytes of a JSON file of an adapter. A tokenizer of 260,000 words has half of it."""

MAX_CORNERS = 100
_Pixels = Annotated[float, Strict()]  # else "12" would be one
Corner = tuple[_Pixels, _Pixels]
"""`x` and `y` in pixels from the left and the top of the frame."""
Polygon = Annotated[tuple[Corner, ...], Field(min_length=3, max_length=MAX_CORNERS)]
"""The corners of a zone, in order."""
ANY_CAMERA = "*"

Shapes = dict[str, tuple[int, ...]]
"""The shapes of an adapter's tensors, by their names in its file."""


class Smoothing(Section):
    """The chain over the counts of neighbouring frames: see model.smoothing."""

    spread: float = Field(ge=1e-3, le=1e6)
    """From a frame to the next, P(step) ~ exp(-|step| / spread). Fitted on the labels."""
    temperature: float = Field(ge=1e-3, le=1e3)
    """Of the frames' distributions, in place of the single frame's. Fitted on validation frames."""


SCENE_SIZE = 64, 48
"""Columns and rows of a map of edges."""


class Scene(Section):
    """How the training frames of one camera look: see training.scenes."""

    camera: str | None
    """The name in the data set, if it has one."""
    mean: str
    """Mean map of their edges, row by row: 8 bits each, in base64."""
    spread: str
    """How much the map differs from frame to frame, in the same form."""
    limit: float = Field(gt=0)
    """The distance that one ordinary frame in a thousand exceeds."""

    @field_validator("mean", "spread")
    @classmethod
    def _check_map(cls, text: str) -> str:
        if len(base64.b64decode(text, validate=True)) != SCENE_SIZE[0] * SCENE_SIZE[1]:
            raise ValueError(f"it must have {SCENE_SIZE[0]} x {SCENE_SIZE[1]} bytes in base64")
        return text


class Zones(Section):
    """The areas of data/zones.json, and the one in which training counted."""

    name: str
    """`data.zone`: of the zone that training saw."""
    polygons: dict[str, dict[str, Polygon]]
    """By the name of the zone, then by camera. `*` is every other camera."""

    @field_validator("polygons", mode="before")
    @classmethod
    def _read_corners(cls, zones: Any) -> Any:
        """Makes tuples of the lists of JSON. A recipe is validated strictly, as Python values."""
        return _tuples(zones)

    @field_validator("polygons")
    @classmethod
    def _check_corners(cls, zones: dict[str, dict[str, Polygon]]) -> dict[str, dict[str, Polygon]]:
        for name, cameras in zones.items():
            for camera, polygon in cameras.items():
                if crosses_itself(polygon):
                    raise ValueError(f"the outline of {name} for camera {camera} crosses itself")
        return zones

    def polygon(self, name: str | None = None, camera: str | None = None) -> Polygon:
        """The outline of a zone for a camera. Raises UserError if there is none.

        Without a name it is the zone of the training; without a camera it is that of `*`.
        """
        name = self.name if name is None else name
        if name not in self.polygons:
            raise errors.unknown_zone(name, sorted(self.polygons))
        cameras = self.polygons[name]
        found = cameras.get(camera or ANY_CAMERA) or cameras.get(ANY_CAMERA)
        if found is None:
            raise errors.zone_without_camera(name, camera, list(cameras))
        return found


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def crosses_itself(polygon: Polygon) -> bool:
    """Whether two sides of the outline that are no neighbours meet."""
    sides = list(zip(polygon, polygon[1:] + polygon[:1], strict=True))
    last = len(sides) - 1
    return any(
        _meet(*sides[one], *sides[other])
        for one in range(len(sides))
        for other in range(one + 2, len(sides))
        if (one, other) != (0, last)
    )


def _meet(a: Corner, b: Corner, c: Corner, d: Corner) -> bool:
    """Whether the lines from a to b and from c to d cross."""
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _side(a: Corner, b: Corner, c: Corner) -> float:
    """Above 0 if c is on one side of the line from a to b, below 0 on the other."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


class Recipe(Section):
    """Everything that decides an adapter's answers, besides its weights and processor."""

    backbone: config.Backbone
    image: config.Image
    question: str
    decode: Literal["median", "mean", "mode", "greedy"]
    """How one number is read from the distribution over counts."""
    max_count: int = Field(ge=1, le=LARGEST_COUNT)
    """The largest count an answer can be."""
    flip: bool = False
    """Whether the distribution is the mean of those of the frame and of its mirror image."""
    temperature: float = Field(ge=1e-3, le=1e3)
    """Calibrates the distribution over counts. Fitted on the validation frames."""
    smoothing: Smoothing | None = None
    """None if the training or the validation frames had no neighbours in time."""
    zones: Zones | None = None
    """None if people in the whole frame are counted."""
    scenes: list[Scene] | None = Field(default=None, min_length=1)
    """One for each camera. None in old recipes, and if a camera has too few frames."""
    recomputed_layers: int | None = Field(default=None, ge=0)
    """Layers that training recomputed, as `train.checkpointing` asked. None in old recipes."""
    versions: dict[str, str]
    """Versions of the packages that made the adapter."""

    @field_validator("question")
    @classmethod
    def _check_question(cls, question: str) -> str:
        if not question.strip() or "<image>" in question:
            raise ValueError("it must be a question without <image>")
        return question

    def write(self, folder: Path) -> None:
        text = json.dumps(self.model_dump(), indent=2, ensure_ascii=False, sort_keys=True)
        (folder / RECIPE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Recipe":
        """Raises UserError when `folder` has no recipe, or an invalid one."""
        path = folder / RECIPE
        if not path.is_file():
            raise errors.recipe_not_found(path)
        values = read_object(path)
        if isinstance(image := values.get("image"), dict):
            image.setdefault("tiles", [1, 1])  # a recipe from before tiles
        try:
            return cls.model_validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:
                raise errors.unreadable_adapter_file(path, first["msg"]) from None
            where = ".".join(map(str, first["loc"]))
            if first["type"] == "missing":
                raise errors.missing_adapter_setting(path, where) from None
            raise errors.wrong_adapter_setting(path, where, first["input"], first["msg"]) from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of an adapter. Raises UserError when it has none."""
    require_file(path)
    if (size := path.stat().st_size) > MAX_JSON:
        raise errors.too_large(path, size, MAX_JSON)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise errors.unreadable_adapter_file(path, f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise errors.unreadable_adapter_file(path, "not a JSON object")
    return value


def require_file(path: Path) -> None:
    """Raises UserError when a file of an adapter is missing, or is a Git LFS pointer."""
    if not path.is_file():
        raise errors.adapter_file_not_found(path)
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise errors.unreadable_adapter_file(path, str(error.strerror)) from None
    if start.startswith(b"version https://git-lfs.github.com/"):
        raise errors.lfs_pointer(path)


def weight_shapes(folder: Path) -> Shapes:
    """The shapes in the header of an adapter's weights. Reads no weights.

    Raises UserError when the file is missing, cut off or not in the safetensors format, or when a
    tensor is not float32.
    """
    path = folder / WEIGHTS
    require_file(path)  # PEFT would take a pickle instead
    shapes: Shapes = {}
    try:
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118, it is not a dict
                tensor = file.get_slice(name)
                shapes[name] = tuple(tensor.get_shape())
                if (dtype := tensor.get_dtype()) != "F32":
                    raise errors.wrong_tensor(path, name, f"is {dtype}, expected F32")
    except (OSError, SafetensorError) as error:
        reason = f"cut off, or not safetensors: {error}"
        raise errors.unreadable_adapter_file(path, reason) from None
    return shapes


def read_manifest(folder: Path) -> dict[str, Any]:
    """A published folder's manifest. Raises UserError when it is missing or is not ours."""
    path = folder / MANIFEST
    if not path.is_file():
        raise errors.not_found(path)
    manifest = read_object(path)
    match manifest:
        case {
            "adapter_sha256": str(),
            "inputs_md5": dict(),
            "evaluate": dict(),
            "files": [*entries],
        } if all(_is_entry(entry) for entry in entries):
            return manifest
    raise errors.UserError(
        f"{path}: is not a manifest of llava-dvc. Name a folder that the publish stage built."
    )


def _is_entry(entry: object) -> bool:
    match entry:
        case {"path": str(), "size": int(), "sha256": str()}:
            return True
    return False


def manifest_entry(folder: Path, name: str) -> dict[str, Any]:
    """Path, size and sha256 of a file, as a manifest has them."""
    path = folder / name
    return {"path": name, "size": path.stat().st_size, "sha256": file_digest(path, "sha256")}


def require_unchanged(folder: Path) -> None:
    """Raises UserError when a file that counting reads differs from the manifest beside it.

    Does nothing if there is no manifest: only a published folder has one.
    """
    if not (folder / MANIFEST).exists():
        return
    manifest = read_manifest(folder)
    listed = {e["path"]: e for e in manifest["files"] if "/" not in e["path"]}
    for name in READ_FILES:
        present = (folder / name).is_file()
        if name in listed and not present:
            raise errors.adapter_file_differs(folder / name, "missing")
        if present and name not in listed:
            raise errors.adapter_file_differs(folder / name, "new")
        if present and listed[name] != manifest_entry(folder, name):
            raise errors.adapter_file_differs(folder / name, "changed")
    if listed.get(WEIGHTS, {}).get("sha256") != manifest["adapter_sha256"]:
        raise errors.adapter_file_differs(folder / WEIGHTS, "changed")


def backbone_digest(backbone: config.Backbone) -> str:
    """What identifies a backbone: its commit on the Hub, or the md5 of its local weights."""
    weights = sorted(Path(backbone.name).glob("*.safetensors"))
    return backbone.revision or ".".join(file_digest(path, "md5") for path in weights)


def versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def adapter_sha256(folder: Path) -> str:
    """Identifies an adapter by its weights."""
    return file_digest(folder / WEIGHTS)
