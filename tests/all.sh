#!/usr/bin/env bash
# Installs what the tests need and runs them all. The second command of README.md; .ci/run calls it too.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo test --workspace --locked
