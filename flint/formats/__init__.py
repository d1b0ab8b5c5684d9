"""How dates look: sortable, to the second, in UTC."""
