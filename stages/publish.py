"""models/adapter/ and its evaluation to published/: a folder that can be used, and uploaded, as it
is.
"""

from pathlib import Path

from llava_dvc import tracking
from llava_dvc.config import Config, run_stage
from llava_dvc.outs import new_folder, read_json
from llava_dvc.publishing import build
from llava_dvc.recipe import adapter_sha256


def main(
    cfg: Config,
    prepared: Path,
    adapter: Path,
    baseline: Path,
    csv: Path,
    metrics: Path,
    plots: Path,
    published: Path,
) -> None:
    report = read_json(prepared / "report.json")
    with new_folder(published) as folder:
        build(
            folder,
            adapter,
            report,
            baseline=read_json(baseline),
            metrics=read_json(metrics),
            predictions=csv,
            plots=plots,
            evaluate=cfg.evaluate,
            publish=cfg.publish,
        )
    with tracking.open_result(cfg, adapter_sha256(adapter), report["data_md5"]) as run:
        for name in ("README.md", "manifest.json"):
            run.artifact(published / name, "published")


if __name__ == "__main__":
    run_stage(main)
