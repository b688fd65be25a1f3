"""What a finished experiment looks like: `report.write_report`, its plots, and the README's table (`python -m neuromas_jax.analysis.table`)."""
