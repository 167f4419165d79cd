"""One file per migration, in order; there is one head."""
