"""One short script a stage; each ends when the `dvc` that started it ends."""

from llava_dvc.stage_runner import end_with_parent, show_one_line

end_with_parent()  # before a stage's own imports, which take seconds
show_one_line()
