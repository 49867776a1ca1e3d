#!/usr/bin/env bash
# Every check that runs no code of the project: style, format, types, layers. Ends non-zero if one fails.
set -uo pipefail
cd "$(dirname "$0")/.."
for tools in .venv/bin .venv/Scripts; do
    [ -d "$tools" ] && PATH="$PWD/$tools:$PATH"
done

failed=()
check() {
    echo "-- $*"
    "$@" || failed+=("$1 $2")
}

# Scripts without an extension are not found by ruff itself.
check ruff check . scripts/demo scripts/check_deploy scripts/make_docs scripts/test scripts/test_browser scripts/test_clients
check ruff format --check . scripts/demo scripts/check_deploy scripts/make_docs scripts/test scripts/test_browser scripts/test_clients
check mypy --strict
check mypy --strict scripts/_*.py
check lint-imports --no-cache

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "all checks passed"
