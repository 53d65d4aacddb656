#!/usr/bin/env bash
# Everything that needs a GPU, in steps: bench/gpu.sh FOLDER [STEP...] (bench/gpu.sh --list: the steps, and groups as "check-").
# Needs Python with what pyproject.toml asks for (the step "facts" says what is missing), pytest, pytest-timeout, hypothesis, cmake,
# ninja, pybind11, nvcc and compute-sanitizer; no network. FOLDER gets steps.json (whole after each step), gpu.log (all output),
# bench.jsonl (one measurement a line) and the packed run folders of trainings. Exit status 1: a step did not pass.
#   PYTHON   default python3
#   BUDGET   seconds for all steps together, default 550: a step that would go on is stopped, later ones are left out
#   IMAGES   folder of bench.pack_images, or an .npz of CIFAR-10: the trainings need it
#   RUNS     folder of packed run folders from an earlier call: the trainings go on from them
#   WHEELS   folder of wheels of what this Python lacks
#   JOBS     retrainings at a time, default 8
#   EPOCHS   share of the trainings' epochs, default 1
#   BUILT    1: the extension of this Python came with the tree
#   REHEARSE 1: on the CPU, at sizes of a few minutes, with stand-ins for what needs a GPU
set -uo pipefail
export PYTHONUNBUFFERED=1 PATH=$PATH:/usr/local/cuda/bin
for name in IMAGES RUNS WHEELS; do # named from where the caller stands
  [[ -n ${!name:-} ]] && export "$name=$(realpath -m "${!name}")"
done
arguments=("$@")
[[ ${1:-} == --* || $# == 0 ]] || arguments[0]=$(realpath -m "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=${PYTHON:-python3}
if [[ -n ${WHEELS:-} ]]; then
  site=$PWD/build/gpu/site
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$WHEELS"/*.whl ||
    echo "the wheels in $WHEELS were not installed; the steps run without them"
  export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
exec "$python" -m bench.gpu "${arguments[@]}"
