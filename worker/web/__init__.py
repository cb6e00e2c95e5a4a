"""The web page and its JSON API: what the database holds, where people look."""
