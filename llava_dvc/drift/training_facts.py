"""What an adapter's published folder says of its training."""

from dataclasses import dataclass
from pathlib import Path

from llava_dvc.errors import UserError
from llava_dvc.recipe import Recipe, adapter_sha256
from llava_dvc.serving.page.served_model import EVALUATION, read_evaluation
from llava_dvc.serving.watch.reading import ADAPTER_DIGITS


@dataclass(frozen=True)
class TrainingFacts:
    """The frames that were held out from the training, and what is known of all the others.

    The folder does not keep the counts of the training frames themselves.
    """

    adapter: str
    """The first digits of its sha256."""
    frames: int
    """That were held out."""
    bins: dict[int, int]
    """By ten, how many of them have a label from this number to 9 above."""
    width: float
    """Mean width of their 80 % intervals, in people."""
    zone: str
    """In which people were counted; empty for the whole frame."""
    knows_scenes: bool
    """Whether `watch` can tell how far a picture is from the training frames."""

    @property
    def fewest(self) -> int:
        return min(self.bins)

    @property
    def most(self) -> int:
        return max(self.bins) + 9

    @classmethod
    def read(cls, folder: Path) -> "TrainingFacts":
        """Raises UserError when `folder` is not what the publish stage built, or an old one."""
        recipe = Recipe.read(folder)
        figures = read_evaluation(folder)
        if figures is None or not {"bins", "width_80", "frames"} <= figures.keys():
            raise UserError(
                f"{folder / EVALUATION}: is missing or lacks `bins` and `width_80`, and readings "
                "are compared with them. Name the folder that the publish stage built."
            )
        bins = {int(name.split("-")[0]): row["frames"] for name, row in figures["bins"].items()}
        return cls(
            adapter=adapter_sha256(folder)[:ADAPTER_DIGITS],
            frames=figures["frames"],
            bins=bins,
            width=figures["width_80"],
            zone=recipe.zones.name if recipe.zones else "",
            knows_scenes=recipe.scenes is not None,
        )
