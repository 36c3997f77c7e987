#!/usr/bin/env bash
# The package as its users get it, with no extra: the shipped model must answer.
# Usage: tests/runtime_only.sh PYTHON FACES, from the repository's root; FACES is Kaggle's folder,
# drawn by 'facial-keypoints data synthesize'.
set -euo pipefail
python=$1 faces=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install -q -c constraints.txt .
cd "$work" # nothing of the working tree may help
fkp=venv/bin/facial-keypoints

FACES=$faces venv/bin/python - <<'EOF'
import os
from importlib.util import find_spec

present = [n for n in ("keras", "tensorflow", "torch", "jax", "onnx", "tf2onnx", "pyarrow") if find_spec(n)]
if present:
    raise SystemExit(f"this environment has {present}, so it proves nothing")

import cv2

from facial_keypoints.data.kaggle import load_kaggle

os.mkdir("crops")
for name, face in enumerate(load_kaggle(os.environ["FACES"], part="test").images):
    cv2.imwrite(f"crops/{name}.png", face)
EOF

$fkp models | grep -q kaggle-a
$fkp submit default --data "$faces" -o submission.csv
$fkp predict --crops crops -o keypoints.csv

$fkp measure keypoints.csv -o measures.json

# What needs an extra says so before it works.
if $fkp predict --crops crops -o keypoints.parquet 2>said; then exit 1; fi
grep -q "facial-keypoints\[parquet\]" said

size=$(du -sm venv | cut -f1)
[ "$size" -le 400 ] || { echo "the install takes $size MB, at most 400 are promised"; exit 1; }

# A header and one row for each number asked for, and one face an image; all of them numbers.
[ "$(wc -l <submission.csv)" = "$(wc -l <"$faces/IdLookupTable.csv")" ]
[ "$(wc -l <keypoints.csv)" = $(($(ls crops | wc -l) + 1)) ]
if grep -iq nan submission.csv; then exit 1; fi
echo "the shipped model answers without a training library"
