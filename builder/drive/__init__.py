"""Drives a plan through DVC: ready stages at once, a device each, groups that end with the build."""
