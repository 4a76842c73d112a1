#!/usr/bin/env bash
# Tests the trackers with their real libraries:  make trackers
# MLflow needs older packages than constraints.txt pins. Here they lie before those of .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$PWD/.venv-trackers

if [ ! -e "$venv/.complete" ]; then
    rm -rf "$venv"
    .venv/bin/python -m venv "$venv"
    .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"
    "$venv/bin/python" -m pip install --quiet mlflow==3.17.2 wandb==0.31.0 trackio==0.43.0
    touch "$venv/.complete"
fi
PYTHONPATH=$PWD exec "$venv/bin/python" -m pytest -rs tests/single/test_real_trackers.py "$@"
