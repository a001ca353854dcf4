"""Callbacks of a running agent come in; Run records and interned messages go out to a sink."""
