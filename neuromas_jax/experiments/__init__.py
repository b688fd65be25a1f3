"""Families x methods x seeds: sweeps, training, evaluation, results. Resumable cell by cell."""
