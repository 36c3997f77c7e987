# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= demo

.PHONY: demo test test-backends test-runtime lint types fix docs bench clean

demo: $(VENV)/.installed ## train and compare the three networks on built-in faces
	env -u FACIAL_KEYPOINTS_DATA $(BIN)/facial-keypoints compare --quick --force -o $(OUT)

test: $(VENV)/.installed-dev ## every test, on TensorFlow
	$(BIN)/pytest -n 2 --dist worksteal

test-backends: $(VENV)/.installed-dev ## the training tests again, on JAX
	$(BIN)/pip install -q -c constraints.txt jax
	KERAS_BACKEND=jax $(BIN)/pytest -m backends

test-runtime: $(VENV)/.installed-dev ## the shipped model in an environment without training libraries
	$(BIN)/facial-keypoints data synthesize --train 4 --test 6 --force -o $(VENV)/drawn
	tests/runtime_only.sh $(PYTHON) $(VENV)/drawn

lint: $(VENV)/.installed-dev ## format and lint, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev ## strict type check of src and references
	$(BIN)/mypy

fix: $(VENV)/.installed-dev ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-dev ## rewrite the parts of the docs that are made from the code
	env -u FACIAL_KEYPOINTS_DATA $(BIN)/python tests/docs.py --write --notebook --image --study

# The others need hours, peers' packages or files of trained models: each says so at its head.
BENCHES := decode_images decode_memory synthesize_speed training_pipeline predict_memory
DATA_BENCHES := load_kaggle predict_photos track_video
bench: $(VENV)/.installed-dev ## measure speed; DATA=DIR adds the benchmarks on real faces
	$(BIN)/pip install -q -c constraints.txt --group bench
	for name in $(BENCHES); do $(BIN)/python benchmarks/$$name.py || exit 1; done
	for name in $(if $(DATA),$(DATA_BENCHES)); do $(BIN)/python benchmarks/$$name.py --data $(DATA) || exit 1; done

clean: ## forget the environment and the demo
	rm -rf $(VENV) demo

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[all]' --group test --group lint
	touch $@
