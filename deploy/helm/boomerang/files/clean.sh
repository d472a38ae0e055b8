# Sourced before a fetch: what pods left that were replaced while fetching goes from the claim.
# One that still fetches has written something today, in a file or a folder.
for other in "${INCOMING%/*}"/.incoming-*; do
    [ -d "$other" ] && [ "$other" != "$INCOMING" ] || continue
    [ -n "$(find "$other" -mmin -1440 | head -n 1)" ] || rm -rf "$other" || : # or another pod was first
done
