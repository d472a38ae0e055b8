"""Families and baselines beside each other: on the same rows of text and the same tasks.

`run`         measures them, series by series; `tasks` has their sizes answer lm-eval's tasks
`comparison`  what was found, as one JSON file; `task_scores` is its part about tasks
"""
