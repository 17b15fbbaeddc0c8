import os
import pty
import shlex
import subprocess
import sys
import tomllib

import pytest
from PIL import Image

from llava_dvc import cli
from llava_dvc.data.imports import mall
from tests.conftest import ROOT


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs `llava-dvc` in an empty folder with our presets; returns what it wrote."""
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["llava-dvc", *arguments])
        cli.main()
        return capsys.readouterr().out

    return call


def test_preset_replaces_params(run, tmp_path):
    assert "params.yaml is now presets/llava-1.5-7b.yaml" in run("preset", "llava-1.5-7b")
    preset = ROOT / "presets" / "llava-1.5-7b.yaml"
    assert (tmp_path / "params.yaml").read_bytes() == preset.read_bytes()


def test_an_unknown_preset_lists_the_known_ones(run):
    with pytest.raises(
        SystemExit,
        match=r"no such preset\. Choose one of: "
        r"llava-1\.5-7b, llava-1\.5-7b-fp8, llava-1\.5-7b-tuned, tiny",
    ):
        run("preset", "huge")


def test_predict_without_an_adapter(run, tmp_path):
    (tmp_path / "frame.jpg").touch()
    with pytest.raises(SystemExit, match=r"models/adapter/recipe.json: not found; run `dvc repro`"):
        run("predict", "frame.jpg")


def test_import_says_which_formats_there_are(run):
    with pytest.raises(
        SystemExit, match=r"--format: is 'kitti'\. Choose one of: coco, yolo, .*mall"
    ):
        run("import", "frames", "--format", "kitti")


def test_import_passes_its_options_on(run, tmp_path):
    """The folder is no repository of DVC: the import ends at the last step."""
    for name, shade in (("a.png", 50), ("b.png", 90)):
        (tmp_path / "pics").mkdir(exist_ok=True)
        Image.new("L", (20, 20), shade).save(tmp_path / "pics" / name)
    (tmp_path / "t.csv").write_text("file,px,py\na.png,1,2\n")
    options = ["--columns", "frame=file,x=px,y=py", "--frames", "pics", "--empty", "zero"]
    with pytest.raises(SystemExit, match="the frames are there, but `dvc add data` failed"):
        run("import", "t.csv", *options)
    assert (tmp_path / "data" / "labels.csv").read_text() == "frame,count\na.png,1\nb.png,0\n"


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        (("picture,people", "{},3"), "frame=picture,count=people"),
        (("Day;How many people;File", "x;3;{}"), "'frame=file,count=how many people'"),
        (("a,b,c", "{},3,4"), "frame=a,count=b"),
    ],
)
def test_unknown_columns_come_with_the_command_to_copy(run, tmp_path, table, columns):
    """The command is accepted up to its last step: the folder is no repository of DVC."""
    (tmp_path / "my pics").mkdir()
    for name in ("1.png", "2.png"):
        Image.new("L", (20, 20), int(name[0])).save(tmp_path / "my pics" / name)
    header, row = table
    lines = [header, row.format("1.png"), row.format("2.png")]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(SystemExit) as error:
        run("import", "t.csv", "--frames", "my pics")
    command = str(error.value).rpartition(" is its count: ")[2]
    assert command == f"llava-dvc import t.csv --frames 'my pics' --columns {columns}"
    with pytest.raises(SystemExit, match="the frames are there, but `dvc add data` failed"):
        run(*shlex.split(command)[1:])
    assert (tmp_path / "data" / "labels.csv").read_text() == "frame,count\n1.png,3\n2.png,3\n"


def test_import_follows_the_settings_of_data(run, tmp_path, monkeypatch):
    """And --add keeps what is there. Without DVC's last step."""
    monkeypatch.setattr(mall, "dvc_add", lambda data: None)
    preset = (ROOT / "presets" / "tiny.yaml").read_text()
    allowed = preset.replace("unlabelled: refuse", "unlabelled: allow")
    (tmp_path / "params.yaml").write_text(allowed)
    for folder, names in (("data", "ab"), ("more", "cd")):
        (tmp_path / folder / "frames").mkdir(parents=True)
        for name in names:
            shade = 40 * (ord(name) - 95)
            Image.new("L", (20, 20), shade).save(tmp_path / folder / "frames" / f"{name}.png")
        (tmp_path / folder / "labels.csv").write_text(f"frame,count\n{names[0]}.png,1\n")
    run("import", "more", "--add")
    assert (tmp_path / "data" / "labels.csv").read_text() == "frame,count\na.png,1\nc.png,1\n"
    assert len(list((tmp_path / "data" / "frames").iterdir())) == 4


@pytest.mark.parametrize(("frames", "is_warned"), [(20, True), (50, False)])
def test_import_warns_of_few_frames_to_evaluate_on(run, tmp_path, monkeypatch, frames, is_warned):
    """Without DVC's last step."""
    monkeypatch.setattr(mall, "dvc_add", lambda data: None)
    (tmp_path / "params.yaml").write_text((ROOT / "presets" / "tiny.yaml").read_text())
    (tmp_path / "own" / "frames").mkdir(parents=True)
    for number in range(frames):
        Image.new("L", (20, 20), number).save(tmp_path / "own" / "frames" / f"{number:02}.png")
    rows = [f"{number:02}.png,{number % 9}" for number in range(frames)]
    (tmp_path / "own" / "labels.csv").write_text("\n".join(["frame,count", *rows, ""]))
    last = run("import", "own").splitlines()[-1]
    if is_warned:
        assert last.startswith("warning: 4 evaluation frames are too few: an MAE on fewer than 10")
    else:
        assert last == "data: 50 frames. `dvc repro` trains on them."


def test_the_version_is_that_of_pyproject(run, capsys):
    with pytest.raises(SystemExit, match="0"):
        run("--version")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"llava-dvc {project['version']}\n"


COMMANDS = cli._parser()._subparsers._group_actions[0].choices


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_each_help_has_two_examples_that_can_be_typed(name):
    """Of `llava-dvc` itself without a name."""
    shown = (COMMANDS[name] if name else cli._parser()).format_help()
    lines = shown.partition("\nexamples:\n")[2].splitlines()
    assert len(set(lines)) == 2
    for line in lines:
        assert line.startswith("  llava-dvc ")
        typed = shlex.split(line)[1:]
        assert cli._parser().parse_args(typed).run
        assert typed[0] == (name or typed[0])


def test_help_imports_nothing_heavy():
    code = "import sys; sys.argv = ['llava-dvc', '--help']\n"
    code += "import atexit; atexit.register(lambda: print('heavy', {'torch', 'mlflow', 'pandas',"
    code += " 'datasets', 'transformers'} & set(sys.modules)))\n"
    code += "from llava_dvc.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "import-mall" in done.stdout
    assert "heavy set()" in done.stdout


def test_no_command_shows_the_help(run, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        run()
    assert capsys.readouterr().out == cli._parser().format_help()


HEAVY = """
import sys
def note(event, arguments):
    if event == "import" and arguments[0] in ("torch", "mlflow", "pandas", "datasets"):
        sys.stderr.write("a heavy import\\n")
sys.addaudithook(note)
from llava_dvc.cli import main
main()
"""


ARGUMENTS = {"predict": ["a.jpg"], "watch": ["a.mp4"]}


def typed(command: str) -> list[str]:
    return [sys.executable, "-c", HEAVY, command, *ARGUMENTS.get(command, [])]


@pytest.mark.parametrize("command", sorted(cli.FIRST_LINES))
def test_a_slow_command_shows_life_before_its_imports(tmp_path, command):
    ours, terminal = pty.openpty()
    with subprocess.Popen(
        typed(command), cwd=tmp_path, stderr=terminal, stdout=subprocess.DEVNULL
    ) as process:
        os.close(terminal)
        first = os.read(ours, 10_000).decode()
        process.kill()
    os.close(ours)
    assert first.splitlines()[0] == f"{cli.FIRST_LINES[command]} ..."


def test_a_pipe_has_no_line_of_life(tmp_path):
    done = subprocess.run(typed("predict"), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "..." not in done.stderr


def test_a_missing_image_is_an_error_before_the_model_is_loaded(run, tmp_path):
    with pytest.raises(SystemExit, match=r"a\.jpg, b\.jpg: not found \(2 in all\)\. Correct"):
        run("predict", "a.jpg", "b.jpg", "--adapter", str(tmp_path / "no adapter"))
