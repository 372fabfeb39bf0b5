"""Reports that people look at: what is in the data, what training makes of it, what was found."""
