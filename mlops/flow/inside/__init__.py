"""Programs that Prompt flow's interpreter runs; nothing of ours can be imported there."""
