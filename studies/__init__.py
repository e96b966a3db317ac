"""Stage 2: folds, evaluation, comparison."""
