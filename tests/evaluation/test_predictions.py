"""predictions/eval.csv."""

from llava_dvc.evaluation.predictions import prediction_table


def test_a_spreadsheet_runs_no_name(backbone, encoder, rows, cfg):
    names = ["=1.jpg", "+1.jpg", "-1.jpg", "@1.jpg", "a=1.jpg"]
    named = rows.select(range(5)).map(lambda _, place: {"frame": names[place]}, with_indices=True)
    table = prediction_table(backbone, encoder, named, cfg.evaluate, 1.0)
    assert table["frame"].tolist() == ["./=1.jpg", "./+1.jpg", "./-1.jpg", "./@1.jpg", "a=1.jpg"]
