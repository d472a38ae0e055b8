"""The kinds of pictures that a report has, drawn with matplotlib; they know nothing of families."""
