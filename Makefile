# Everything happens in .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-long coverage lint proofs bench limits softfloat contracts mutants models certificates notebooks paper docs clean

demo: $(STAMP)  ## certify the digits network that comes with the package
	mkdir -p reports
	@$(BIN)/precisionkit certify precisionkit/models/weights/digits_cnn.pt --data digits --json reports/digits.json --table reports/digits.csv

test: $(STAMP) lint  ## style, types, tests, by two processes (WORKERS=0 for one)
	$(BIN)/python -m pytest -q -n $(or $(WORKERS),2) --dist worksteal

test-long: $(STAMP)  ## the property tests on random networks, about an hour
	$(BIN)/python -m pytest -q --hypothesis-profile=long --timeout=0 tests/properties

coverage: $(STAMP)  ## lines and branches of formats, arithmetics, operators, bounds, decision and checker that the tests run: 95 % or more
	mkdir -p reports
	$(BIN)/python -m coverage run -m pytest -q -p no:cacheprovider tests/unit tests/soundness tests/checker tests/properties tests/plugin/test_assertions.py
	$(BIN)/python -m coverage report

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

proofs: $(STAMP)  ## the Coq proofs, their axioms and statements, and the package's arithmetic checked by Flocq; installs Coq where it may
	$(BIN)/python -m proofs.check

bench: $(STAMP)  ## time of the parts of certify and of guarded runs, as ratios to a binary32 forward pass, one thread
	$(BIN)/python -m tests.bench

limits: $(STAMP)  ## what a cheap proof of a probable verdict would have to know of a deep network
	$(BIN)/python -m tests.limits

softfloat: $(STAMP)  ## every correctly rounded operation against Berkeley SoftFloat, a million operands each
	$(BIN)/python -m tests.softfloat

contracts: $(STAMP)  ## how much of its contract each elementary function uses on this CPU, on every number of the half formats
	$(BIN)/python -m tests.contracts

mutants: $(STAMP)  ## planted mistakes that the tests must catch, two at once
	$(BIN)/python -m tests.mutants --jobs $(or $(JOBS),2)

models: $(STAMP)  ## what is supported and shown of torchvision's classifiers: docs/models.md
	$(BIN)/python -m tests.model_table --write docs/models.md

certificates: $(STAMP)  ## certificates of the MNIST networks, written and checked on all 10,000 test images
	$(BIN)/python -m tests.certificates

notebooks: $(STAMP)  ## execute notebooks/*.py into the .ipynb beside them
	$(BIN)/python -m tests.notebooks

paper: $(STAMP)  ## the published experiments with MNIST at full size: docs/paper; about 80 minutes on two cores
	$(BIN)/precisionkit reproduce mnist --full --out reports/paper-mnist
	mkdir -p docs/paper
	cp reports/paper-mnist/*.md reports/paper-mnist/*.png docs/paper

docs: $(STAMP)  ## write docs/operators.md and docs/commands.md from the code, and build the site, warnings being errors
	$(BIN)/python -m precisionkit.docs > docs/operators.md
	$(BIN)/python -m precisionkit.docs commands > docs/commands.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[digits,vision,parquet,yaml,figures,training,notebooks,docs,test,dev]'
	touch $(STAMP)

clean:
	rm -rf .venv reports site
