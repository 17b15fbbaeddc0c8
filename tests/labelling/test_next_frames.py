"""Which frames are labelled next."""

from llava_dvc.labelling.next_frames import spread_in_time


def test_each_next_frame_is_far_from_all_before():
    names = [f"{n:03d}.jpg" for n in range(101)]
    groups = ["hall"] * 101
    chosen = spread_in_time(names, groups, (), 5)
    assert chosen == ["050.jpg", "000.jpg", "100.jpg", "025.jpg", "075.jpg"]
    assert spread_in_time(names, groups, chosen[:3], 2) == chosen[3:]
    assert spread_in_time(names, groups, (), 200)[:5] == chosen
    assert sorted(spread_in_time(names, groups, (), 200)) == names


def test_cameras_take_turns():
    names = [f"{n:03d}.jpg" for n in range(40)]
    groups = ["a", "b"] * 20
    known = [name for name, group in zip(names, groups, strict=True) if group == "a"][::2]
    chosen = spread_in_time(names, groups, known, 4)
    assert {groups[names.index(name)] for name in chosen} == {"b"}
    mixed = spread_in_time(names, groups, (), 6)
    assert sorted(groups[names.index(name)] for name in mixed) == ["a"] * 3 + ["b"] * 3


def test_nothing_is_left():
    assert spread_in_time(["a.jpg"], ["."], {"a.jpg"}, 3) == []
    assert spread_in_time([], [], (), 3) == []
