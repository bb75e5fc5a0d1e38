#!/usr/bin/env bash
# Installs what the tests need and runs them all. The second command of README.md; .ci/run calls it too.
set -euo pipefail
cd "$(dirname "$0")/.."

# Real GitHub webhook payloads for the end-to-end tests.
command -v npm >/dev/null || { apt-get update && apt-get install -y npm; }
npm ci --prefix tests/octokit --no-audit --no-fund

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo test --workspace --locked

# One deliberate bug, another one for each commit: the tests above must be able to fail. All of them: sim/mutants/run --all
sim/mutants/run --one "$(git rev-parse HEAD)"
