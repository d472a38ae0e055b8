#!/bin/sh
# Copies a family from an object store into $INCOMING, unless $TARGET is there already.
set -eu
. "${0%/*}/clean.sh"
[ -e "$TARGET/family.json" ] && exit
rm -rf "$INCOMING" # what a killed try left
rclone copy --config /rclone/rclone.conf "$REMOTE" "$INCOMING"
touch -c "$INCOMING" # rclone keeps the times of the store, and clean.sh goes by times
