# make demo: train on digits, offline.  make test: all tests.  Both set themselves up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
FASHION := /usr/share/datasets/fashion-mnist
POSTGRES := /usr/lib/postgresql
CHROMIUM := /usr/bin/chromedriver
ECOSYSTEM := build/ecosystem/.ready
JVM := /usr/share/java/perfmark-api.jar
KJV := /usr/share/sword/modules/texts/ztext/engKJV2006eb
TYPES := build/types/tacit
FOLDERS := client configs privacy protocol server simulations tasks
DEMO ?=

.PHONY: demo test test-quick lint format protocol jvm types-tree lock clean help figures screenshots peers

help:
	@sed -n '1p' Makefile
	@echo "make test-quick, lint, format, lock, clean"

$(VENV)/.user: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing tacit into $(VENV) (once; torch takes some minutes)"
	@$(PIP) --editable ".[all]"
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	@echo "installing what the tests need into $(VENV) (once)"
	@$(PIP) --editable ".[all,data,postgres,ray,dev]"
	@touch $@

demo: $(VENV)/.user
	$(BIN)/tacit simulate $(DEMO)

# The tests read the real Fashion-MNIST, which Debian packages.
$(FASHION):
	@echo "installing dataset-fashion-mnist with apt-get (once)"
	@if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq dataset-fashion-mnist

# And the King James Bible.
$(KJV):
	@echo "installing sword-text-kjv with apt-get (once)"
	@if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq sword-text-kjv

# They start a PostgreSQL of their own.
$(POSTGRES):
	@echo "installing postgresql with apt-get (once)"
	@if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq postgresql

# They look at the dashboard in a browser.
$(CHROMIUM):
	@echo "installing chromium with apt-get (once)"
	@if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq chromium chromium-driver

# They build the agent core for the JVM, with a JDK, protoc and gRPC.
$(JVM):
	@echo "installing a JDK and gRPC for Java with apt-get (once)"
	@if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq default-jdk-headless \
	    libgrpc-java libnetty-java libperfmark-java libprotobuf-java \
	    libgeronimo-annotation-1.3-spec-java \
	    protobuf-compiler protobuf-compiler-grpc-java-plugin

# They mirror into a real MLflow server, whose pins aren't tacit's, and read CycloneDX's schemas.
$(ECOSYSTEM): tests/support/ecosystem.txt
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "installing an MLflow server into $(@D) (once)"
	@$(@D)/bin/python -m pip --disable-pip-version-check install --quiet --requirement $<
	@touch $@

test: $(VENV)/.dev $(FASHION) $(KJV) $(POSTGRES) $(JVM) $(CHROMIUM) $(ECOSYSTEM)
	$(BIN)/python -m pytest $(PYTEST)

test-quick: $(VENV)/.dev $(FASHION) $(KJV) $(POSTGRES) $(JVM) $(CHROMIUM) $(ECOSYSTEM)
	$(BIN)/python -m pytest -m "not slow and not ray" $(PYTEST)

# mypy and import-linter read a tree laid out as it installs: they can't follow setuptools' package-dir.
types-tree:
	@rm -rf build/types && mkdir -p build/types
	@cp -rp tacit build/types/tacit
	@cp -rp $(FOLDERS) $(TYPES)/

lint: $(VENV)/.dev types-tree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=build/types $(BIN)/mypy --package tacit
	cd build/types && ../../$(BIN)/lint-imports --config ../../pyproject.toml --no-cache

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The messages' Python, from the place it installs to.
protocol: $(VENV)/.dev
	@rm -rf build/protocol && mkdir -p build/protocol/tacit/protocol
	@cp protocol/edge.proto build/protocol/tacit/protocol/
	cd build/protocol && ../../$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
	  --grpc_python_out=. tacit/protocol/edge.proto
	@cp build/protocol/tacit/protocol/edge_pb2* protocol/

# The agent core for the JVM and its own tests, against the golden vectors.
jvm: $(JVM)
	sh jvm/build.sh
	java -cp "$$(cat build/jvm/classpath)" dev.tacit.edge.Tests

lock: $(VENV)/.dev
	$(BIN)/python -m pip freeze --exclude-editable | grep -v -i -E '^(pip|setuptools|wheel)==' | sed 's/+cpu$$//' > constraints.txt

figures: $(VENV)/.user
	$(BIN)/python benchmarks/figures.py

# docs/images/dashboard-*.png
screenshots: $(VENV)/.dev $(CHROMIUM)
	$(BIN)/python docs/screenshots.py

# What benchmarks/engine.py --peers compares with, in environments of their own.
build/peers/flower/.ready: PEER := --constraint constraints.txt
build/peers/%/.ready: benchmarks/peers/%.txt constraints.txt
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "installing $* into $(@D) (once)"
	@$(@D)/bin/python -m pip --disable-pip-version-check install --quiet $(PEER) --requirement $<
	@touch $@

peers: build/peers/flower/.ready build/peers/pfl/.ready

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
