# Needs Python 3.11 to 3.13, git and make. `make setup` installs the rest.
.DEFAULT_GOAL := help
.PHONY: help setup repository repro test faults check format ui clean

# uv from the PATH, else a copy in .uv/
UV := $(shell command -v uv || echo .uv/bin/uv)
RUN := $(UV) run --frozen --no-sync
# On a terminal uv shows bars. A log needs none of its lines.
QUIET := $(shell [ -t 2 ] || echo --quiet)
# Two processes: a test file runs in one of them, so that its tests share what they set up.
PYTEST := pytest --numprocesses 2 --dist loadfile --durations 20

export UV_PROJECT_ENVIRONMENT := .venv
# Nothing is reported to anyone. MLflow does not accept 1.
export DO_NOT_TRACK := true
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(UV) ## Install the locked packages into .venv
	@$(UV) sync --frozen --quiet --check 2>/dev/null || \
		{ echo "Installing the locked packages into .venv: a few minutes, 7 GB of disk."; $(UV) sync --frozen $(QUIET); }

repro: repository setup ## Download the sample and run the changed stages
	@! $(RUN) dvc stage list 2>&1 >/dev/null | grep -q 'dvc\.lock' || \
		{ echo "dvc.lock: cannot be read after a full disk, a kill or a merge. It is restored from git."; git checkout HEAD -- dvc.lock; }
	@said=$$($(RUN) dvc pull --quiet data.dvc backbones/tiny-llava.dvc 2>&1) || { echo "$$said"; exit 1; }
	@$(RUN) python -m stages
	@found=$$($(RUN) dvc status --json) && ! echo "$$found" | grep -q '"not in cache"' || \
		{ echo "error: DVC could not keep a result in its cache. If the disk is full, free some space. Then run make repro again."; exit 1; }
	@printf '%s\n' "" "What next:" \
		"  make ui                                             look at the results and the curves in a browser" \
		"  source .venv/bin/activate                           then: llava-dvc serve --adapter published" \
		"                                                      drop a frame on http://127.0.0.1:8000" \
		"  your own frames                                     README.md, section \"Your own frames\""

repository:
	@command -v git >/dev/null || { echo "error: git: not found. Install git. Then run make repro again."; exit 1; }
	@[ -e .git ] || git rev-parse --git-dir >/dev/null 2>&1 || { echo "error: .git: not found, and DVC needs a git repository." \
		"Clone the repository with git. Or run: git init && git add -A && git commit -m Start. Then run make repro again."; exit 1; }
	@git rev-parse --git-dir >/dev/null

test: setup ## Run all tests except those of `make faults`
	$(RUN) $(PYTEST)

faults: setup ## Test kills, full disks, lost servers, a service under attack and a sweep: 50 minutes on slow cores
	$(RUN) $(PYTEST) -m 'faults or sweep' tests/faults tests/pipeline/test_pipeline.py

check: setup ## Check format, lint, imports and types, and run the tests
	$(RUN) ruff format --check
	$(RUN) ruff check
	$(RUN) lint-imports
	$(RUN) mypy --strict llava_dvc stages
	$(RUN) $(PYTEST)

format: setup ## Format the code and fix lint errors
	$(RUN) ruff format
	$(RUN) ruff check --fix

ui: setup ## Open the results in a browser: MLflow on port 5000, TensorBoard on port 6006
	@$(RUN) python -m llava_dvc.commands.ui_servers

clean: ## Remove .venv, .uv and checkpoints, not the data
	rm -rf .venv .uv checkpoints

.uv/bin/uv:
	@python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv
