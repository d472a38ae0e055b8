#!/bin/sh
# Copies a family from an object store into $INCOMING, unless $TARGET is there already.
set -eu
[ -e "$TARGET/family.json" ] && exit
rm -rf "$INCOMING" # what a killed try left
rclone copy --config /rclone/rclone.conf "$REMOTE" "$INCOMING"
