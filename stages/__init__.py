"""One short script a stage; each ends when the `dvc` that started it ends."""

from llava_dvc.stage_runner import start_stage

start_stage()  # before a stage's own imports, which take seconds
