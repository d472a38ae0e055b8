#!/bin/sh
# Fetches a family from a model hub into $INCOMING, unless $TARGET is there already.
set -eu
[ -e "$TARGET/family.json" ] && exit
rm -rf "$INCOMING" # what a killed try left
hf download "$REPOSITORY" --revision "$REVISION" --local-dir "$INCOMING" --quiet \
    --include family.json --include 'student/*' --include 'report/*' --include 'teacher/*'
rm -rf "$INCOMING/.cache" # the hub client's notes are not part of the family
