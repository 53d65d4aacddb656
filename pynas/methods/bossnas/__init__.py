"""BossNAS: blocks learn without labels, paths are rated by their distance to the mean of all paths."""
