"""One short script a stage; each ends when the `dvc` that started it ends."""

from llava_dvc.stage_runner import end_with_parent

end_with_parent()  # before a stage's own imports, which take seconds
