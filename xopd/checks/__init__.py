"""What `xopd check` finds out before a run costs time: settings, files, items, prompts, services."""
