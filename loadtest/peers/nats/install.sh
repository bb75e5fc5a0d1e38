#!/usr/bin/env bash
# Builds nats-server from the Go module proxy as ./nats-server-2.15.2, in the folder it is run in. Needs go.
set -euo pipefail
command -v go >/dev/null || { echo "go is not installed (go.dev/dl, or Debian: apt-get install golang)" >&2; exit 1; }
rm -rf nats.part
GOBIN="$PWD/nats.part" go install github.com/nats-io/nats-server/v2@v2.15.2
mv nats.part/nats-server nats-server-2.15.2
rm -rf nats.part
