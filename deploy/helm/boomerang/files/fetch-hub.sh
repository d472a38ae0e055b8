#!/bin/sh
# Fetches a family from a model hub into $INCOMING, unless $TARGET is there already.
set -eu
. "${0%/*}/clean.sh"
[ -e "$TARGET/family.json" ] && exit
rm -rf "$INCOMING" # what a killed try left
set -- "$REPOSITORY" --revision "$REVISION" --local-dir "$INCOMING" --quiet
hf download "$@" family.json
# What the index lists and nothing else.
files=$(python - "$INCOMING/family.json" <<'END'
import json
import sys

print(*json.load(open(sys.argv[1]))["sha256"], sep="\n")
END
)
echo "$files" | xargs -d '\n' hf download "$@"
rm -rf "$INCOMING/.cache" # the hub client's notes are not part of the family
