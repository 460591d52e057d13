"""What host and control side both read of the machine they run on: files by handle, commands."""
