"""Text to train and to measure on, from files and datasets to rows of token ids.

`sources`     a source is a name: a file, a dataset of the hub (`hub`), a table or JSONL (`records`)
`documents`   documents drawn from sources in balance, and tokenised
`rows`        documents split into training and held-out ones, and packed into rows
`evaluation`  the rows at the beginning of a text, to measure on
"""
