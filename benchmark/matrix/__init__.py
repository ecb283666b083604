"""Many victims and cells: presets, the plan, what waits for what, running in this process or on Ray, stored results.

The only place that knows Ray. No table, no terminal but the progress display.
"""
