"""One short script a stage; each ends with the `dvc` that started it."""

from llava_dvc.stage_runner import end_with_parent

end_with_parent()  # here, because the stages' imports take seconds
