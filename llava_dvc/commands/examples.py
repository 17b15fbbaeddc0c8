"""Two examples for the `--help` of each command."""

import argparse

EXAMPLES = {
    "preset": ("llava-1.5-7b-tuned", "tiny"),
    "doctor": ("", "--report"),
    "import-mall": ("mall_dataset.zip", "mall_dataset/"),
    "import": (
        "export.zip --category person --empty skip",
        "counts.csv --frames recordings/ --columns frame=file,count=people",
    ),
    "frames": ("monday.mp4 tuesday.mp4", "monday.mp4 --every 60"),
    "label": ("--to http://localhost:8080", "--doubtful --number 30"),
    "push": ("", "elsewhere/published"),
    "space": ("space", "space --adapter elsewhere/published"),
    "runs": ("", "--relocate"),
    "report": ("", "hot --no-frames --price 2.50 --out report-hot"),
    "predict": (
        "data/frames/seq_000300.jpg",
        "clip.mp4 --every 5 --smooth --timeline count.png",
    ),
    "watch": (
        "hall=rtsp://camera.local/stream --out counts --alert 'hall > 40 for 60s'",
        "clip.mp4 --realtime --every 1",
    ),
    "drift": ("counts/readings-*.jsonl", "counts/readings-2026-11-26.jsonl --days 1"),
    "serve": ("--keep-corrections corrections", "--adapter champion --host 0.0.0.0 --port 8080"),
    "vllm": ("published", "elsewhere/published"),
}
"""What follows the command's name."""
FIRST = ("predict data/frames/seq_000300.jpg", "serve")
"""For `llava-dvc --help`."""


def add_examples(parser: argparse.ArgumentParser, *lines: str) -> None:
    """Shows the lines at the end of the parser's help, each after `llava-dvc`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    shown = "\n".join(f"  llava-dvc {line}".rstrip() for line in lines)
    parser.epilog = f"examples:\n{shown}"
