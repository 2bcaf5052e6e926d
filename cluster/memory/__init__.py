"""``leworld memory``: memories on disk and behind servers, from the command line."""
