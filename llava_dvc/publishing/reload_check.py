"""Checks that a published folder gives the evaluation's answers.

A new process loads the folder. Like a user, it has nothing else.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from llava_dvc.config import Evaluate
from llava_dvc.errors import UserError
from llava_dvc.files import csv_name
from llava_dvc.terminal.progress import Advance, advance, reported_to

FRAMES = 32
CR = "\ue00d"  # a private-use character in place of a carriage return
MODULE = "llava_dvc.publishing.reload_check"
PERCENT = "percent: "
"""Begins a line in which the new process says how far it is."""


def require_same_answers(
    folder: Path, prepared: Path, predictions: Path, evaluate: Evaluate
) -> int:
    """Returns the number of frames that were compared. Says to `advance` how many percent are done.

    Raises UserError when `folder` cannot be loaded, or its answers are not `predictions`.
    """
    command = [sys.executable, "-m", MODULE, str(folder), str(prepared), evaluate.model_dump_json()]
    with TemporaryFile("w+", errors="replace") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
            answers = relay_progress(child.stdout or ())
        errors.seek(0)
        why = errors.read().strip().splitlines() or [f"exit code {child.returncode}"]
    if child.returncode:
        raise UserError(f"published: does not load in a new process: {why[-1]}")
    found = json.loads(answers)
    compare_answers(found, predictions)
    return len(found)


def relay_progress(lines: Iterable[str]) -> str:
    """Passes the percentages on to `advance`. Returns the last of the other lines."""
    last, before = "", 0
    for line in lines:
        if line.startswith(PERCENT):
            now = int(line.removeprefix(PERCENT))
            advance(now - before)
            before = now
        else:
            last = line
    return last


def percent_lines(total: int) -> Advance:
    """Writes a line to standard output now and at each call."""
    done = 0

    def report(amount: int) -> None:
        nonlocal done
        done += amount
        sys.stdout.write(f"{PERCENT}{100 * done // total}\n")
        sys.stdout.flush()

    report(0)
    return report


def read_predictions(path: Path) -> dict[str, dict[str, str]]:
    """Rows of predictions/eval.csv by frame."""
    # pandas writes a lone carriage return without quotes. csv would end the line there.
    text = path.read_bytes().decode().replace("\r", CR)
    rows = [
        {k: v.replace(CR, "\r") for k, v in row.items()} for row in csv.DictReader(StringIO(text))
    ]
    return {row["frame"]: row for row in rows}


def compare_answers(answers: list[dict[str, Any]], predictions: Path) -> None:
    """Raises UserError when a frame's count or reply differs from its row in `predictions`."""
    rows = read_predictions(predictions)
    lines = []
    for answer in answers:
        row = rows[answer["frame"]]
        for column in ("predicted", "reply"):
            if str(answer[column]) != row[column]:
                found = f"{column} {answer[column]!r}, {predictions} has {row[column]!r}"
                lines.append(f"{answer['frame']}: {found}")
    if lines:
        raise UserError(
            "published: in a new process its answers differ from the evaluation "
            f"{len(lines)} times in {len(answers)} frames ({lines[0]}); run `dvc repro -f "
            "evaluate` on this machine"
        )


def answer_frames(folder: Path, prepared: Path, evaluate: Evaluate) -> list[dict[str, Any]]:
    """Frame, count and reply of the first FRAMES held-out frames, rounded up to whole batches: each
    frame is then computed in the same batch as in the evaluation.
    """
    from llava_dvc.checks.loading import load_checked_adapter
    from llava_dvc.dataset import load_split
    from llava_dvc.evaluation.decoding import decode_answers
    from llava_dvc.evaluation.merged_weights import merge_and_compile
    from llava_dvc.model.counting import CountPredictor

    model, encoder, recipe = load_checked_adapter(folder)
    if evaluate.compile:
        merge_and_compile(model)
    rows = load_split(prepared, "eval")
    batches = -(-FRAMES // evaluate.batch_size)
    rows = rows.select(range(min(len(rows), batches * evaluate.batch_size)))
    predictor = CountPredictor(model, encoder, recipe.question, recipe.max_count, flip=recipe.flip)
    with reported_to(percent_lines(len(encoder.pictures(rows["image"])))):
        answers = predictor.predict(rows["image"], evaluate.batch_size)
    decoded = decode_answers(answers, recipe.temperature, recipe.decode)
    columns = zip(
        map(csv_name, rows["frame"]), decoded.count.tolist(), decoded.replies, strict=True
    )
    return [{"frame": f, "predicted": count, "reply": reply} for f, count, reply in columns]


if __name__ == "__main__":
    try:
        answers = answer_frames(
            Path(sys.argv[1]), Path(sys.argv[2]), Evaluate(**json.loads(sys.argv[3]))
        )
    except UserError as error:
        sys.exit(str(error))
    sys.stdout.write(f"\n{json.dumps(answers)}\n")
