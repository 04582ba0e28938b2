"""A row of a file becomes an example: its columns, its roles, its marks, or the reason why it cannot be used."""
