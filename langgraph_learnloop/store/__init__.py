"""Records come in and are kept in one SQL database; records go out, by id, by thread, by state."""
