"""The commands of `llava-dvc`. Each imports what it needs when it runs: `--help` is fast."""
