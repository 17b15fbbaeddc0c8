# Needs Python 3.11 to 3.13, git and make; the rest installs itself.
.DEFAULT_GOAL := help
.PHONY: help setup repro test faults check format ui clean

# uv from the PATH, else a private copy of it in .uv/
UV := $(shell command -v uv || echo .uv/bin/uv)
RUN := $(UV) run --frozen --no-sync

export UV_PROJECT_ENVIRONMENT := .venv
export HF_HUB_DISABLE_TELEMETRY := 1

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(UV) ## Install the locked packages into .venv
	@$(UV) sync --frozen --quiet

repro: setup ## Fetch the sample and run what changed of the pipeline
	@! $(RUN) dvc stage list 2>&1 >/dev/null | grep -q 'dvc\.lock' || \
		{ echo "dvc.lock: cut short by a full disk or a kill, restored from git"; git checkout -- dvc.lock; }
	$(RUN) dvc pull --quiet data.dvc backbones/tiny-llava.dvc
	$(RUN) dvc repro
	@found=$$($(RUN) dvc status --json) && ! echo "$$found" | grep -q '"not in cache"' || \
		{ echo "error: DVC could not keep a result: is the disk full? Make room and run make repro again"; exit 1; }

test: setup ## Run all tests but those of `make faults`
	$(RUN) pytest

faults: setup ## Kill, fill and lock, and a sweep of experiments: a quarter of an hour
	$(RUN) pytest -m 'faults or sweep' tests/faults tests/pipeline/test_pipeline.py

check: setup ## Format, lint, imports, types and tests; CI runs `make faults` too
	$(RUN) ruff format --check
	$(RUN) ruff check
	$(RUN) lint-imports
	$(RUN) mypy --strict llava_dvc stages
	$(RUN) pytest

format: setup ## Format the code and mend what ruff can
	$(RUN) ruff format
	$(RUN) ruff check --fix

ui: setup ## Open MLflow on http://127.0.0.1:5000 and TensorBoard on http://127.0.0.1:6006
	@echo "results: http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=results&workflowType=machine_learning"
	$(RUN) tensorboard --logdir runs --host 127.0.0.1 --port 6006 & \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(RUN) mlflow server --workers 1 \
		--backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

clean: ## Remove the environment and local state, not the data
	rm -rf .venv .uv checkpoints

.uv/bin/uv:
	@python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv
