"""The file is as datumaro 1.13 exports it (`voc`), and as LabelImg writes it, without decimals."""

import pytest

from tests.data.imports.formats.conftest import picture

FILE = """<annotation>
  <folder></folder>
  <filename>a1.jpg</filename>
  <source><database>Unknown</database></source>
  <size><width>64</width><height>48</height><depth>3</depth></size>
  <segmented>0</segmented>
  <object>
    <name>person</name>
    <truncated>0</truncated>
    <occluded>0</occluded>
    <difficult>0</difficult>
    <bndbox><xmin>10.0</xmin><ymin>4.0</ymin><xmax>18.0</xmax><ymax>24.0</ymax></bndbox>
  </object>
  <object>
    <name>person</name>
    <truncated>1</truncated>
    <occluded>1</occluded>
    <difficult>1</difficult>
    <bndbox><xmin>30</xmin><ymin>8</ymin><xmax>40</xmax><ymax>38</ymax></bndbox>
    <part>
      <name>head</name>
      <bndbox><xmin>31</xmin><ymin>8</ymin><xmax>39</xmax><ymax>14</ymax></bndbox>
    </part>
  </object>
  <object>
    <name>car</name>
    <bndbox><xmin>1.0</xmin><ymin>1.0</ymin><xmax>6.0</xmax><ymax>6.0</ymax></bndbox>
  </object>
</annotation>
"""
RESULT = {"a1.jpg": (2, [(14, 6), (35, 11)])}
"""By hand: 4 + (24 - 4) / 10 = 6."""


@pytest.fixture
def write(source):
    picture(source / "JPEGImages" / "a1.jpg")

    def write_xml(text, name="a1.xml"):
        path = source / "Annotations" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    return write_xml


def test_boxes_are_counted_and_parts_are_not(write, load, source):
    write(FILE)
    (source / "labelmap.txt").write_text("person:192,0,128::\n")
    assert load() == RESULT
    assert load(categories=["car"]) == {"a1.jpg": (1, [(3.5, 1.5)])}


@pytest.mark.parametrize("form", ["no file", "no object"])
def test_a_picture_without_objects_is_asked_for(write, load, refuse, source, form):
    write(FILE)
    picture(source / "JPEGImages" / "a2.jpg")
    if form == "no object":
        write("<annotation><filename>a2.jpg</filename></annotation>", "a2.xml")
    assert "1 picture has no annotation, such as a2.jpg. Add --empty zero" in refuse()
    assert load(empty="zero") == RESULT | {"a2.jpg": (0, [])}


def test_a_size_of_zero_is_no_size(write, load):
    write(FILE.replace("<width>64", "<width>0").replace("<height>48", "<height>0"))
    assert load() == RESULT


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
BAD = {
    "cut off": (FILE[:300], "a1.xml: is not valid XML"),
    "empty": ("", "a1.xml: is not valid XML (no element found"),
    "entities": (BOMB + FILE.replace("person", "&b;"), "has a document type, which annotations"),
    "other XML": ("<html/>", "begins with <html>, expected <annotation>"),
    "encoding": ('<?xml version="1.0" encoding="none"?>' + FILE, "is not valid XML (unknown enc"),
    "no name": (FILE.replace("<filename>a1.jpg</filename>", ""), "<filename> is 'None', expected"),
    "missing": (FILE.replace("a1.jpg", "b1.jpg"), "picture b1.jpg is not among the 1 pictures"),
    "no side": (FILE.replace("<xmin>10.0</xmin>", ""), "object 1: <xmin> is 'None', expected a nu"),
    "words": (FILE.replace("<xmin>10.0", "<xmin>left"), "object 1: <xmin> is 'left', expected a n"),
    "turned": (FILE.replace("<xmax>40", "<xmax>20"), "object 2: a box of 'person' has the corners"),
    "no class": (FILE.replace("<name>car</name>", ""), "object 3: <name> is 'None', expected a na"),
    "size": (FILE.replace("<width>64", "<width>128"), "for 128x48 pixels, but the picture has 64x"),
    "half size": (FILE.replace("<width>64", "<width>6.4"), "<width> is '6.4', expected a whole nu"),
    "outside": (
        FILE.replace("<xmin>10.0", "<xmin>70").replace("<xmax>18.0", "<xmax>80"),
        "(70, 4)",
    ),
    "category": (FILE.replace("person", "rider"), "has the categories car, rider. Say which"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(write, refuse, case):
    text, expected = BAD[case]
    write(text)
    text = refuse(format="voc")
    assert expected in text
    assert len(text.splitlines()) == 1


def test_two_files_about_one_picture_are_refused(write, refuse):
    write(FILE)
    write(FILE, "b1.xml")
    assert "is annotated here and in" in refuse()
