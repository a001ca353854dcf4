"""Vendors: one file a vendor and role, each filling one port; nothing in the package imports this folder."""
