"""Programs for those who work on the models; no part of the installed package."""
