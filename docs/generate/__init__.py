"""Pages and data of the site that are written from the code."""
