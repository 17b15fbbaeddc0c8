from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llava_dvc.tracking.tensorboard import EventWriter


def read_scalars(folder, tag):
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_each_point_is_on_the_disk_at_once(tmp_path):
    writer = EventWriter(tmp_path / "run")
    for step in range(3):
        writer.add_scalars({"train/loss": float(step)}, step)
        assert read_scalars(tmp_path / "run", "train/loss")[-1] == (step, float(step))
    writer.close()


def test_a_second_writer_adds_only_new_steps(tmp_path):
    for steps in (range(3), range(1, 5)):
        writer = EventWriter(tmp_path)
        for step in steps:
            writer.add_scalars({"train/loss": float(step)}, step)
        writer.close()
    assert read_scalars(tmp_path, "train/loss") == [(step, float(step)) for step in range(5)]


def test_a_folder_that_cannot_be_written_costs_one_line(tmp_path, capfd):
    (tmp_path / "runs").write_text("a file in place of the folder")
    writer = EventWriter(tmp_path / "runs" / "brave-cat")
    for step in range(3):
        writer.add_scalars({"train/loss": 1.0}, step)
    writer.close()
    (line,) = capfd.readouterr().err.splitlines()
    expected = f"tensorboard: {tmp_path}/runs/brave-cat: Not a directory; the stage continues"
    assert line.startswith(expected)


def test_a_disk_that_fills_up_costs_one_line(tmp_path, capfd, monkeypatch):
    writer = EventWriter(tmp_path)
    writer.add_scalars({"train/loss": 1.0}, 1)
    with open("/dev/full", "wb") as full:  # every write fails with ENOSPC
        monkeypatch.setattr(writer._records, "_writer", full)
        for step in (2, 3):
            writer.add_scalars({"train/loss": 1.0}, step)
        writer.close()
        monkeypatch.undo()
    writer.close()
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        f"tensorboard: {tmp_path}: No space left on device; the stage continues without it"
    )
    assert read_scalars(tmp_path, "train/loss") == [(1, 1.0)]
