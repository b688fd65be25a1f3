"""What a finished experiment looks like: `report.write_report`, its plots, and the README's table.

The table is made by `python -m neuromas_jax.analysis.table`.
"""
