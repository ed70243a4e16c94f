#!/usr/bin/env bash
# Without its dependencies: the toolkit demands a PyTorch of 2024 that it does not need.
set -eu
pip install --no-deps rknn-toolkit2==2.3.2
