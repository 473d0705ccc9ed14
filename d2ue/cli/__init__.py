"""The commands, a file a group. Imports every room; nothing imports it."""
