"""What a family must beat: sizes made from the teacher alone, with no training.

Naive pruning is in `evaluate.perplexity`, since it runs the family's own routes; random-init
distillation is a family like any other (a recipe with ``start: random``).
"""
