#!/bin/sh
# Verifies the family at $TARGET.  One that was fetched into $INCOMING is verified there and then
# moved, so that $TARGET is whole or absent, also where two pods fetch at once.
set -eu
if [ -n "${INCOMING:-}" ] && [ -e "$INCOMING" ]; then
    boomerang verify "$INCOMING"
    if mv -T "$INCOMING" "$TARGET"; then exit; fi # the same files: no need to read them again
    rm -rf "$INCOMING" # another pod was first
fi
boomerang verify "$TARGET"
