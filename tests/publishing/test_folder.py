"""The published folder, its manifest and its model card."""

import functools
import hashlib
import json
import re
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import jinja2
import pytest
from huggingface_hub import ModelCard

from llava_dvc import config
from llava_dvc.errors import UserError
from llava_dvc.evaluation.improvement import Improvement
from llava_dvc.evaluation.predictions import comparison_table, verdict
from llava_dvc.files import WORST, read_json
from llava_dvc.publishing import card
from llava_dvc.publishing.folder import verify_manifest, version_tag
from llava_dvc.publishing.push import baseline_warnings
from llava_dvc.publishing.training_frames import (
    SAMPLE,
    TrainingFrames,
    drawn_examples,
    read_training_frames,
)
from llava_dvc.recipe import Recipe, Zones
from tests.conftest import ROOT
from tests.publishing.published import BASELINE, FIGURES, facts, publish, write_adapter


@pytest.fixture
def folder(cfg, tmp_path):
    return publish(cfg, tmp_path)


def test_the_worst_frames_are_not_published(folder):
    pictures = {path.name for path in (folder / "plots").iterdir()}
    assert "prediction_vs_truth.png" in pictures
    assert WORST not in pictures


def test_the_same_bytes_every_time(cfg, tmp_path):
    one, two = publish(cfg, tmp_path, "one"), publish(cfg, tmp_path, "two")
    names = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert {"README.md", "manifest.json", "recipe.json"} <= {str(name) for name in names}
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert version_tag(one) == version_tag(two)


def test_another_evaluation_is_another_version(cfg, tmp_path):
    other = {**FIGURES, "temperature": 2.0}
    assert version_tag(publish(cfg, tmp_path, "one")) != version_tag(
        publish(cfg, tmp_path, "two", metrics=other)
    )


def test_the_manifest_lists_every_other_file(folder, cfg):
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = {f["path"]: f for f in manifest["files"]}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            entry = listed.pop(path.relative_to(folder).as_posix())
            assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert entry["size"] == path.stat().st_size
    assert not listed
    predictions = (folder.parent / "eval.csv").read_bytes()
    assert manifest["inputs_md5"]["predictions"] == hashlib.md5(predictions).hexdigest()
    assert manifest["inputs_md5"]["data"] == "abc.dir"
    assert manifest["evaluate"] == cfg.evaluate.model_dump()


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def damage(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (
            damage,
            r"adapter_model\.safetensors: is changed since manifest\.json was .* \(1 files",
        ),
        (lambda f: (f / "recipe.json").unlink(), r"recipe\.json: is missing since"),
        (lambda f: (f / "notes.txt").touch(), r"notes\.txt: is new since"),
        (
            lambda f: (f / "manifest.json").write_text("{}"),
            r"manifest\.json: is not a manifest of llava-dvc\. Name",
        ),
        (
            lambda f: change_json(f / "manifest.json", inputs_md5={}),
            r"manifest\.json: inputs_md5\.data: is not a digest\. Build the folder again",
        ),
        (lambda f: (f / "manifest.json").unlink(), r"manifest\.json: not found; run `dvc repro`"),
    ],
)
def test_a_folder_that_differs_from_its_manifest_is_refused(folder, fault, line):
    assert verify_manifest(folder)["files"]
    fault(folder)
    with pytest.raises(UserError, match=line):
        verify_manifest(folder)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("evaluate", {"mae": None}),
        ("evaluate", {"mae": "2"}),
        ("baseline", {"ridge_features": {}}),
        ("baseline", {"ridge_features": 3}),
    ],
)
def test_metrics_without_their_figures_are_refused(folder, name, values):
    change_json(folder / "metrics" / f"{name}.json", **values)
    with pytest.raises(
        UserError, match=r"evaluate\.json: has no number mae, or baseline\.json lacks"
    ):
        baseline_warnings(folder)


@pytest.mark.parametrize("content", [b"[1]", b"\xff", b"{", b"1" * 5000])
def test_metrics_that_are_no_json_object_are_refused(folder, content):
    (folder / "metrics" / "evaluate.json").write_bytes(content)
    with pytest.raises(UserError, match=r"evaluate\.json: cannot be read \(not "):
        baseline_warnings(folder)


@pytest.mark.parametrize("flip", [False, True])
def test_the_recipe_has_the_decoding_of_the_evaluation(cfg, tmp_path, flip):
    evaluate = cfg.evaluate.model_copy(update={"flip": flip})
    folder = publish(cfg.model_copy(update={"evaluate": evaluate}), tmp_path)
    recipe = Recipe.read(folder)
    assert (recipe.decode, recipe.max_count) == ("median", evaluate.max_count)
    assert (recipe.flip, recipe.temperature) == (flip, 1.5)


def test_the_hub_can_read_the_card(folder):
    data = ModelCard.load(folder / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("peft", "image-text-to-text")
    assert data.base_model_relation == "adapter"
    assert {"lora", "qlora", "cctv"} <= set(data.tags)
    found = {r.metric_type: r.metric_value for r in data.eval_results}
    assert found == {name: FIGURES[name] for name in card.HEADLINE}
    assert len(found) == 5
    assert {r.dataset_revision for r in data.eval_results} == {"abc.dir"}


def test_the_text_of_the_card_states_the_facts(folder):
    text = ModelCard.load(folder / "README.md").text
    for words in (
        "| this adapter | 1.00 | 1.53 | 50.0% |",
        "| ridge features | 3.00 | 4.00 | 20.0% |",
        "*How many?*",
        "LoRA of rank 4, alpha 8, in float32, on language model, projector, vision tower",
        "## Limits",
        "## Privacy",
        "## Terms",
        "llava-dvc predict frame.jpg --adapter your-name/llava-people-counter",
    ):
        assert words in text
    assert "Do not rely on it" not in text


POINTED = {
    (False, 1.0, ()): "nobody marked where the people stand",
    (True, 1.0, ()): "training learned from these points too (`train.points` 1)",
    (True, 0.0, ("splice",)): "The points say how many people the parts of a frame have",
    (True, 0.0, ()): "but training did not use the points",
}


@pytest.mark.parametrize("case", POINTED)
def test_the_card_says_what_the_frames_are(cfg, tmp_path, case):
    have_points, weight, augment = case
    train = cfg.train.model_copy(update={"points": weight, "augment": augment})
    frames = TrainingFrames(("320x240", "640x480"), 3, 40, have_points)
    known = replace(facts(cfg, write_adapter(tmp_path / "a", cfg)), train=train, frames=frames)
    text = card.build_card(known).text
    assert "- Frames: 20 for training, of 320x240 and 640x480 pixels.\n" in text
    assert "- People in a training frame: 3 to 40, 15.0 on average.\n" in text
    assert "Who counted the people, and how, is not recorded.\n" in text
    assert [words for words in POINTED.values() if words in text] == [POINTED[case]]


def test_the_card_can_be_cited(cfg, tmp_path):
    known = facts(cfg, write_adapter(tmp_path / "a", cfg))
    text = card.build_card(known).text
    assert "*Community* tab of this repository, which `your-name` owns" in text
    assert "@misc{llava-people-counter,\n  author = {your-name},\n" in text
    assert f"{{Weights with the sha256 {known.adapter_sha256[:12]}}}" in text
    assert "liu2024improved" not in text
    hub = cfg.backbone.model_copy(update={"name": "llava-hf/llava-1.5-7b-hf", "revision": "b"})
    other = replace(known, recipe=known.recipe.model_copy(update={"backbone": hub}))
    assert "@inproceedings{liu2024improved," in card.build_card(other).text


@pytest.fixture
def prepared(rows, tmp_path):
    for name in ("train", "eval"):
        rows.save_to_disk(tmp_path / "prepared" / name)
    return tmp_path / "prepared"


@pytest.fixture
def csv(rows, tmp_path):
    table = rows.select_columns(["frame", "count"]).to_pandas()
    table["predicted"] = table["count"] + 1
    table.assign(low=table["count"] - 2, high=table["count"] + 2).to_csv(tmp_path / "eval.csv")
    return tmp_path / "eval.csv"


def test_size_and_counts_come_from_the_training_frames(prepared):
    assert read_training_frames(prepared) == TrainingFrames(("64x48",), 3, 40, have_points=False)


def test_only_frames_of_the_sample_are_published(prepared, csv, cfg, tmp_path):
    assert drawn_examples(prepared, csv, "abc.dir") == ()
    examples = drawn_examples(prepared, csv, SAMPLE)  # of 3, 7, 8, 12, 19, 25, 31, 40
    assert [(one.name, one.count) for one in examples] == [
        ("seq_000000.jpg", 3), ("seq_000007.jpg", 19), ("seq_000003.jpg", 40),
    ]  # fmt: skip
    assert (examples[1].predicted, examples[1].low, examples[1].high) == (20, 17, 21)
    own, drawn = publish(cfg, tmp_path), publish(cfg, tmp_path, "drawn", examples=examples)
    assert not (own / "examples").exists()
    assert "This repository holds no frame:" in (own / "README.md").read_text()
    assert {path.name for path in (drawn / "examples").iterdir()} == {one.name for one in examples}
    text = (drawn / "README.md").read_text()
    assert "| ![seq_000000.jpg](examples/seq_000000.jpg) |" in text
    assert "| 3 people, counted 4 (1 to 5) | 19 people, counted 20 (17 to 21) |" in text
    assert "holds no frame except the drawn ones" in text
    assert "True counts: the program that drew the frames knows them." in text
    verify_manifest(drawn)


def test_the_sample_is_the_drawn_one_of_this_repository():
    assert f"md5: {SAMPLE}\n" in (ROOT / "data.dvc").read_text()


def test_a_folders_backbone_is_named_without_its_path(folder, tiny_folder):
    data = ModelCard.load(folder / "README.md").data
    assert data.base_model == tiny_folder.name
    assert data.license == "other"  # its folder has no card


def test_a_hub_backbone_is_named_with_its_commit(cfg, tmp_path):
    hub = {"name": "llava-hf/llava-1.5-7b-hf", "revision": "b234b80", "dtype": "bfloat16"}
    own = cfg.model_copy(update={"backbone": cfg.backbone.model_copy(update=hub)})
    known = facts(own, write_adapter(tmp_path / "a", own))
    data, text = card.card_metadata(known), card.build_card(known).text
    assert (data.base_model, data.license) == ("llava-hf/llava-1.5-7b-hf", "llama2")
    assert "at revision `b234b80`" in text
    assert 'from_pretrained("llava-hf/llava-1.5-7b-hf", revision="b234b80"' in text
    assert 'with torch.autocast("cpu", torch.bfloat16):\n    ids =' in text
    compile(script(text), "card", "exec")


def script(text: str) -> str:
    """The lines for transformers and PEFT in the text of a card."""
    return re.search(r"```python\n(.*?)```", text, re.S)[1]


def test_the_merged_models_card_does_not_ask_for_the_backbones_commit(cfg, tmp_path):
    hub = {"name": "llava-hf/llava-1.5-7b-hf", "revision": "b234b80"}
    own = cfg.model_copy(update={"backbone": cfg.backbone.model_copy(update=hub)})
    text = card.build_card(
        replace(facts(own, write_adapter(tmp_path / "a", own)), merged=True)
    ).text
    assert "`llava-hf/llava-1.5-7b-hf` at revision `b234b80` and a LoRA adapter" in text
    assert "from_pretrained(repo, dtype=torch.float32" in script(text)
    assert "b234b80" not in script(text)
    compile(script(text), "card", "exec")


def choices(section: type[config.Section], name: str) -> list[Any]:
    """Every value that a setting can have."""
    kind = section.model_fields[name].annotation
    if kind is bool:
        return [True, False]
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if name == "tiles":
        return [(1, 1), (2, 1), (2, 3)]
    return [(), *[(kind,) for kind in get_args(get_args(kind)[0])]]  # train.augment


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("split", "strategy"),
        ("backbone", "quantization"),
        ("backbone", "dtype"),
        ("backbone", "device"),
        ("image", "geometry"),
        ("image", "drop_border"),
        ("image", "tiles"),
        ("adapter", "method"),
        ("adapter", "projector"),
        ("adapter", "vision"),
        ("train", "loss"),
        ("train", "augment"),
        ("evaluate", "decode"),
        ("evaluate", "flip"),
    ],
)
def test_the_template_knows_every_setting(cfg, tmp_path, monkeypatch, section, name, merged):
    """Jinja writes nothing for a name or key that it does not know; here it fails."""
    strict = functools.partial(jinja2.Template, undefined=jinja2.StrictUndefined)
    monkeypatch.setattr(jinja2, "Template", strict)
    texts = set()
    for number, value in enumerate(choices(type(getattr(cfg, section)), name)):
        changed = getattr(cfg, section).model_copy(update={name: value})
        own = cfg.model_copy(update={section: changed})
        known = facts(own, write_adapter(tmp_path / str(number), own))
        text = card.build_card(replace(known, merged=merged)).text
        texts.add(text.replace(known.adapter_sha256, ""))
    unseen = merged and name == "decode"  # the merged model's card has the greedy reply alone
    assert len(texts) == 1 if unseen else len(texts) == number + 1


def test_the_card_has_smoothed_figures_where_there_are_some(cfg, tmp_path):
    smoothed = {**FIGURES, "mae_smoothed": 0.75, "coverage_80_smoothed": 0.81}
    text = (publish(cfg, tmp_path, metrics=smoothed) / "README.md").read_text()
    assert f"The MAE is {FIGURES['mae']:.2f}." in text
    assert "(`llava-dvc predict --smooth`), the MAE is 0.75" in text
    assert "the true number in 81% of the frames" in text
    assert "--smooth" not in (publish(cfg, tmp_path, "single") / "README.md").read_text()


def test_the_card_warns_of_better_baselines(cfg, tmp_path):
    poor = {**FIGURES, "mae": 5.5}
    text = (publish(cfg, tmp_path, metrics=poor) / "README.md").read_text()
    assert "**Do not rely on it: ridge features, zero shot counted better.**" in text
    assert "the split leaks" in text


def test_blind_interpolation_need_not_be_beaten():
    assert card.better_baselines({"mae": 3.5}, BASELINE) == ["ridge_features"]
    assert (
        card.better_baselines({"mae": 2.9}, {**BASELINE, "blind_interpolation": {"mae": 0.1}}) == []
    )


@pytest.mark.parametrize("changes", [{"drop_border": True}, {"tiles": (2, 2)}])
def test_no_plain_script_where_only_llava_dvc_can_count(cfg, tmp_path, changes):
    adapter = write_adapter(tmp_path / "a", cfg)
    known = facts(cfg, adapter)
    image = known.recipe.image.model_copy(update=changes)
    recipe = known.recipe.model_copy(update={"image": image})
    text = card.build_card(replace(known, recipe=recipe)).text
    assert "```python" not in text
    assert "Only llava-dvc answers as it was evaluated" in text


def test_the_card_says_in_which_zone_people_are_counted(cfg, tmp_path):
    known = facts(cfg, write_adapter(tmp_path / "a", cfg))
    zones = Zones(name="tills", polygons={"tills": {"*": ((0, 0), (9, 0), (9, 9))}})
    recipe = known.recipe.model_copy(update={"zones": zones})
    plain, zoned = (card.build_card(one).text for one in (known, replace(known, recipe=recipe)))
    assert "- Zone: only people in the zone tills are counted." in zoned
    assert "```python" not in zoned
    assert "- Zone" not in plain
    assert "```python" in plain


def test_no_time_run_id_or_git_revision_is_in_the_folder(folder):
    text = "".join(p.read_text() for p in folder.rglob("*") if p.suffix in (".md", ".json"))
    assert not re.search(r"20\d\d-\d\d-\d\d|run_id|git_revision|mlflow", text)


def test_table_and_verdict():
    lines = comparison_table(FIGURES, BASELINE).splitlines()
    assert lines[-2].split() == ["adapter", "1.00", "1.53", "50.0%"]
    assert lines[-1] == "The adapter is 2.00 people better than ridge_features."
    rivals = {"train_mean": 8.0, "blind_interpolation": 2.0, "zero_shot": 4.0}
    assert verdict(3.0, rivals).startswith("The adapter is 1.00 people better than zero_shot; the")
    assert "leaks" in verdict(3.0, rivals)
    assert verdict(4.5, rivals).startswith("The adapter is 0.50 people worse than zero_shot")


UNCLEAR = Improvement(0.26, -0.1, 0.61, 60)


@pytest.mark.parametrize(
    ("improvement", "words"),
    [
        (UNCLEAR, "better by 0.26 people (-0.10 to 0.61, 95 %): not clear on 60 frames"),
        (Improvement(2.0, 1.5, 2.5, 60), "better by 2.00 people (1.50 to 2.50, 95 %)"),
        (Improvement(-2.0, -2.5, -1.5, 60), "worse by 2.00 people (1.50 to 2.50, 95 %)"),
        (
            Improvement(-0.2, -0.9, 0.5, 9),
            "worse by 0.20 people (-0.50 to 0.90, 95 %): not clear on 9 frames",
        ),
    ],
)
def test_a_difference_says_how_sure_it_is(cfg, tmp_path, improvement, words):
    known = {"ridge_features": improvement}
    table = comparison_table(FIGURES, BASELINE, known)
    assert table.splitlines()[-1] == f"Against ridge_features, the adapter is {words}."
    folder = publish(cfg, tmp_path, improvements=known)
    sentence = f"Against ridge features, the best of these baselines, it is {words}."
    assert sentence in (folder / "README.md").read_text()


def test_ridge_is_compared_even_if_it_is_not_the_best_baseline(cfg, tmp_path):
    known = {"ridge_features": UNCLEAR, "zero_shot": Improvement(1.0, 0.5, 1.5, 60)}
    better = {**BASELINE, "zero_shot": {**BASELINE["zero_shot"], "mae": 2.0}}
    text = (publish(cfg, tmp_path, improvements=known, baseline=better) / "README.md").read_text()
    assert "Against zero shot, the best of these baselines, it is better by 1.00 people" in text
    assert f"Against ridge features, it is {UNCLEAR}." in text


def test_a_half_written_file_is_named(tmp_path):
    path = tmp_path / "evaluate.json"
    path.write_text('{"mae": 1')
    with pytest.raises(ValueError, match=r"evaluate\.json:1: not valid JSON; delete it"):
        read_json(path)
