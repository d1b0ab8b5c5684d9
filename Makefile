# The commands to remember. Each is a thin call of flint/sandbox, which also works without make:
#   python3 -m flint.sandbox run
PYTHON ?= python3
LOCK = .venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet

.PHONY: run test chaos lint reset setup lock lock-clients

run: # The whole product on this machine: PORT=8000 FLINT_DATA=.flint
	@$(PYTHON) -m flint.sandbox run

test: # The tests: ARGS="-k ledger -x"
	@$(PYTHON) -m flint.sandbox test $(ARGS)

chaos: # The fault matrix against the running product: ARGS="--short", ARGS="--list"
	@$(PYTHON) -m flint.sandbox chaos $(ARGS)

lint: # Every static check.
	@$(PYTHON) -m flint.sandbox lint

reset: # Delete the data folder.
	@$(PYTHON) -m flint.sandbox reset

setup: # The virtual environment for development, and nothing else.
	@$(PYTHON) -m flint.sandbox setup

lock: setup # Compile the locked requirements after a change in pyproject.toml.
	$(LOCK) -o requirements.txt
	$(LOCK) --extra sandbox -c requirements.txt -o requirements-sandbox.txt
	$(LOCK) --extra sandbox --extra dev -c requirements-sandbox.txt -o requirements-dev.txt

lock-clients: setup # Compile the locked requirements of the clients in tests/sdk, and of the servers in tests/inference.
	@for folder in $(dir $(wildcard tests/sdk/*/requirements.in tests/inference/*/requirements.in)); do \
		$(subst pyproject.toml,$${folder}requirements.in,$(LOCK)) -o $${folder}requirements.txt || exit; done
	@for folder in $(dir $(wildcard tests/sdk/*/package.json)); do \
		(cd $$folder && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund --silent) || exit; done
	cd tests/sdk/go_openai && GOTOOLCHAIN=local go mod tidy
