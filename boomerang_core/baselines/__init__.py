"""What a family must beat: sizes made from the teacher alone, with no training.

Naive pruning is `route.naive_route`, since it runs the family's own routes; a student distilled
from random weights is a family like any other (a recipe with `start: random`).
"""
